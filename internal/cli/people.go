package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
)

// pages reads a whole list, some of it at a time; at most so much of it, 0: all.
func pages[T any](ctx context.Context, c *api.Client, path string, query url.Values, most int) ([]T, error) {
	all := []T{}
	for {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		some := 1000
		if most > 0 {
			some = min(most-len(all), some)
		}
		query.Set("limit", strconv.Itoa(some))
		if err := c.Read(ctx, path, query, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" || most > 0 && len(all) >= most {
			return all, nil
		}
		query.Set("after", page.Next)
	}
}

// limitFlag is how much of a list is shown.
func limitFlag(cmd *cobra.Command) func() (int, error) {
	n := cmd.Flags().Int("limit", 100, "at most so many")
	return func() (int, error) {
		if *n < 1 {
			return 0, usagef("--limit %d: must be 1 or more", *n)
		}
		return *n, nil
	}
}

func newUserCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Users of the platform; for administrators",
		Long: `Users of the platform, for administrators. Each has one role: a viewer may look; an applicant may also file requests; an approver
may also decide upon those of others and stop what runs; an administrator may do everything, but not approve the own requests.`,
	}
	p := newPlatform(a, cmd)
	list := &cobra.Command{Use: "list", Short: "List users", Example: "  turnout user list", Args: cobra.NoArgs}
	limit := limitFlag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		most, err := limit()
		if err != nil {
			return err
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			all, err := pages[people.User](ctx, c, "/users", url.Values{}, most)
			if err != nil {
				return err
			}
			return p.show(all, func(w io.Writer) {
				row(w, "USER", "ROLE", "STATE", "CHANGED")
				for _, u := range all {
					state := "active"
					switch {
					case u.Disabled:
						state = "disabled"
					case u.Invited:
						state = "invited"
					}
					row(w, u.Name, u.Role, state, u.UpdatedAt.Local().Format(time.DateTime))
				}
			})
		})
	}
	var role string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a user", Args: cobra.ExactArgs(1),
		Long:    "Make a user. The answer has a one-time token, with which the user sets a password: turnout login --claim.",
		Example: "  turnout user create alice --role applicant",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				var made struct {
					people.User
					Invitation *people.Invitation `json:"invitation"`
				}
				if err := c.Change(ctx, http.MethodPost, "/users", 0, people.NewUser{Name: args[0], Role: people.Role(role)}, &made); err != nil {
					return err
				}
				return p.show(made, func(w io.Writer) {
					field(w, "user", made.Name)
					field(w, "role", made.Role)
					p.showInvitation(w, made.Invitation)
				})
			})
		},
	}
	create.Flags().StringVar(&role, "role", "applicant", "viewer, applicant, approver or administrator")
	cmd.AddCommand(list, create, newUserInvite(p), newUserRole(p),
		newUserSwitch(p, "disable", "Let a user not log in any more; sessions and tokens end"), newUserSwitch(p, "enable", "Let a user log in again"))
	return cmd
}

func (p *platform) showInvitation(w io.Writer, i *people.Invitation) {
	if i != nil {
		field(w, "one-time token", i.Token)
		field(w, "good until", i.Expires.Local().Format(time.DateTime))
	}
}

func newUserInvite(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "invite NAME", Short: "Make a one-time token for setting a new password", Args: cobra.ExactArgs(1),
		Example: "  turnout user invite alice",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				i := &people.Invitation{}
				if err := c.Change(ctx, http.MethodPost, "/users/"+url.PathEscape(args[0])+"/invitation", 0, nil, i); err != nil {
					return err
				}
				return p.show(i, func(w io.Writer) { p.showInvitation(w, i) })
			})
		},
	}
}

// changeUser changes a user as it is now.
func (p *platform) changeUser(cmd *cobra.Command, name, method, what string, in any) error {
	return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
		path := "/users/" + url.PathEscape(name)
		var u people.User
		if err := c.Read(ctx, path, nil, &u); err != nil {
			return err
		}
		if err := c.Change(ctx, method, path+what, u.Version, in, &u); err != nil {
			return err
		}
		return p.show(u, func(w io.Writer) {
			field(w, "user", u.Name)
			field(w, "role", u.Role)
			field(w, "disabled", u.Disabled)
		})
	})
}

