package testenv

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// The server is fetched once on a machine, like the jars of the other servers, as the jar of this version that holds the
// binaries for this kind of machine.
const (
	postgresVersion  = "17.6.0"
	postgresArtifact = "io.zonky.test.postgres:embedded-postgres-binaries-%s:" + postgresVersion
	copyGoal         = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
	postgresArchive  = "postgres.txz"
	postgresUser     = "turnout"
)

// EachSQL runs f as a subtest on every kind of SQL database that TURNOUT_TEST asks for: a file of SQLite on Embedded, a
// PostgreSQL server on Servers. Every call of database makes a new and empty one and returns its URL, as admin/store
// understands it. A backend that does not start fails the test.
func EachSQL(t *testing.T, f func(t *testing.T, database func() string)) {
	t.Helper()
	backends, err := Backends()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			if b == Embedded {
				f(t, func() string { return "sqlite:" + filepath.Join(t.TempDir(), "turnout.db") })
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), fetchTimeout+2*startTimeout)
			defer cancel()
			p, err := StartPostgres(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
			f(t, func() string {
				address, err := p.Database(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return address
			})
		})
	}
}

// SQL makes databases of the kind that TURNOUT_TEST asks for, PostgreSQL where it asks for both, for packages that run all of
// their tests on it. One server has them all; it is started with the first. The zero value can be used; Close it after the tests.
type SQL struct {
	once     sync.Once
	postgres *Postgres // nil: SQLite
	err      error
}

