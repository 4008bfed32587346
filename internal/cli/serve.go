package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
)

// serveOptions are the settings of turnout serve.
type serveOptions struct {
	dataDir, database      string
	listen, url            string
	noLogin, https         bool
	proxies, secrets       []string
	rate                   float64
	webhook, webhookSecret string
	metrics                string
	logLevel               string
	session                time.Duration
}

// define makes the flags.
func (o *serveOptions) define(f *pflag.FlagSet) {
	f.StringVar(&o.dataDir, "data-dir", "", "folder for the store, made when missing (default: turnout in the user's folder for data)")
	f.StringVar(&o.database, databaseName, "", "the store: sqlite:PATH or postgres://USER@HOST/NAME (default: sqlite:turnout.db in --data-dir)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:7070", "address to listen on; port 0 takes a free one")
	f.StringVar(&o.url, "url", "", "URL by which clients reach this server (default: made of the address that it listens on)")
	f.BoolVar(&o.noLogin, "no-login", false, "everybody on this machine may do everything")
	f.BoolVar(&o.https, "https", false, "clients reach this server by https, through a proxy")
	f.StringSliceVar(&o.proxies, "proxy", nil, "addresses or networks of proxies, whose X-Forwarded-For is believed")
	f.StringSliceVar(&o.secrets, "secrets-allow", requests.DefaultPlaces(), "what requests may name as the login of a cluster: env:NAME or file:PATH, a * at the end for any rest")
	f.Float64Var(&o.rate, "request-rate", server.DefaultRate, "how many requests a second each user may make; 0: as many as they like")
	f.StringVar(&o.webhook, webhookName, "", "URL that is told of every change of a request's state and of guards of migrations; the same at all servers of a store")
	f.StringVar(&o.webhookSecret, "webhook-secret", "", "key that notices are signed with: env:NAME or file:PATH (default: they are not signed)")
	f.StringVar(&o.metrics, "metrics-listen", "", "second address, which answers /metrics without a login to everybody who reaches it (default: none; the first one answers /metrics to who may read)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.DurationVar(&o.session, "session-timeout", metadata.DefaultSessionTimeout, "of ZooKeeper: how long the others wait before they take over from a leader that died")
}

// The settings whose values may hold secrets.
const (
	databaseName = "database"
	webhookName  = "webhook"
)

func newServeCommand(a *app) *cobra.Command {
	var o serveOptions
	var recoverAdministrator, adopt bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server of the platform, which carries out migrations",
		Long: `Run a server of the platform. Of all servers of a root one leads and carries out the migrations; each of them answers
turnout migrate. When the leader dies another one goes on where it was, from the store; so all servers of a root need the
same one: a file (SQLite) for servers on one machine, else PostgreSQL.

The store and the root in ZooKeeper are joined the first time, and a server that would work with another store is refused:
it would know neither what runs nor which clusters are to be closed to writers. --adopt joins them anew.

From the first start on the root is managed: turnout topic put does not move its topics any more (unless --force), and edits
of a wish by hand are finished by the platform.

The first start prints a one-time token: with it the first administrator takes a name and a password (turnout login --claim).
Every request below /api/ needs a session or a token of a user. There is no TLS: put a proxy in front where the network is not
trusted, say with --url how clients reach it, with --https that they use TLS, and with --proxy which addresses the proxies have.
With --no-login everybody on this machine may do everything, for demos and tests. /healthz says that the process serves, /readyz
that it can work.

All settings can be in a file (--config) or in the environment: turnout config check shows them, turnout config example prints a file.

SIGINT or SIGTERM stops it in order: the lead is given up at once, requests under way are finished. The second one ends
the process. Logs go to standard error.`,
		Example: `  turnout serve
  turnout serve --data-dir /var/lib/turnout
  turnout serve --no-login
  turnout serve --config /etc/turnout/serve.yaml
  turnout serve --url https://turnout.example.com --https
  PGPASSFILE=/etc/turnout/pgpass turnout serve --database postgres://turnout@db.example.com/turnout`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.serverConfig(o)
			if err != nil {
				return err
			}
			cfg.Recover, cfg.Adopt = recoverAdministrator, adopt
			if o.database == "" {
				if err := os.MkdirAll(filepath.Dir(strings.TrimPrefix(cfg.Database, sqliteScheme)), 0o700); err != nil {
					return usagef("--data-dir: %w", err)
				}
			}
			return serve(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	addSettings(f, o.define)
	f.BoolVar(&recoverAdministrator, "recover", false, "print a one-time token for an administrator again, for when none can log in")
	f.BoolVar(&adopt, "adopt", false, "join a store and a root that do not belong together, after a loss or a restore")
	return cmd
}

// serverConfig is what the settings say, checked; nothing is made or connected to.
func (a *app) serverConfig(o serveOptions) (server.Config, error) {
	var none server.Config
	if _, _, err := splitConnectString("--zookeeper", a.settings.zookeeper); err != nil {
		return none, err
	}
	level, err := zapcore.ParseLevel(o.logLevel)
	if err != nil {
		return none, usagef("--log-level %q: must be debug, info, warn or error", o.logLevel)
	}
	proxies, err := networks(o.proxies)
	if err != nil {
		return none, err
	}
	if o.database != "" && o.dataDir != "" {
		return none, usagef("--database (%s) and --data-dir (%s): give one of them; the folder is where the file of SQLite is", a.settings.source(databaseName), a.settings.source("data-dir"))
	}
	if o.database == "" {
		if o.database, err = defaultStore(o.dataDir); err != nil {
			return none, err
		}
	}
	switch {
	case !(o.rate >= 0): // NaN, too
		return none, usagef("--request-rate %v: must be 0 or more", o.rate)
	case o.rate == 0:
		o.rate = -1
	case len(o.secrets) == 0:
		return none, usagef("--secrets-allow is empty: leave it out, or name at least one place, like env:TURNOUT_CLUSTER_*")
	}
	var webhook *requests.Webhook
	if o.webhook != "" {
		webhook = &requests.Webhook{URL: o.webhook, Secret: o.webhookSecret}
	} else if o.webhookSecret != "" {
		return none, usagef("webhook-secret (%s): there is no webhook to sign for: give webhook too, or remove it", a.settings.source("webhook-secret"))
	}
	scheme, reference := a.settings.login()
	log := newLogger(a.stderr, level, a.json())
	cfg := server.Config{
		ZooKeeper: metadata.Config{ZooKeeper: a.settings.zookeeper, Root: a.settings.root, AuthScheme: scheme, AuthSecret: reference, TLS: a.settings.tls(), SessionTimeout: o.session},
		Database:  o.database, Listen: o.listen, URL: o.url, NoLogin: o.noLogin, HTTPS: o.https, Proxies: proxies, Webhook: webhook, Secrets: o.secrets, Rate: o.rate, Metrics: o.metrics,
		Open: drivers.Open, StartLimit: a.settings.timeout, Logger: log,
		Invite: func(i people.Invitation) {
			_ = a.show(i, func(w io.Writer) {
				fmt.Fprintf(w, "one-time token of the first administrator, good until %s: %s\nset a password with: turnout login --claim\n", i.Expires.Format(time.RFC3339), i.Token)
			})
		},
		Ready: func(i server.Info) {
			// Nobody may be there to read it.
			_ = a.show(i, func(w io.Writer) {
				fmt.Fprintf(w, "serving %s as %s, store %s\n", i.URL, i.ID, i.Store)
				if i.Metrics != "" {
					fmt.Fprintf(w, "metrics for everybody: %s\n", i.Metrics)
				}
			})
		},
	}
	if err := cfg.Check(); err != nil {
		return none, usagef("%w", err)
	}
	return cfg, nil
}

// networks reads addresses and networks.
func networks(list []string) (found []netip.Prefix, err error) {
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if ip, is := netip.ParseAddr(text); is == nil {
			p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
		}
		if err != nil {
			return nil, usagef("--proxy %q: must be an address or a network like 10.0.0.0/8", text)
		}
		found = append(found, p)
	}
	return found, nil
}

// newLogger logs for people, or in JSON.
func newLogger(w io.Writer, level zapcore.Level, asJSON bool) *zap.Logger {
	c := zap.NewProductionEncoderConfig()
	c.EncodeTime, c.EncodeDuration = zapcore.ISO8601TimeEncoder, zapcore.StringDurationEncoder
	encoder := zapcore.NewConsoleEncoder(c)
	if asJSON {
		encoder = zapcore.NewJSONEncoder(c)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level))
}

const sqliteScheme = "sqlite:"

// defaultStore is the file of SQLite in dir, or in the user's folder for data.
func defaultStore(dir string) (string, error) {
	if dir == "" {
		base, err := userDataDir()
		if err != nil {
			return "", usagef("where shall the store be? Give --data-dir or --database (%v)", err)
		}
		dir = filepath.Join(base, "turnout")
	}
	return sqliteScheme + filepath.Join(dir, "turnout.db"), nil
}

// userDataDir is where a user's data are, which the standard library does not tell.
func userDataDir() (string, error) {
	switch runtime.GOOS {
	case "windows", "darwin", "ios", "plan9":
		return os.UserConfigDir()
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share"), err
}

// serve runs a server until ctx ends, or a second signal says that it shall not end in order.
func serve(ctx context.Context, cfg server.Config) error {
	signals := make(chan os.Signal, 2) // ctx ends by the first one
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, cfg) }()
	for n := 0; ; {
		select {
		case err := <-ended:
			return err
		case <-signals:
			if n++; n == 2 {
				return errors.New("ended by a second signal, before everything was closed")
			}
		}
	}
}
