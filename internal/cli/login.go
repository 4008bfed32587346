package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
)

func newLoginCommand(a *app) *cobra.Command {
	var name, life string
	var scopes []string
	var claim bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to the platform",
		Long: `Log in to the platform: the password is asked for, or read as a line of standard input. What is kept is a token, in
turnout/logins.json of the user's configuration folder, for this platform only; turnout logout ends it.

With --claim a one-time token is asked for first, and the password is set with it: that of the first start of turnout serve,
which makes the first administrator, or an invitation. On a terminal the new password is asked for twice.`,
		Example: `  turnout login --name alice
  turnout login --claim --name admin
  turnout login --name pipeline --scope read --life 24h < password`,
		Args: cobra.NoArgs,
	}
	p := newPlatform(a, cmd)
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "name on the platform (default: that on this machine)")
	f.BoolVar(&claim, "claim", false, "set the password with a one-time token")
	f.StringSliceVar(&scopes, "scope", nil, "what may be done with the token: read, apply, approve, operate, admin (default: all that the user may)")
	f.StringVar(&life, "life", "720h", "how long the token is good")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		lasts, err := time.ParseDuration(life)
		if err != nil || lasts <= 0 {
			return usagef("--life %q: must be a duration like 24h", life)
		}
		if name == "" {
			u, err := user.Current()
			if err != nil {
				return usagef("who are you? Give --name")
			}
			name = u.Username
		}
		if err := p.named(); err != nil {
			return err
		}
		return p.login(cmd, name, claim, people.NewToken{Scopes: permissions(scopes), Expires: time.Now().Add(lasts)})
	}
	return cmd
}

func permissions(words []string) (list []people.Permission) {
	for _, w := range words {
		list = append(list, people.Permission(w))
	}
	return list
}

func (p *platform) login(cmd *cobra.Command, name string, claim bool, t people.NewToken) error {
	in := bufio.NewReader(p.stdin)
	once := ""
	var err error
	if claim {
		if once, err = p.secret(in, "one-time token: "); err != nil {
			return err
		}
	}
	password, err := p.secret(in, "password of "+name+": ")
	if err != nil {
		return err
	}
	if claim && p.typed() { // it is shown to nobody, and what was mistyped could not be typed again
		again, err := p.secret(in, "the same password again: ")
		if err != nil {
			return err
		}
		if again != password {
			return usagef("the two passwords differ: nothing was set, and the one-time token is good still: say the command again")
		}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), p.settings.timeout)
	defer cancel()
	urls, err := p.find(ctx)
	if err != nil {
		return err
	}
	// A server whose process has died is registered until its session ends.
	for i, u := range urls {
		if err = p.loginAt(ctx, u, name, once, password, t); !errors.Is(err, api.ErrUnavailable) || i == len(urls)-1 {
			break
		}
	}
	return err
}

func (p *platform) loginAt(ctx context.Context, url, name, once, password string, t people.NewToken) error {
	if once != "" {
		c := api.New(func(context.Context) ([]string, error) { return []string{url}, nil }, api.Options{})
		defer c.Close()
		body := map[string]string{"token": once, "name": name, "password": password}
		if err := c.Once(ctx, http.MethodPost, "/claim", body, nil); err != nil {
			return err
		}
	}
	host, _ := os.Hostname() // for people
	t.Name = strings.TrimSpace("turnout login " + host)
	token, secret, err := api.LogIn(ctx, url, name, password, t)
	if err != nil {
		return err
	}
	if err := p.keep(secret); err != nil {
		return err
	}
	return p.show(token, func(w io.Writer) {
		fmt.Fprintf(w, "logged in as %s until %s\n", name, token.ExpiresAt.Local().Format(time.DateTime))
	})
}

// typed says that somebody types what is read.
func (p *platform) typed() bool {
	f, is := p.stdin.(*os.File)
	return is && term.IsTerminal(int(f.Fd()))
}

// secret asks for something that is not shown, or reads a line where nobody types.
func (p *platform) secret(in *bufio.Reader, prompt string) (string, error) {
	if p.typed() {
		fmt.Fprint(p.stderr, prompt)
		typed, err := term.ReadPassword(int(p.stdin.(*os.File).Fd()))
		fmt.Fprintln(p.stderr)
		return string(typed), err
	}
	line, err := in.ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", usagef("%s: nothing was given on standard input (%v)", strings.TrimSuffix(prompt, ": "), err)
	}
	return line, nil
}

func newLogoutCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "logout",
		Short:   "End the token of turnout login",
		Long:    "End the token that turnout login has kept for this platform, and forget it.",
		Example: "  turnout logout",
		Args:    cobra.NoArgs,
	}
	p := newPlatform(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			var me people.Principal
			err := c.Read(ctx, "/session", nil, &me)
			if id, is := strings.CutPrefix(me.Via, "token "); err == nil && is {
				err = c.Change(ctx, http.MethodDelete, "/tokens/"+id, 0, nil, nil)
			}
			if err != nil && !errors.Is(err, people.ErrUnauthenticated) { // it is over already
				return err
			}
			if err := p.keep(""); err != nil {
				return err
			}
			return p.show(map[string]bool{"loggedOut": true}, func(w io.Writer) { fmt.Fprintln(w, "logged out") })
		})
	}
	return cmd
}

func newWhoamiCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "whoami",
		Short:   "Show who is logged in, and what may be done",
		Example: "  turnout whoami",
		Args:    cobra.NoArgs,
	}
	p := newPlatform(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			var me struct {
				people.Principal
				Permissions []people.Permission `json:"permissions"`
			}
			if err := c.Read(ctx, "/session", nil, &me); err != nil {
				return err
			}
			return p.show(me, func(w io.Writer) {
				field(w, "user", me.Name)
				field(w, "role", me.Role)
				field(w, "by", me.Via)
				field(w, "may", joined(me.Permissions))
			})
		})
	}
	return cmd
}

func joined[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return strings.Join(words, ", ")
}