// Database makes a new and empty database and returns its URL, as admin/store understands it.
func (s *SQL) Database(t testing.TB) string {
	t.Helper()
	s.once.Do(func() {
		backends, err := Backends()
		if err != nil || !slices.Contains(backends, Servers) {
			s.err = err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout+2*startTimeout)
		defer cancel()
		s.postgres, s.err = StartPostgres(ctx, nil)
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	if s.postgres == nil {
		return "sqlite:" + filepath.Join(t.TempDir(), "turnout.db")
	}
	address, err := s.postgres.Database(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// Close ends the server, if one was started.
func (s *SQL) Close() error {
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Close()
}

// Postgres is a running PostgreSQL server with fresh data, which is never written to disk for good. Its methods may be
// called concurrently, but for Close.
type Postgres struct {
	dir        string
	log        *zap.Logger
	as         *syscall.Credential // nil: who we are
	ports      *ports
	supervisor *supervisor
	password   string

	mu   sync.Mutex
	port int
	made int // databases
	proc *process
}

// StartPostgres starts a server on a free loopback port and returns when it serves. It needs Maven the first time, and tar
// and xz. PostgreSQL refuses to run as root: then it runs as the user nobody. The server ends with this process, however
// that ends; when it is by SIGKILL, 56 bytes of shared memory are left to the system until it starts anew. On an error, also when ctx ends, whatever was started has ended. log may be nil.
func StartPostgres(ctx context.Context, log *zap.Logger) (*Postgres, error) {
	if log == nil {
		log = zap.NewNop()
	}
	archive, err := installPostgres(ctx, log)
	if err != nil {
		return nil, err
	}
	// The password needs escaping in a URL.
	p := &Postgres{log: log, ports: &ports{}, password: "p@ss/w%rd " + rand.Text()}
	if p.as, err = notRoot(); err != nil {
		return nil, err
	}
	if p.dir, err = os.MkdirTemp("", "turnout-postgres-"); err != nil {
		return nil, fmt.Errorf("testenv: %w", err)
	}
	if p.supervisor, err = startSupervisor(ctx, p.dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	if err := p.prepare(ctx, archive); err != nil {
		return nil, errors.Join(fmt.Errorf("testenv: PostgreSQL: %w", err), p.Close())
	}
	for try := 1; ; try++ {
		if p.port, err = p.ports.take(1); err == nil {
			err = p.start(ctx)
		}
		if err == nil {
			return p, nil
		}
		if try == 3 || !errors.Is(err, errPortTaken) {
			return nil, errors.Join(err, p.Close())
		}
	}
}

// installPostgres returns the archive of the binaries, fetched by whoever needs it first.
func installPostgres(ctx context.Context, log *zap.Logger) (archive string, err error) {
	base, err := serversDir()
	if err != nil {
		return "", err
	}
	dir := postgresDir(base)
	archive = filepath.Join(dir, postgresArchive)
	if exists(dir) {
		return archive, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(dir) {
		return archive, nil
	}
	log.Info("fetching PostgreSQL with Maven, once on this machine", zap.String("folder", dir))
	return archive, makeDir(dir, func(dir string) error {
		return fetchPostgres(ctx, dir, fmt.Sprintf(postgresArtifact, postgresPlatform()))
	})
}

// postgresPlatform is this kind of machine as the publisher of the binaries calls it.
func postgresPlatform() string {
	platform := runtime.GOOS + "-" + runtime.GOARCH
	if runtime.GOARCH == "arm64" {
		platform += "v8"
	}
	return platform
}

func postgresDir(base string) string {
	return filepath.Join(base, "postgres-"+postgresVersion+"-"+postgresPlatform())
}

func fetchPostgres(ctx context.Context, dir, artifact string) error {
	const remedy = "fetching PostgreSQL needs Maven 3 and a Maven repository in reach: install it (Debian: maven) and put mvn on the PATH"
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("testenv: %w; %s", err, remedy)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	jars := filepath.Join(dir, "jar")
	cmd := exec.CommandContext(ctx, mvn, "-B", "-ntp", "-Dartifact="+artifact, "-DoutputDirectory="+jars, copyGoal)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("testenv: mvn %s of %s: %w; %s; it printed:\n%s", copyGoal, artifact, err, remedy, tail(out))
	}
	found, err := filepath.Glob(filepath.Join(jars, "*.jar"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("testenv: mvn %s of %s left %q in %s instead of one jar", copyGoal, artifact, found, jars)
	}
	return errors.Join(extractArchive(found[0], filepath.Join(dir, postgresArchive)), os.RemoveAll(jars))
}

// extractArchive copies the one .txz that is in the jar.
func extractArchive(jar, to string) (err error) {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", jar, err)
	}
	defer z.Close() //nolint:errcheck // only read
	at := slices.IndexFunc(z.File, func(f *zip.File) bool { return strings.HasSuffix(f.Name, ".txz") })
	if at < 0 {
		return fmt.Errorf("testenv: %s holds no archive of PostgreSQL", jar)
	}
	in, err := z.File[at].Open()
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", jar, err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// notRoot is the user that the server runs as when this process is root's.
func notRoot() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("testenv: PostgreSQL does not run as root, and there is no user nobody to run it as: %w; run the tests as another user", err)
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("testenv: user nobody: %w", err)
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("testenv: user nobody: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (p *Postgres) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: p.as}
}

// prepare unpacks the binaries and makes the data folder. All of it is in the folder of this run, which the server's user
// owns: that user may not reach the cache of ours.
func (p *Postgres) prepare(ctx context.Context, archive string) error {
	secret := filepath.Join(p.dir, "password")
	if err := os.WriteFile(secret, []byte(p.password+"\n"), 0o600); err != nil {
		return err
	}
	if p.as != nil {
		for _, name := range []string{p.dir, secret} {
			if err := os.Chown(name, int(p.as.Uid), int(p.as.Gid)); err != nil {
				return err
			}
		}
	}
	in, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("%w; remove the folder %s so that it is fetched again", err, filepath.Dir(archive))
	}
	defer in.Close()
	tar := exec.CommandContext(ctx, "tar", "-xJf", "-", "-C", p.dir)
	tar.Dir, tar.Stdin, tar.SysProcAttr = p.dir, in, p.attributes()
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s; it needs tar and xz (Debian: tar, xz-utils), and TMPDIR a folder that the server's user can reach", archive, err, tail(out))
	}
	proc, err := p.spawn(ctx, "initdb", "-D", filepath.Join(p.dir, "data"), "-U", postgresUser, "--pwfile="+secret, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return err
	}
	select {
	case <-proc.ended:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.kill(proc))
	}
	if !proc.cmd.ProcessState.Success() {
		return fmt.Errorf("initdb: %v; it printed:\n%s", proc.cmd.ProcessState, tail(p.output(proc)))
	}
	return os.Remove(secret)
}

// spawn starts one of the programs, known to the supervisor before it begins.
func (p *Postgres) spawn(ctx context.Context, program string, args ...string) (*process, error) {
	out, err := os.OpenFile(p.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	info, err := out.Stat()
	if err != nil {
		return nil, err
	}
	line := append([]string{"-c", waitScript, program, filepath.Join(p.dir, "bin", program)}, args...)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", line...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = p.dir, out, out, p.attributes()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // nothing of PGDATA, PGPORT …
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	proc := &process{cmd: cmd, ended: make(chan struct{}), log: info.Size()}
	err = p.supervisor.add(pid)
	if err == nil {
		_, err = io.WriteString(stdin, "go\n")
	}
	err = errors.Join(err, stdin.Close())
	go func() {
		_ = cmd.Wait() // the state of the process is what counts
		_ = p.supervisor.del(pid)
		close(proc.ended)
	}()
	if err != nil {
		return nil, errors.Join(err, p.kill(proc))
	}
	return proc, nil
}

func (p *Postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	begin := time.Now()
	var flags []string
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(p.port), "unix_socket_directories=",
		"fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=100",
		"dynamic_shared_memory_type=mmap", // in the data folder, gone with it
	} {
		flags = append(flags, "-c", setting)
	}
	proc, err := p.spawn(ctx, "postgres", append([]string{"-D", filepath.Join(p.dir, "data")}, flags...)...)
	if err != nil {
		return fmt.Errorf("testenv: start PostgreSQL: %w", err)
	}
	// Another server on this port would not know the password.
	err = poll(ctx, proc.ended, func(ctx context.Context) error {
		return p.connected(ctx, func(*pgx.Conn) error { return nil })
	})
	if err == nil {
		p.proc = proc
		p.log.Debug("PostgreSQL serves", zap.Int("port", p.port), zap.Duration("after", time.Since(begin)))
		return nil
	}
	out := p.output(proc)
	err = fmt.Errorf("testenv: start PostgreSQL: %w; the end of its log:\n%s", errors.Join(err, p.kill(proc)), tail(out))
	if bytes.Contains(out, []byte("Address already in use")) {
		err = errors.Join(errPortTaken, err)
	}
	return err
}

// Restart ends the server, whose connections break, and starts it again with its data.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.stop(syscall.SIGINT); err != nil {
		return err
	}
	return p.start(ctx)
}

// stop ends the server in one of its ways; one that does not end in time is killed.
func (p *Postgres) stop(how syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	proc := p.proc
	if proc == nil {
		return nil
	}
	p.proc = nil
	if err := signalGroup(proc, how); err != nil {
		return err
	}
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-proc.ended:
		return nil
	case <-t.C:
		return errors.Join(errors.New("testenv: PostgreSQL had to be killed"), p.kill(proc))
	}
}

