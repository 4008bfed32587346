package cli

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// shownSetting is a setting with the value that is in force.
type shownSetting struct {
	Name        string `json:"name"`
	Of          string `json:"of"`
	Value       string `json:"value"`
	From        string `json:"from"`
	Default     string `json:"default"`
	Environment string `json:"environment"`
	Meaning     string `json:"meaning"`
}

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Look at the settings",
		Long: `Look at the settings of turnout serve and of all other commands. Each is a flag, a variable of the environment and a line of the
settings file; a flag counts before the environment, the environment before the file.`,
	}
	cmd.AddCommand(newConfigCheckCommand(a), newConfigExampleCommand(a))
	return cmd
}

func newConfigCheckCommand(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Show every setting: the value in force, where it is from, its default and its meaning",
		Long: `Show every setting: the value in force, where it is from, its default and its meaning, and check them as turnout serve does at
its start: exit code 2 with what is wrong. It takes the flags of turnout serve. Nothing is connected to, and no secret is shown;
variables and files that secrets refer to are read.`,
		Example: `  turnout config check
  turnout config check --config /etc/turnout/serve.yaml
  turnout config check -o json`,
		Args: cobra.NoArgs,
	}
	p := newPlatform(a, cmd)
	addSettings(cmd.Flags(), o.define)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list := a.inForce(cmd.Flags(), implied(o))
		if err := a.show(list, func(w io.Writer) {
			row(w, "SETTING", "VALUE", "FROM", "DEFAULT", "MEANING")
			for _, s := range list {
				row(w, s.Name, s.Value, s.From, s.Default, s.Meaning)
			}
		}); err != nil {
			return err
		}
		if p.server != "" {
			if err := p.named(); err != nil {
				return err
			}
		}
		_, err := a.serverConfig(o)
		return err
	}
	return cmd
}

func newConfigExampleCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "example",
		Short:   "Print a settings file with every setting, commented out, with its meaning and default",
		Example: "  turnout config example > turnout.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.show(map[string]string{"file": exampleFile()}, func(w io.Writer) { fmt.Fprint(w, exampleFile()) })
		},
	}
}

// inForce are all settings with their values in f, and implied by name what is in force of those that nobody has given.
func (a *app) inForce(f *pflag.FlagSet, implied map[string]string) (list []shownSetting) {
	for _, scope := range scopes {
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		scope.define(set)
		set.VisitAll(func(d *pflag.Flag) {
			in := cmp.Or(value(f.Lookup(d.Name)), implied[d.Name])
			list = append(list, shownSetting{Name: d.Name, Of: scope.name, Value: shown(d.Name, in), From: a.settings.source(d.Name), Default: value0(d), Environment: envName(d.Name), Meaning: meaning(d)})
		})
	}
	return list
}

// implied are the defaults that depend on this machine and on other settings.
func implied(o serveOptions) map[string]string {
	m := map[string]string{}
	if o.database == "" {
		// An error is that of the check, which follows.
		if m[databaseName], _ = defaultStore(o.dataDir); m[databaseName] != "" {
			m["data-dir"] = filepath.Dir(strings.TrimPrefix(m[databaseName], sqliteScheme))
		}
	}
	m["url"] = "(known when it listens)"
	if a, err := netip.ParseAddrPort(o.listen); err == nil && a.Port() != 0 && !a.Addr().IsUnspecified() {
		m["url"] = "http://" + a.String()
	}
	if path, err := defaultFile(); err == nil {
		if _, err := os.Stat(path); err == nil {
			m[configName] = path
		}
	}
	return m
}

// value is that of a flag as it can be written.
func value(f *pflag.Flag) string {
	if list, is := f.Value.(pflag.SliceValue); is {
		return strings.Join(list.GetSlice(), ",")
	}
	return f.Value.String()
}

// value0 is the default of a flag that was not set.
func value0(f *pflag.Flag) string {
	if text, said := saidDefault(f); said {
		return text
	}
	return value(f)
}

var defaultRule = regexp.MustCompile(`[;,]? ?\(?default: ([^()]*)\)?$`)

// saidDefault is the default that a flag explains in its text.
func saidDefault(f *pflag.Flag) (string, bool) {
	m := defaultRule.FindStringSubmatch(f.Usage)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// meaning is what a flag says of itself, without its default.
func meaning(f *pflag.Flag) string { return defaultRule.ReplaceAllString(f.Usage, "") }

// source is where the value of a setting is from.
func (s *settings) source(name string) string {
	if from := s.from[name]; from != "" {
		return from
	}
	return "default"
}

var (
	referenceRule = regexp.MustCompile(`^(digest:)?(env|file):[^:]+$`)
	secretRefs    = map[string]bool{"zookeeper-auth": true, "webhook-secret": true}
)

const notShown = "(not shown)"

// shown is a value without what may be a secret: in a URL, or written where a reference to one belongs.
func shown(name, value string) string {
	switch {
	case value == "":
	case secretRefs[name]:
		if !referenceRule.MatchString(value) {
			return notShown
		}
	case name == webhookName, name == databaseName, name == "server", name == "url":
		u, err := url.Parse(value)
		switch {
		case err != nil, u.User != nil && u.User.String() != u.User.Username(), strings.Contains(value, "password"):
			return notShown
		case name == webhookName && len(u.RequestURI()) > 1:
			return u.Scheme + "://" + u.Host + "/… " + notShown
		}
	}
	return value
}

// exampleFile is a file with all settings, none of which is in force.
func exampleFile() string {
	var b strings.Builder
	b.WriteString("# Settings of Turnout: for --config, or turnout/config in the user's configuration folder.\n" +
		"# A flag counts before the environment (" + envName("zookeeper") + "), the environment before this file. turnout config check shows what is in force.\n")
	for _, scope := range scopes {
		fmt.Fprintf(&b, "\n# Of %s\n", scope.name)
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		scope.define(set)
		set.VisitAll(func(f *pflag.Flag) {
			if f.Name == configName {
				return
			}
			text := f.Usage
			if _, said := saidDefault(f); !said && value(f) != "" {
				text += " (default: " + value(f) + ")"
			}
			fmt.Fprintf(&b, "\n# %s\n#%s: %s\n", text, f.Name, value(f))
		})
	}
	return b.String()
}
