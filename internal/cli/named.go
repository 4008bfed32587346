package cli

import (
	"cmp"
	"errors"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/server/api"
)

// named is what a server has refused, with its fields called as whoever gives the command knows them.
func named(cmd *cobra.Command, err error) string {
	text := flat(err)
	var refused *api.Error
	if errors.As(err, &refused) {
		for _, f := range refused.Errors {
			if f.Field != "" {
				text = strings.ReplaceAll(text, f.Field+": ", given(cmd, f.Field)+": ")
			}
		}
	}
	return text
}

var (
	fieldRule = regexp.MustCompile(`^(body|query|path)(?:\.\w+(?:\[\d+\])?)*\.([A-Za-z]+)(?:\[\d+\])?$`)
	humpRule  = regexp.MustCompile(`[A-Z]+`)
	otherwise = map[string]string{"expires": "life"} // flags that have another name
)

// given is where a command has a field of the API from: the document of --file, a flag, or an argument.
func given(cmd *cobra.Command, field string) string {
	if rest, is := strings.CutPrefix(field, "body."); is && cmd.Flags().Lookup("file") != nil {
		return rest + " in --file"
	}
	m := fieldRule.FindStringSubmatch(field)
	if m == nil {
		return field
	}
	flag := cmp.Or(otherwise[m[2]], strings.ToLower(humpRule.ReplaceAllString(m[2], "-$0")))
	if cmd.Flags().Lookup(flag) != nil {
		return "--" + flag
	}
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if word = strings.Trim(word, "[]"); word == strings.ToUpper(m[2]) || m[1] == "path" && word == strings.ToUpper(word) {
			return word
		}
	}
	return field
}
