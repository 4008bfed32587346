// Package archtest holds the dependencies between Turnout's packages: they point down, and an application that imports
// the SDK pulls in no SQL, console, server, command line or test library.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/turnout-mq/turnout"

// layers says what the packages of the SDK and those beside it may import of this module, outside of their tests. The
// longest name that a package's path begins with decides; "/..." stands for the package and all below it.
var layers = map[string][]string{
	// The root package: what applications import.
	"": {"producer", "consumer", "shadow", "metadata", "broker/...", "internal/..."},

	"producer": {"shadow", "metadata", "broker", "internal/..."},
	"consumer": {"shadow", "metadata", "broker", "internal/..."},
	"shadow":   {"metadata", "broker", "internal/..."},

	// Who does not use them does not pay for them: nobody else imports these.
	"shadow/shadowhttp": {"shadow", "shadow/internal/..."},
	"shadow/shadowgrpc": {"shadow", "shadow/internal/..."},
	"shadow/internal":   {"shadow"},

	// Shared machinery. It knows the contract of the brokers and no driver.
	"internal":        {"metadata", "broker", "internal/..."},
	"internal/errs":   {},
	"internal/pace":   {},
	"internal/secure": {},

	"metadata": {"broker", "internal/errs", "internal/secure"},

	// The contract knows no driver, a driver no other.
	"broker":            {"internal/errs"},
	"broker/kafka":      {"broker", "internal/errs", "internal/pace", "internal/secure"},
	"broker/rocketmq":   {"broker", "broker/rocketmq/...", "internal/errs", "internal/pace"},
	"broker/drivers":    {"broker", "broker/kafka", "broker/rocketmq", "internal/errs"},
	"broker/brokertest": {"broker/...", "metadata", "internal/...", "testenv/..."},

	// Beside the SDK: nothing below may import these.
	"admin":              {"metadata", "broker/...", "internal/...", "admin/..."},
	"admin/store":        {"internal/errs"},
	"admin/coord":        {"metadata", "internal/errs"},
	"testenv":            {"metadata", "broker/...", "internal/...", "testenv/..."},
	"internal/cli":       {"/..."},
	"internal/scene":     {"/..."},
	"internal/faulttest": {"/..."},
	"cmd":                {"/..."},
	"examples":           {"/..."},
	"bench":              {"/..."},
}

// outside are the sub-packages of internal and broker that are not part of the SDK: nobody imports them but programs and
// test environments.
var outside = []string{"internal/cli", "internal/scene", "internal/faulttest", "internal/archtest", "broker/brokertest"}

// programs may import them.
var programs = []string{"internal/cli", "internal/scene", "internal/faulttest", "cmd", "examples", "bench", "testenv", "broker/brokertest"}

// library is one that the SDK may import.
type library struct {
	use  string
	only string // the package that may, with those below it; "": every one
}

// libraries are all that the SDK may import itself beside the standard library.
var libraries = map[string]library{
	"github.com/IBM/sarama":                   {use: "Kafka client"},
	"github.com/apache/rocketmq-client-go/v2": {use: "RocketMQ client"},
	"github.com/go-zookeeper/zk":              {use: "ZooKeeper client"},
	"go.uber.org/zap":                         {use: "logging"},
	"github.com/google/uuid":                  {use: "message ids"},
	"golang.org/x/time":                       {use: "rate limits"},
	"golang.org/x/sync":                       {use: "errgroup, singleflight, semaphore"},
	"github.com/cenkalti/backoff/v5":          {use: "backoff"},
	"go.opentelemetry.io/otel/baggage":        {use: "the stress mark between services", only: "shadow"},
	"google.golang.org/grpc":                  {use: "interceptors for the stress mark", only: "shadow/shadowgrpc"},
}

// foreign must not be in a program that imports the SDK, by whatever way. Package database/sql/driver is not among them:
// the uuid library's Scan and Value need its types.
var foreign = []string{
	"database/sql",
	"html/template",
	"testing",
	"github.com/jackc/pgx",
	"github.com/pressly/goose",
	"modernc.org/sqlite",
	"github.com/spf13/cobra",
	"github.com/spf13/pflag",
	"github.com/stretchr/testify",
	"github.com/google/go-cmp",
	"github.com/twmb/franz-go",
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
	"go.opentelemetry.io/otel/trace",
	"go.opentelemetry.io/otel/sdk",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
	module + "/admin",
	module + "/testenv",
	module + "/cmd",
	module + "/internal/cli",
	module + "/internal/scene",
	module + "/broker/brokertest",
	module + "/shadow/shadowhttp",
	module + "/shadow/shadowgrpc",
}

func TestEdgesPointDown(t *testing.T) {
	packages := list(t, "./...")
	require.NotEmpty(t, packages)
	for _, p := range packages {
		may, known := layerOf(p.name())
		if !known {
			t.Errorf("package %s is in no layer: say in layers what it may import", p.name())
			continue
		}
		for _, imported := range p.own() {
			if !allowed(may, imported) || hidden(p.name(), imported) {
				t.Errorf("package %q imports %q; it may import %q", p.name(), imported, may)
			}
		}
	}
}

