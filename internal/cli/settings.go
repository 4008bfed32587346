package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/turnout-mq/turnout/metadata"
)

// settings are what every command shares. Each is a flag; a flag that is not given takes its value from the
// environment (TURNOUT_ and the name in capitals), else from the settings file, else its default.
type settings struct {
	zookeeper  string
	auth       string
	useTLS     bool
	files      metadata.TLS
	root       string
	shadowRoot string
	output     string
	timeout    time.Duration
	config     string
}

func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.zookeeper, "zookeeper", "", "servers of ZooKeeper: host:port,host:port[/chroot]")
	f.StringVar(&s.auth, "zookeeper-auth", "", "log in to ZooKeeper: digest:env:NAME or digest:file:PATH, a variable or file that holds user:password")
	f.BoolVar(&s.useTLS, "zookeeper-tls", false, "TLS to ZooKeeper, whose addresses are then those of its secure port; any of the four below turns it on, too")
	f.StringVar(&s.files.CA, "zookeeper-tls-ca", "", "file with the certificates to trust; default: the system's")
	f.StringVar(&s.files.Cert, "zookeeper-tls-cert", "", "file with our certificate")
	f.StringVar(&s.files.Key, "zookeeper-tls-key", "", "file with its key")
	f.StringVar(&s.files.ServerName, "zookeeper-tls-server-name", "", "name that ZooKeeper's certificate must have; default: the host of its address")
	f.StringVar(&s.root, "root", "/turnout", "the node that Turnout's own nodes are below")
	f.StringVar(&s.shadowRoot, "shadow-root", metadata.DefaultShadowRoot, "the node that the flags of shadow groups are below")
	f.StringVarP(&s.output, "output", "o", "text", "text or json")
	f.DurationVar(&s.timeout, "timeout", 10*time.Second, "how long a command may take; for those that follow something: how long connecting may take; for stress run: one send")
	f.StringVar(&s.config, "config", "", "settings file: lines name = value, or a JSON object (default: turnout/config in the user's configuration folder, if there is one)")
}

// complete fills in what the command line did not say and checks the result. The flags in f may belong to other commands too;
// only those of settings are looked at.
func (s *settings) complete(f *pflag.FlagSet, getenv func(string) string) error {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(settings).flags(own)
	own.String("server", "", "") // of the commands that speak to a platform
	own.String("token-file", "", "")
	fill := func(name, value, source string) error {
		if f.Lookup(name) == nil || f.Changed(name) {
			return nil
		}
		if err := f.Set(name, value); err != nil {
			return usagef("%s: %q is no value for %s: %w; correct it or remove it", source, value, name, err)
		}
		return nil
	}
	var err error
	own.VisitAll(func(flag *pflag.Flag) {
		env := envName(flag.Name)
		if v := getenv(env); v != "" && err == nil {
			err = fill(flag.Name, v, "environment variable "+env)
		}
	})
	if err != nil {
		return err
	}
	path, values, err := s.readFile(getenv)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if own.Lookup(name) == nil || name == "config" {
			var known []string
			own.VisitAll(func(f *pflag.Flag) {
				if f.Name != "config" {
					known = append(known, f.Name)
				}
			})
			return usagef("settings file %s: %q is not a setting; the settings are %s", path, name, strings.Join(known, ", "))
		}
		if err := fill(name, values[name], "settings file "+path); err != nil {
			return err
		}
	}
	return s.check()
}

func (s *settings) check() error {
	var errs []error
	if s.output != "text" && s.output != "json" {
		errs = append(errs, fmt.Errorf("output is %q: must be text or json", s.output))
	}
	if s.timeout <= 0 {
		errs = append(errs, fmt.Errorf("timeout is %v: must be more than 0, e.g. 10s", s.timeout))
	}
	if scheme, reference := s.login(); scheme != "" {
		if scheme != "digest" {
			errs = append(errs, errors.New("zookeeper-auth (not shown): must be digest:env:NAME or digest:file:PATH"))
		} else if _, err := metadata.ResolveSecret(reference); err != nil {
			errs = append(errs, fmt.Errorf("zookeeper-auth: %w", err))
		}
	}
	if t := s.tls(); t != nil {
		if (t.Cert == "") != (t.Key == "") {
			errs = append(errs, fmt.Errorf("zookeeper-tls-cert is %q and zookeeper-tls-key %q: must be given together", t.Cert, t.Key))
		} else if _, err := t.Config(); err != nil {
			errs = append(errs, fmt.Errorf("zookeeper-tls: %w", err))
		}
	}
	if len(errs) > 0 {
		return usagef("%w", errors.Join(errs...))
	}
	return nil
}

// login splits the setting zookeeper-auth; an empty scheme means none.
func (s *settings) login() (scheme, reference string) {
	scheme, reference, _ = strings.Cut(s.auth, ":")
	return scheme, reference
}

// tls is how to talk to ZooKeeper; nil: without TLS.
func (s *settings) tls() *metadata.TLS {
	f := s.files
	if !s.useTLS && f.CA == "" && f.Cert == "" && f.Key == "" && f.ServerName == "" {
		return nil
	}
	return &f
}

func envName(flag string) string {
	return "TURNOUT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readFile reads the settings file. One that was asked for must exist, the default one need not.
func (s *settings) readFile(getenv func(string) string) (path string, values map[string]string, err error) {
	path = s.config
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return "", nil, nil //nolint:nilerr // no home, no file
		}
		path = filepath.Join(dir, "turnout", "config")
	}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.config == "":
		return "", nil, nil
	case err != nil:
		return "", nil, usagef("settings file: %w; correct --config or TURNOUT_CONFIG", err)
	}
	values, err = parseSettings(b)
	if err != nil {
		return "", nil, usagef("settings file %s: %w", path, err)
	}
	return path, values, nil
}

// parseSettings reads a JSON object, or lines "name = value" with # comments.
func parseSettings(b []byte) (map[string]string, error) {
	values := map[string]string{}
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '{' {
		if err := json.Unmarshal(b, &values); err != nil {
			return nil, fmt.Errorf("must be a JSON object of strings: %w", err)
		}
		return values, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d: %q: must be name = value", n, line)
		}
		if _, ok := values[name]; ok {
			return nil, fmt.Errorf("line %d: %s is there twice; keep one", n, name)
		}
		values[name] = value
	}
	return values, lines.Err()
}
