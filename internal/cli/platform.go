package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/metadata"
)

// platform is what every command has that asks a server: how to reach one, and as whom.
type platform struct {
	*app
	server, tokenFile string
}

// newPlatform gives a command the flags.
func newPlatform(a *app, cmd *cobra.Command) *platform {
	p := &platform{app: a}
	addSettings(cmd.PersistentFlags(), p.define)
	return p
}

// define makes the flags.
func (p *platform) define(f *pflag.FlagSet) {
	f.StringVar(&p.server, "server", "", "URL of a server (default: TURNOUT_SERVER, else one that is registered in ZooKeeper)")
	f.StringVar(&p.tokenFile, "token-file", "", "file that holds a token of the platform (default: TURNOUT_TOKEN, else that of turnout login)")
}

// client makes the client of a command. Close it.
func (p *platform) client(patience time.Duration) (*api.Client, error) {
	if err := p.named(); err != nil {
		return nil, err
	}
	token, err := p.token()
	if err != nil {
		return nil, err
	}
	troubled := false
	return api.New(p.find, api.Options{Token: token, Patience: patience, Trouble: func(err error) {
		if !troubled {
			fmt.Fprintf(p.stderr, "turnout: %v; trying again for up to %v\n", err, patience)
		}
		troubled = true
	}}), nil
}

// named sees that it is said which platform is meant.
func (p *platform) named() error {
	switch {
	case p.server != "":
		if err := api.CheckURL(p.server); err != nil {
			return usagef("server %q (--server, TURNOUT_SERVER or the settings file): %w", p.server, err)
		}
	case p.settings.zookeeper == "":
		return usagef("which platform? Give --server or set TURNOUT_SERVER, or give --zookeeper or set TURNOUT_ZOOKEEPER, where its servers are registered")
	}
	return nil
}

// find is the server that was named, or those that are registered in ZooKeeper.
func (p *platform) find(ctx context.Context) (urls []string, err error) {
	if p.server != "" {
		return []string{p.server}, nil
	}
	err = p.withStore(ctx, func(ctx context.Context, s *metadata.Store) error {
		urls, err = api.Find(ctx, s)
		return err
	})
	return urls, err
}

// with makes a client for one question; all of it may take as long as --timeout says, or limit where that was not given.
func (p *platform) with(cmd *cobra.Command, limit time.Duration, use func(context.Context, *api.Client) error) error {
	c, err := p.client(0)
	if err != nil {
		return err
	}
	defer c.Close()
	if limit == 0 || cmd.Flags().Changed("timeout") {
		limit = p.settings.timeout
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	return use(ctx, c)
}

// token is what is in the file, else in the environment, else what turnout login has kept for this platform; "": none.
func (p *platform) token() (string, error) {
	token, from := p.getenv("TURNOUT_TOKEN"), "TURNOUT_TOKEN"
	switch {
	case p.tokenFile != "":
		data, err := os.ReadFile(p.tokenFile)
		if err != nil {
			return "", usagef("--token-file: %w", err)
		}
		if token, from = strings.TrimSpace(string(data)), "--token-file"; token == "" {
			return "", usagef("--token-file: there is nothing in %s", p.tokenFile)
		}
	case token == "":
		kept, err := p.logins()
		if err != nil {
			return "", err
		}
		token, from = kept[p.place()], "the file of turnout login"
	}
	if token == "" {
		return "", nil
	}
	if err := api.CheckToken(token); err != nil {
		return "", usagef("%s: %w", from, err)
	}
	return token, nil
}

// place is the name of a platform in the file of tokens, which are given to no other one.
func (p *platform) place() string {
	if p.server != "" {
		return strings.TrimSuffix(p.server, "/")
	}
	return "zookeeper " + p.settings.zookeeper + " " + p.settings.root
}

// loginsFile is where turnout login keeps tokens.
func (p *platform) loginsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usagef("where are tokens kept? %w; give --token-file or TURNOUT_TOKEN", err)
	}
	return filepath.Join(dir, "turnout", "logins.json"), nil
}

// logins are the tokens that were kept, by place.
func (p *platform) logins() (map[string]string, error) {
	kept := map[string]string{}
	path, err := p.loginsFile()
	if err != nil {
		return kept, nil //nolint:nilerr // no home, no file
	}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kept, nil
	case err != nil:
		return nil, usagef("tokens of turnout login: %w", err)
	}
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, usagef("tokens of turnout login: %s is not what that has written; remove it and log in again", path)
	}
	return kept, nil
}

// keep stores the token of this platform; "" forgets it.
func (p *platform) keep(token string) error {
	kept, err := p.logins()
	if err != nil {
		return err
	}
	path, err := p.loginsFile()
	if err != nil {
		return err
	}
	if token == "" {
		delete(kept, p.place())
	} else {
		kept[p.place()] = token
	}
	data, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// Whole or not at all.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".logins-*") // for its owner only
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
