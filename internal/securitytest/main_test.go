package securitytest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, leaks.Libraries()...)
}

const (
	patience   = time.Minute
	moment     = 20 * time.Millisecond
	kafka      = "kafka-a"
	otherKafka = "kafka-b"
	rocketMQ   = "rocketmq-a"
)

// world is a secured environment with the secrets of its users in files.
type world struct {
	t    *testing.T
	env  *testenv.Env
	dir  string
	tls  *metadata.TLS
	log  *zap.Logger
	logs *observer.ObservedLogs
	// passwords are what must be in no log, no error and no node.
	passwords []string
}

func newWorld(t *testing.T, env *testenv.Env) *world {
	sec := env.Security()
	core, logs := observer.New(zapcore.DebugLevel)
	w := &world{t: t, env: env, dir: t.TempDir(), tls: &metadata.TLS{CA: sec.CA, Cert: sec.Cert, Key: sec.Key},
		log: zap.New(core), logs: logs}
	w.login("admin", sec.User, sec.Password)
	return w
}

// login writes user and password to a file and returns the reference to it.
func (w *world) login(file, user, password string) string {
	w.t.Helper()
	w.passwords = append(w.passwords, password)
	path := filepath.Join(w.dir, file)
	require.NoError(w.t, os.WriteFile(path+".new", []byte(user+":"+password+"\n"), 0o600))
	require.NoError(w.t, os.Rename(path+".new", path))
	return "file:" + path
}

func (w *world) reference(file string) string { return "file:" + filepath.Join(w.dir, file) }

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

// document is the metadata of a cluster for the user whose login is in a file.
func (w *world) document(cluster, mechanism, file string) metadata.Cluster {
	c := metadata.Cluster{Name: cluster, V: 1, Kind: broker.Kind(w.env.Kind(cluster)), Addresses: w.env.Addresses(cluster),
		ClusterID: w.env.ClusterID(cluster), Auth: &metadata.Auth{Mechanism: mechanism, Secret: w.reference(file)}}
	if c.Kind == broker.Kafka {
		c.TLS = w.tls
	}
	return c
}

// open opens a cluster as the SDK does.
func (w *world) open(t *testing.T, doc metadata.Cluster) (broker.Cluster, error) {
	t.Helper()
	cfg, err := doc.Config("test", nil)
	require.NoError(t, err)
	cfg.Logger = w.log
	c, err := drivers.Open(w.ctx(), cfg)
	if err == nil {
		t.Cleanup(func() { require.NoError(t, c.Close(w.ctx())) })
	}
	return c, err
}

func (w *world) mustOpen(t *testing.T, doc metadata.Cluster) broker.Cluster {
	t.Helper()
	c, err := w.open(t, doc)
	require.NoError(t, err)
	return c
}

// quiet: no password is in what was logged, or in these errors.
func (w *world) quiet(errs ...error) {
	w.t.Helper()
	for _, password := range w.passwords {
		for _, err := range errs {
			require.NotContains(w.t, err.Error(), password)
		}
		for _, entry := range w.logs.All() {
			require.NotContains(w.t, fmt.Sprint(entry.Message, entry.ContextMap()), password)
		}
	}
}

func send(c broker.Cluster, topic, body string) error {
	result := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.Send(ctx, topic, &broker.Envelope{Message: broker.Message{Key: []byte("k"), Body: []byte(body), ID: fmt.Sprintf("%032x", time.Now().UnixNano())}},
		func(_ broker.Receipt, err error) { result <- err })
	return <-result
}
