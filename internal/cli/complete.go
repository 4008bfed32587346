package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	completeLimit = 2 * time.Second // somebody waits with a finger on the tab key
	completeMost  = 200
)

// source is where names come from that can be completed: from ZooKeeper where that is known, else from the platform.
type source struct {
	words []string // always these
	meta  func(context.Context, *metadata.Store) ([]string, error)
	path  string // of the API; "": none
}

var (
	topics      = source{meta: func(ctx context.Context, s *metadata.Store) ([]string, error) { return s.ListTopics(ctx) }, path: "/topics"}
	groups      = source{meta: func(ctx context.Context, s *metadata.Store) ([]string, error) { return s.ListGroups(ctx) }, path: "/groups"}
	allClusters = source{meta: func(ctx context.Context, s *metadata.Store) ([]string, error) { return s.ListClusters(ctx) }, path: "/clusters"}
	apps        = source{meta: func(ctx context.Context, s *metadata.Store) ([]string, error) { return s.ListApps(ctx) }}
	users       = source{path: "/users"}
)

// wordSources says what the words in the Use of a command stand for.
var wordSources = map[string]source{
	"TOPIC": topics, "GROUP": groups, "CLUSTER": allClusters, "APP": apps, "USER": users,
	"RULE": {path: "/rules"}, "KIND": {words: requests.Kinds}, "ROLE": {words: roleNames()},
}

// commandSources says what ID and NAME stand for, by the command above.
var commandSources = map[string]source{
	"request": {path: "/requests"}, "migrate": {path: "/migrations"}, "drift": {path: "/drift"}, "token": {path: "/tokens"}, "stress": {path: "/stress"},
	"user": users, "import": allClusters,
}

// flagSources says what flags are completed with, in every command that has them.
var flagSources = map[string]source{
	"topic": topics, "group": groups, "cluster": allClusters, "to": allClusters, "app": apps,
	"output": {words: []string{"text", "json"}}, "log-level": {words: []string{"debug", "info", "warn", "error"}}, "role": {words: roleNames()},
}

func roleNames() (names []string) {
	for _, r := range []people.Role{people.Viewer, people.Applicant, people.Approver, people.Administrator} {
		names = append(names, string(r))
	}
	return names
}

// completable lets the shell complete the arguments and flags of a command.
func completable(cmd *cobra.Command, a *app) {
	var words []string
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if strings.HasPrefix(word, "-") {
			words = nil // what is behind is of flags
			break
		}
		words = append(words, word)
	}
	if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			return a.completeArgument(cmd, words, args, begun)
		}
	}
	register := func(f *pflag.Flag) {
		if s, is := flagSources[f.Name]; is {
			// The only error is that there is one already.
			_ = cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
				return a.names(cmd, s, nil, begun), cobra.ShellCompDirectiveNoFileComp
			})
		}
	}
	cmd.Flags().VisitAll(register)
	cmd.PersistentFlags().VisitAll(register)
}

func (a *app) completeArgument(cmd *cobra.Command, words, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	n := len(args)
	if last := len(words) - 1; last >= 0 && n > last && strings.HasSuffix(words[last], "...") {
		n = last
	}
	if n >= len(words) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	word := strings.Trim(words[n], "[].")
	s, is := wordSources[word]
	switch {
	case is:
	case word == "FILE":
		return nil, cobra.ShellCompDirectiveDefault
	case word == "ID" || word == "NAME":
		s = commandSources[cmd.Parent().Name()]
	}
	return a.names(cmd, s, args, begun), cobra.ShellCompDirectiveNoFileComp
}

// names are those that begin like what was typed, without those that were given. What goes wrong is no name.
func (a *app) names(cmd *cobra.Command, s source, given []string, begun string) []string {
	found := s.words
	if s.meta != nil || s.path != "" {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeLimit)
		defer cancel()
		found, _ = a.ask(ctx, cmd, s, begun) // nobody would read the error
	}
	var list []string
	for _, name := range found {
		plain, _, _ := strings.Cut(name, "\t")
		if strings.HasPrefix(plain, begun) && !slices.Contains(given, plain) && len(list) < completeMost {
			list = append(list, name)
		}
	}
	return list
}

func (a *app) ask(ctx context.Context, cmd *cobra.Command, s source, begun string) ([]string, error) {
	if err := a.settings.complete(cmd.Flags(), a.getenv); err != nil {
		return nil, err
	}
	a.settings.timeout = completeLimit
	if s.meta != nil && a.settings.zookeeper != "" {
		var names []string
		err := a.withStore(ctx, func(ctx context.Context, m *metadata.Store) (err error) {
			names, err = s.meta(ctx, m)
			return err
		})
		return names, err
	}
	if s.path == "" {
		return nil, nil
	}
	// Also of commands that ask ZooKeeper alone and have no such flags.
	p := &platform{app: a}
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	addSettings(own, p.define)
	other := settings{config: a.settings.config, output: "text", timeout: completeLimit}
	if err := other.complete(own, a.getenv); err != nil {
		return nil, err
	}
	if f := cmd.Flags().Lookup("server"); f != nil {
		p.server = cmp.Or(f.Value.String(), p.server)
	}
	if f := cmd.Flags().Lookup("token-file"); f != nil {
		p.tokenFile = cmp.Or(f.Value.String(), p.tokenFile)
	}
	return p.listed(ctx, s, begun)
}

// listed are the names in a list of the API, each with what it is.
func (p *platform) listed(ctx context.Context, s source, begun string) ([]string, error) {
	c, err := p.client(0)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	query := url.Values{}
	if s.meta != nil && begun != "" {
		query.Set("text", begun)
	}
	var answer json.RawMessage
	if err := c.Read(ctx, s.path, query, &answer); err != nil {
		return nil, err
	}
	type item struct{ ID, Name, Kind, Subject, Topic, Target, State, App string }
	var page struct{ Items []item }
	if json.Unmarshal(answer, &page.Items) != nil {
		if err := json.Unmarshal(answer, &page); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, i := range page.Items {
		about := strings.Join(slices.DeleteFunc([]string{i.Kind, i.Subject, i.Topic, i.Target, i.State, i.App}, func(s string) bool { return s == "" }), " ")
		names = append(names, strings.TrimSuffix(cmp.Or(i.ID, i.Name)+"\t"+about, "\t"))
	}
	return names, nil
}

// asksForCompletions says whether the shell asks, which shows people no error.
func asksForCompletions(cmd *cobra.Command) bool {
	return cmd.Name() == cobra.ShellCompRequestCmd || cmd.Name() == cobra.ShellCompNoDescRequestCmd
}