func (p *Postgres) kill(proc *process) error {
	err := signalGroup(proc, syscall.SIGKILL)
	if err == nil {
		<-proc.ended
	}
	return err
}

// signalGroup sends to a process that leads a group. One that has ended is no error.
func signalGroup(proc *process, sig syscall.Signal) error {
	if err := syscall.Kill(-proc.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("testenv: %v to PostgreSQL: %w", sig, err)
	}
	return nil
}

func (p *Postgres) logFile() string { return filepath.Join(p.dir, "out.log") }

func (p *Postgres) output(proc *process) []byte {
	data, err := os.ReadFile(p.logFile())
	if err != nil {
		return []byte(err.Error())
	}
	return data[min(proc.log, int64(len(data))):]
}

func (p *Postgres) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(postgresUser, p.password), Host: loopback(p.port), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// connected does f with a connection of its own.
func (p *Postgres) connected(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, p.url("postgres"))
	if err != nil {
		return err
	}
	err = f(conn)
	return errors.Join(err, conn.Close(ctx))
}

// Database makes an empty database and returns its URL, with a password that has to be escaped in a URL.
func (p *Postgres) Database(ctx context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made++
	name := "turnout_" + strconv.Itoa(p.made)
	err := p.connected(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "CREATE DATABASE "+name)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("testenv: PostgreSQL: %w", err)
	}
	return p.url(name), nil
}

// Close ends the server and removes its data. It may be called more than once.
func (p *Postgres) Close() error {
	if p.supervisor == nil {
		return nil
	}
	err := errors.Join(p.stop(syscall.SIGQUIT), p.supervisor.close(), os.RemoveAll(p.dir), p.ports.close())
	p.supervisor = nil
	return err
}
