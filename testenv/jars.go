package testenv

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"
)

//go:embed servers/pom.xml servers/*/pom.xml
var poms embed.FS

const (
	serversDirVariable = "TURNOUT_SERVERS_DIR"
	fetchTimeout       = 15 * time.Minute
	oldestJava         = 17
	mavenGoal          = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
)

// installation is the servers' jars on this machine and the Java that runs them.
type installation struct {
	java     string // binary
	jars     string
	archives string
}

// install finds Java and returns the folder of the servers' jars. If there is none it fetches the jars with
// Maven and makes the class data archives, once on this machine; other processes wait for that.
func install(ctx context.Context, log *zap.Logger) (installation, error) {
	java, version, err := findJava(ctx)
	if err != nil {
		return installation{}, err
	}
	base, err := serversDir()
	if err != nil {
		return installation{}, err
	}
	pomHash, err := hashPoms()
	if err != nil {
		return installation{}, err
	}
	i := installation{java: java, jars: filepath.Join(base, "servers-"+pomHash)}
	// An archive fits one build of Java, the jars' folder and their time stamps.
	i.archives = filepath.Join(i.jars, "archives-"+hash([]byte(version)))
	if exists(i.archives) {
		return i, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return installation{}, err
	}
	defer unlock()
	if !exists(i.jars) {
		log.Info("fetching the jars of the servers with Maven, once on this machine", zap.String("folder", i.jars))
		if err := makeDir(i.jars, func(dir string) error { return fetch(ctx, dir) }); err != nil {
			return installation{}, err
		}
	}
	if !exists(i.archives) {
		log.Info("making class data archives of the servers, once on this machine", zap.String("folder", i.archives))
		err := makeDir(i.archives, func(dir string) error {
			return train(ctx, installation{java: i.java, jars: i.jars, archives: dir}, log)
		})
		if err != nil {
			return installation{}, err
		}
	}
	return i, nil
}

func findJava(ctx context.Context) (binary, version string, err error) {
	binary = "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		binary = filepath.Join(home, "bin", "java")
	}
	const remedy = "the backend \"servers\" needs Java 17 or newer: install a JDK or JRE (Debian: openjdk-17-jre-headless) and put java on the PATH or set JAVA_HOME"
	if binary, err = exec.LookPath(binary); err != nil {
		return "", "", fmt.Errorf("testenv: %w; %s", err, remedy)
	}
	out, err := exec.CommandContext(ctx, binary, "-version").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("testenv: %s -version: %w: %s; %s", binary, err, tail(out), remedy)
	}
	m := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out)
	if m == nil {
		return "", "", fmt.Errorf("testenv: %s -version prints no version: %s; %s", binary, tail(out), remedy)
	}
	if major, _ := strconv.Atoi(string(m[1])); major < oldestJava {
		return "", "", fmt.Errorf("testenv: %s is version %s; %s", binary, m[1], remedy)
	}
	return binary, string(out), nil
}

// serversDir is where the jars are kept: outside of the checkout, shared by all checkouts of one user.
func serversDir() (string, error) {
	dir := os.Getenv(serversDirVariable)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("testenv: no folder to keep the jars of the servers in: %w; set %s", err, serversDirVariable)
		}
		dir = filepath.Join(cache, "turnout")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("testenv: folder of the servers' jars: %w; set %s to a folder that can be written", err, serversDirVariable)
	}
	return dir, nil
}

func hashPoms() (string, error) {
	var all []byte
	err := fs.WalkDir(poms, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := poms.ReadFile(path)
		all = append(append(all, path...), data...)
		return err
	})
	return hash(all), err
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// fetch lets Maven copy the jars of every module to dir/<module>.
func fetch(ctx context.Context, dir string) error {
	const remedy = "fetching the jars of the servers needs Maven 3 and a Maven repository in reach: install it (Debian: maven) and put mvn on the PATH"
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("testenv: %w; %s", err, remedy)
	}
	project, err := os.MkdirTemp("", "turnout-servers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(project)
	if err := os.CopyFS(project, poms); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, mvn, "-B", "-ntp", "-Dservers.dir="+dir, mavenGoal)
	cmd.Dir = filepath.Join(project, "servers")
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("testenv: mvn %s: %w; %s; it printed:\n%s", mavenGoal, err, remedy, tail(out))
	}
	return nil
}

// train runs every kind of server once until it serves and ends it, so that each writes its class data archive:
// with it a server starts in half the time and with half the work.
func train(ctx context.Context, i installation, log *zap.Logger) (err error) {
	e, err := newEnv(Spec{Backend: Servers, ZooKeeper: 1, Kafka: []string{"kafka"}, RocketMQ: []string{"rocketmq"}, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := e.supervise(ctx, i, true); err != nil {
		return err
	}
	if err := e.startClusters(ctx); err != nil {
		return err
	}
	return each(slices.Collect(maps.Values(e.clusters)), func(c *cluster) error {
		return each(c.nodes, func(n *node) error { return n.server.(*javaServer).terminate(ctx, startTimeout) })
	})
}

// makeDir lets fill fill a new folder beside dir and then renames it, so that dir is there whole or not at all.
func makeDir(dir string, fill func(dir string) error) error {
	made, err := os.MkdirTemp(filepath.Dir(dir), "making-")
	if err != nil {
		return err
	}
	if err := errors.Join(fill(made), os.Chmod(made, 0o755)); err != nil {
		return errors.Join(err, os.RemoveAll(made))
	}
	return os.Rename(made, dir)
}

// lockFile locks a file between processes and returns what unlocks it.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("testenv: lock of the servers' jars: %w; set %s to a folder that can be written", err, serversDirVariable)
	}
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return func() { _ = f.Close() }, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("testenv: another process holds %s to fetch the servers: %w", path, ctx.Err()), f.Close())
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