func newUserRole(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "role NAME ROLE", Short: "Give a user another role", Args: cobra.ExactArgs(2),
		Example: "  turnout user role alice approver",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.changeUser(cmd, args[0], http.MethodPut, "/role", map[string]string{"role": args[1]})
		},
	}
}

func newUserSwitch(p *platform, what, short string) *cobra.Command {
	return &cobra.Command{
		Use: what + " NAME", Short: short, Args: cobra.ExactArgs(1), Example: "  turnout user " + what + " alice",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.changeUser(cmd, args[0], http.MethodPost, "/"+what, nil)
		},
	}
}

func newAuditCommand(a *app) *cobra.Command {
	q := url.Values{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who changed what on the platform, the newest first",
		Long: `Show who changed what on the platform, the newest first, by any of the flags together. With --output json each has what was
there before and after.`,
		Example: `  turnout audit --request r-12
  turnout audit --who alice --from 2026-11-01T00:00:00Z --output json`,
		Args: cobra.NoArgs,
	}
	p := newPlatform(a, cmd)
	filters := map[string]*string{}
	for name, usage := range map[string]string{
		"who": "made by this user", "action": "such as create, approve", "kind": "of what was changed: request, topic, user …", "subject": "name or id of what was changed",
		"request": "of this request", "address": "from this address", "from": "at this time or later, like 2026-11-01T00:00:00Z", "until": "before this time",
	} {
		filters[name] = cmd.Flags().String(name, "", usage)
	}
	limit := limitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		most, err := limit()
		if err != nil {
			return err
		}
		for name, value := range filters {
			if *value != "" {
				q.Set(name, *value)
			}
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			all, err := pages[store.Audit](ctx, c, "/audit", q, most)
			if err != nil {
				return err
			}
			return p.show(all, func(w io.Writer) {
				row(w, "AT", "WHO", "ACTION", "KIND", "SUBJECT", "REQUEST", "BY", "FROM")
				for _, e := range all {
					row(w, e.At.Local().Format(time.DateTime), e.Who, e.Action, e.Kind, e.Subject, e.Request, e.Via, e.Address)
				}
			})
		})
	}
	return cmd
}

func newTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens of the platform", Long: "Tokens of the platform, for programs. Make one with: turnout login, or in a session with POST /api/v1/tokens."}
	p := newPlatform(a, cmd)
	list := &cobra.Command{Use: "list", Short: "List tokens, without their secrets", Example: "  turnout token list\n  turnout token list --owner '*'", Args: cobra.NoArgs}
	owner := list.Flags().String("owner", "", "of this user, or * for everybody; for administrators (default: one's own)")
	limit := limitFlag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		most, err := limit()
		if err != nil {
			return err
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			q := url.Values{}
			if *owner != "" {
				q.Set("owner", *owner)
			}
			all, err := pages[people.Token](ctx, c, "/tokens", q, most)
			if err != nil {
				return err
			}
			return p.show(all, func(w io.Writer) {
				row(w, "TOKEN", "NAME", "OWNER", "SCOPES", "EXPIRES", "LAST USED")
				for _, t := range all {
					used := ""
					if t.UsedAt != nil {
						used = t.UsedAt.Local().Format(time.DateTime)
					}
					row(w, t.ID, t.Name, t.Owner, joined(t.Scopes), t.ExpiresAt.Local().Format(time.DateTime), used)
				}
			})
		})
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "End a token", Example: "  turnout token revoke t-3", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				if err := c.Change(ctx, http.MethodDelete, "/tokens/"+url.PathEscape(args[0]), 0, nil, nil); err != nil {
					return err
				}
				return p.show(map[string]string{"revoked": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "token %s revoked\n", args[0]) })
			})
		},
	}
	cmd.AddCommand(list, revoke)
	return cmd
}
