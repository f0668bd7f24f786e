// Package arch holds the rules of the whole tree that no compiler checks: which way imports point, who may use what, how
// large things are, and that what the documents promise is tested. Each rule has its reason beside it.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

const module = "dunlin.dev/dunlin/"

// layers orders the packages; an import goes to a lower layer. Within one layer packages don't know each other: what they
// need of one another is a func value or a small interface, joined in agent.New and fleet.New. A trailing /... covers what
// lies below.
var layers = [][]string{
	// Facts: what both halves agree on. Pure, so that a second implementation can follow them.
	{"fleet/archive", "fleet/semver", "wit"},
	{"fleet/wire", "fleet/trust", "fleet/mqttlistener"},
	{"fleet/manifest"},
	// The board, upward from the wasm library to the daemon.
	{"agent/internal/alarm", "agent/internal/crash", "agent/internal/engine", "agent/internal/files", "agent/internal/journal", "agent/internal/mqttconn", "agent/internal/space"},
	{"agent/internal/store", "agent/internal/host", "agent/internal/codecache", "agent/internal/trigger"},
	{"agent/internal/inbox"},
	{"agent/internal/link", "agent/internal/reconcile", "agent/internal/runner", "agent/internal/trigger/...", "agent/internal/uplink"},
	{"agent"},
	{"agent/cmd/..."},
	// The server and the command line. They stand above the board because `dunlin up` is the agent, in one process.
	{"fleet/internal/model"},
	{"fleet/internal/store"},
	{"fleet/internal/broker", "fleet/internal/client", "fleet/internal/content", "fleet/internal/devices", "fleet/internal/registry", "fleet/internal/requests", "fleet/internal/scaffold"},
	{"fleet/internal/api"},
	{"fleet"},
	{"fleet/internal/cli/..."},
	{"fleet/cmd/..."},
	// Tests reach everything that Go's internal rule lets them.
	{"test/need", "test/guests", "test/process", "test/readings"},
	{"test/...", "cross", "agent/internal/engine/enginetest", "agent/internal/store/storetest", "fleet/internal/content/contenttest"},
}

// confined lists what only some packages may import directly, so that replacing it stays a small change.
var confined = []struct {
	what   string // an import path, or a tree with /...
	where  []string
	reason string
}{
	{"github.com/bytecodealliance/wasmtime-go/...", []string{"agent/internal/engine/..."}, "one package holds all cgo and all pointers"},
	{"go.etcd.io/bbolt", []string{"agent/internal/store", "fleet/internal/store"}, "one package of each half knows how bytes lie on the disk"},
	{"github.com/mochi-mqtt/...", []string{"agent/internal/trigger/mqtt", "fleet/internal/broker", "fleet/mqttlistener", "test/..."}, "a broker is an adapter"},
	{"github.com/eclipse/paho.mqtt.golang", []string{"agent/internal/link", "agent/internal/mqttconn", "agent/internal/trigger/mqtt", "fleet/internal/client", "test/..."},
		"every MQTT connection is guarded against packets that cost memory, which agent/internal/mqttconn does"},
	{"github.com/theupdateframework/...", []string{"fleet/trust"}, "one package decides who is believed"},
	{"github.com/secure-systems-lab/...", []string{"fleet/trust"}, "one package decides who is believed"},
	{"github.com/sigstore/...", []string{"fleet/trust"}, "one package decides who is believed"},
	{"github.com/coreos/go-systemd/...", []string{"agent", "agent/cmd/...", "fleet/cmd/..."}, "the service manager concerns the process, not its parts"},
	{"unsafe", []string{"agent/internal/engine"}, "memory outside of Go's rules is the engine's affair"},
	{"agent/...", []string{"agent/...", "fleet/cmd/dunlin", "fleet/internal/cli/...", "test/..."}, "the server runs without the board's code and its C library"},
}

// pure packages take bytes and time as arguments.
var pure = []string{"fleet/archive", "fleet/semver", "fleet/wire", "fleet/trust", "fleet/manifest"}

var impure = []string{"os", "net", "net/http", "log", "log/slog", "io/ioutil", "os/exec", "syscall", "math/rand", "math/rand/v2"}

