package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/turnout-mq/turnout/metadata"
)

// settings are what every command shares.
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

	from map[string]string // by setting: where its value is from; none: the default
}

// define makes the flags.
func (s *settings) define(f *pflag.FlagSet) {
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
	f.DurationVar(&s.timeout, "timeout", 10*time.Second, "how long a command may take; for those that follow something, and for serve: how long connecting may take; for stress run: one send")
	f.StringVar(&s.config, configName, "", "settings file: YAML, JSON, or lines name = value (default: turnout/config in the user's configuration folder, if there is one)")
}

// configName is the one setting that can not be in the file.
const configName = "config"

// scopes are all settings, by whom they are for, in the order in which they are shown. Each is a flag of some commands; there one that
// is not given takes its value from the environment (TURNOUT_ and the name in capitals), else from the settings file, else its
// default. Flags that are not here are no settings: they are for one run.
var scopes = []struct {
	name   string
	define func(*pflag.FlagSet)
}{
	{"all commands", func(f *pflag.FlagSet) { new(settings).define(f) }},
	{"turnout serve", func(f *pflag.FlagSet) { new(serveOptions).define(f) }},
	{"commands that ask a server of the platform", func(f *pflag.FlagSet) { new(platform).define(f) }},
}

// settingMark is an annotation of flags that are settings.
const settingMark = "turnout_setting"

// addSettings gives flags that are settings to a command.
func addSettings(f *pflag.FlagSet, define func(*pflag.FlagSet)) {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	define(set)
	set.VisitAll(func(flag *pflag.Flag) { flag.Annotations = map[string][]string{settingMark: nil} })
	f.AddFlagSet(set)
}

// knownSettings are the names of all that can be in a file.
func knownSettings() (names []string) {
	for _, s := range scopes {
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		s.define(set)
		set.VisitAll(func(f *pflag.Flag) {
			if f.Name != configName {
				names = append(names, f.Name)
			}
		})
	}
	return names
}

// complete fills in what the command line did not say and checks the result.
func (s *settings) complete(f *pflag.FlagSet, getenv func(string) string) error {
	s.from = map[string]string{}
	environment := map[string]any{}
	f.VisitAll(func(flag *pflag.Flag) {
		if _, is := flag.Annotations[settingMark]; !is {
			return
		}
		if v := getenv(envName(flag.Name)); v != "" {
			environment[flag.Name] = v
		}
		if flag.Changed {
			s.from[flag.Name] = "flag"
		}
	})
	if path, is := environment[configName]; is && s.config == "" {
		s.config = path.(string)
	}
	path, entries, err := s.readFile()
	if err != nil {
		return err
	}
	inFile := map[string]any{}
	for name, e := range entries {
		inFile[name] = e.value
	}
	k := koanf.New("/") // names are flat
	for _, layer := range []map[string]any{inFile, environment} {
		if err := k.Load(confmap.Provider(layer, "/"), nil); err != nil {
			return err
		}
	}
	for _, name := range k.Keys() {
		flag := f.Lookup(name)
		if flag == nil || flag.Changed {
			continue // of other commands, or said by the flag
		}
		source := fmt.Sprintf("file %s, line %d", path, entries[name].line)
		if _, is := environment[name]; is {
			source = "environment variable " + envName(name)
		}
		if _, is := flag.Annotations[settingMark]; !is {
			continue
		}
		if err := f.Set(name, k.String(name)); err != nil {
			return usagef("%s: %q is no value for %s: %w; correct it or remove it", source, shown(name, k.String(name)), name, err)
		}
		s.from[name] = source
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

// defaultFile is the settings file that need not be named.
func defaultFile() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "turnout", "config"), err
}

// readFile reads the settings file. One that was asked for must exist, the default one need not.
func (s *settings) readFile() (path string, entries map[string]fileEntry, err error) {
	path = s.config
	if path == "" {
		if path, err = defaultFile(); err != nil {
			return "", nil, nil //nolint:nilerr // no home, no file
		}
	}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.config == "":
		return "", nil, nil
	case err != nil:
		return "", nil, usagef("settings file: %w; correct --config or TURNOUT_CONFIG", err)
	}
	if entries, err = parseSettings(b); err != nil {
		return "", nil, usagef("settings file %s: %w", path, err)
	}
	known := knownSettings()
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if slices.Contains(known, name) {
			continue
		}
		remedy := "turnout config check shows all settings"
		if like := nearest(name, known); like != "" {
			remedy = fmt.Sprintf("did you mean %s? %s", like, remedy)
		}
		return "", nil, usagef("settings file %s: line %d: %q is not a setting; %s", path, entries[name].line, name, remedy)
	}
	return path, entries, nil
}