func TestTheSDKPullsInNothingForeign(t *testing.T) {
	for _, p := range list(t, "-deps", ".") {
		for _, prefix := range foreign {
			// A prefix of the standard library names one package; "testing" also those below it.
			if p.ImportPath == prefix || strings.HasPrefix(p.ImportPath, prefix+"/") && prefix != "database/sql" {
				t.Errorf("the root package depends on %s", p.ImportPath)
			}
		}
	}
}

func TestTheSDKImportsFewLibraries(t *testing.T) {
	for _, p := range list(t, "-deps", ".", "./shadow/...") {
		if !p.isOurs() {
			continue
		}
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") || isOurs(imported) {
				continue
			}
			if !mayUse(p.name(), imported) {
				t.Errorf("%s imports %s; the SDK may import %+v", p.ImportPath, imported, libraries)
			}
		}
	}
}

// The rules themselves, on edges that must not be.
func TestForbiddenEdgesAreFound(t *testing.T) {
	for _, edge := range [][2]string{
		{"", "testenv"}, {"", "admin"}, {"", "cmd/turnout"}, {"", "internal/cli"}, {"", "broker/brokertest"},
		{"producer", "consumer"}, {"producer", ""}, {"producer", "broker/kafka"}, {"consumer", "testenv"}, {"shadow", "producer"},
		{"metadata", "producer"}, {"metadata", "internal/clusters"}, {"internal/topics", "producer"}, {"internal/topics", "broker/kafka"},
		{"internal/errs", "broker"}, {"internal/topics", "internal/cli"}, {"consumer", "internal/scene"},
		{"broker", "broker/kafka"}, {"broker", "metadata"}, {"broker/kafka", "broker/rocketmq"}, {"broker/rocketmq/remoting", "metadata"},
		{"", "shadow/shadowhttp"}, {"", "shadow/shadowgrpc"}, {"producer", "shadow/shadowgrpc"}, {"consumer", "shadow/internal/carrier"},
		{"shadow", "shadow/shadowhttp"}, {"shadow/shadowhttp", "metadata"}, {"shadow/shadowgrpc", "shadow/shadowhttp"},
		{"admin/http", "testenv"}, {"admin", ""}, {"admin/store", "metadata"}, {"testenv", ""}, {"testenv/servers", "admin"},
	} {
		may, known := layerOf(edge[0])
		require.True(t, known)
		require.True(t, !allowed(may, edge[1]) || hidden(edge[0], edge[1]), "%q may import %q", edge[0], edge[1])
	}
	for _, use := range [][2]string{
		{"producer", "go.opentelemetry.io/otel/baggage"}, {"shadow", "go.opentelemetry.io/otel/trace"}, {"shadow", "google.golang.org/grpc"},
		{"shadow/shadowhttp", "google.golang.org/grpc/metadata"}, {"metadata", "github.com/spf13/cobra"},
	} {
		require.False(t, mayUse(use[0], use[1]), "%q may use %q", use[0], use[1])
	}
	_, known := layerOf("util")
	require.False(t, known, "a package in no layer must be refused")
}

// layerOf finds what a package may import.
func layerOf(name string) (may []string, known bool) {
	if name == "" {
		return layers[""], true
	}
	best := ""
	for prefix := range layers {
		if prefix != "" && within(name, prefix) && len(prefix) > len(best) {
			best = prefix
		}
	}
	return layers[best], best != ""
}

func allowed(may []string, imported string) bool {
	return slices.ContainsFunc(may, func(pattern string) bool {
		prefix, below := strings.CutSuffix(pattern, "/...")
		return imported == prefix || below && (prefix == "" || within(imported, prefix))
	})
}

// hidden says that a package imports one that only programs may.
func hidden(name, imported string) bool {
	in := func(list []string, name string) bool {
		return slices.ContainsFunc(list, func(prefix string) bool { return within(name, prefix) })
	}
	return in(outside, imported) && !in(programs, name)
}

// mayUse says whether a package of the SDK may import a library.
func mayUse(name, imported string) bool {
	for path, l := range libraries {
		if within(imported, path) && (l.only == "" || within(name, l.only)) {
			return true
		}
	}
	return false
}

func within(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Imports    []string
}

func (p listed) isOurs() bool { return isOurs(p.ImportPath) }

func (p listed) name() string { return name(p.ImportPath) }

// own are the packages of this module that p imports.
func (p listed) own() []string {
	var list []string
	for _, imported := range p.Imports {
		if isOurs(imported) {
			list = append(list, name(imported))
		}
	}
	return list
}

func isOurs(path string) bool { return within(path, module) }

// name is a path of this module without the module: "" is the root package.
func name(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	root := filepath.Join("..", "..")
	touch(t, root)
	// -e: that a package does not compile is the compiler's to say.
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-json=ImportPath,Imports"}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list %v: %s", args, &stderr)
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		require.NoError(t, err)
		packages = append(packages, p)
	}
}

// touch looks at every Go file, because go test repeats a result from its cache unless a file that the test itself
// looked at has changed; what go list reads it does not see.
func touch(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root:
			return fs.SkipDir
		case strings.HasSuffix(path, ".go"), d.Name() == "go.mod":
			_, err = os.Stat(path)
		}
		return err
	}))
}