// pkg is what go list tells of one package.
type pkg struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	CgoFiles     []string
	GoFiles      []string
}

// packages lists the module's packages.
var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,CgoFiles,GoFiles", "./...")
	cmd.Dir = need.Root()
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, p)
	}
})

func mustPackages(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages: this test looks in the wrong place", len(all))
	}
	return all
}

// matches says whether path is pattern, or lies below pattern's tree.
func matches(pattern, path string) bool {
	tree, ok := strings.CutSuffix(pattern, "/...")
	return path == pattern || ok && (path == tree || strings.HasPrefix(path, tree+"/"))
}

// layerOf returns a package's layer; an exact entry wins over a tree.
func layerOf(path string) (int, bool) {
	for i, layer := range layers {
		if slices.Contains(layer, path) {
			return i, true
		}
	}
	for i, layer := range layers {
		if slices.ContainsFunc(layer, func(pattern string) bool { return matches(pattern, path) }) {
			return i, true
		}
	}
	return 0, false
}

func TestImportsPointDownward(t *testing.T) {
	for _, p := range mustPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		from, ok := layerOf(path)
		if !ok {
			t.Errorf("%s is in no layer: put it where it belongs in test/arch", path)
			continue
		}
		for _, imported := range p.Imports {
			target, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if to, ok := layerOf(target); ok && to >= from {
				t.Errorf("%s (layer %d) imports %s (layer %d): imports point downward", path, from, target, to)
			}
		}
	}
}

func TestTheTableNamesOnlyWhatIsThere(t *testing.T) {
	there := map[string]bool{}
	for _, p := range mustPackages(t) {
		there[strings.TrimPrefix(p.ImportPath, module)] = true
	}
	for _, pattern := range slices.Concat(layers...) {
		if !strings.HasSuffix(pattern, "/...") && !there[pattern] {
			t.Errorf("the layers name %s, which is not there: remove it", pattern)
		}
	}
}

func TestDependenciesStayWhereTheyBelong(t *testing.T) {
	used := map[string]bool{}
	for _, p := range mustPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			imported = strings.TrimPrefix(imported, module)
			for _, rule := range confined {
				if !matches(rule.what, imported) {
					continue
				}
				used[rule.what] = true
				if !slices.ContainsFunc(rule.where, func(pattern string) bool { return matches(pattern, path) }) {
					t.Errorf("%s imports %s, which is for %v: %s", path, imported, rule.where, rule.reason)
				}
			}
		}
	}
	for _, rule := range confined {
		if !used[rule.what] {
			t.Errorf("nothing imports %s any more: remove the rule", rule.what)
		}
	}
}

func TestPurePackagesDoNoIO(t *testing.T) {
	for _, p := range mustPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, path) {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(impure, imported) {
				t.Errorf("%s imports %s: it takes bytes and time as arguments", path, imported)
			}
		}
		for _, use := range selectors(t, p, "time", "Now") {
			t.Errorf("%s reads the clock: take the time as an argument", use)
		}
	}
}

func TestOnlyTheEngineHoldsCgo(t *testing.T) {
	found := false
	for _, p := range mustPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		switch isEngine := matches("agent/internal/engine/...", path); {
		case isEngine:
			found = found || len(p.CgoFiles) > 0
		case len(p.CgoFiles) > 0:
			t.Errorf("%s has cgo in %v: it belongs into agent/internal/engine", path, p.CgoFiles)
		}
	}
	if !found {
		t.Error("the engine has no cgo: this test looks in the wrong place")
	}
}

// Only Verify makes a Release that boards run; Unverified is how `dunlin up` runs what was just built on the same machine.
func TestOnlyLocalModeRunsUnverifiedReleases(t *testing.T) {
	for _, p := range mustPackages(t) {
		for _, use := range selectors(t, p, module+"fleet/trust", "Unverified") {
			if !strings.HasPrefix(use, "agent/local.go:") {
				t.Errorf("%s makes a release that nobody signed: only agent/local.go may", use)
			}
		}
	}
}
