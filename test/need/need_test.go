package need

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorder is a Skipper that remembers instead of ending the test.
type recorder struct{ skipped, failed []any }

func (r *recorder) Skip(args ...any)  { r.skipped = args }
func (r *recorder) Fatal(args ...any) { r.failed = args }

func TestAnAbsentToolIsNamedWithItsPackage(t *testing.T) {
	noted := filepath.Join(t.TempDir(), "absent")
	t.Setenv("DUNLIN_ABSENT", noted)
	t.Setenv("PATH", t.TempDir())
	var r recorder
	Tool(&r, "mosquitto", "events through another broker")
	const want = "ABSENT: mosquitto (apt-get install mosquitto): events through another broker"
	if len(r.skipped) != 1 || r.skipped[0] != want {
		t.Errorf("skipped with %q, want %q", r.skipped, want)
	}
	got, err := os.ReadFile(noted)
	if err != nil || string(got) != want+"\n" {
		t.Errorf("noted %q (%v), want %q", got, err, want)
	}
}

func TestAPresentToolIsFound(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	var r recorder
	if got := Tool(&r, "node", "nothing"); got != path || r.skipped != nil {
		t.Errorf("Tool = %q, skipped %v; want %q", got, r.skipped, path)
	}
}

func TestAJSHandlerIsTakenFromWhereItIsBuilt(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no node, no make
	t.Setenv("DUNLIN_SEED_JS_CHANGED", "/built/changed.wasm")
	var r recorder
	if got := SeedJS(&r, "seed-changed", "nothing"); got != "/built/changed.wasm" || r.skipped != nil || r.failed != nil {
		t.Errorf("SeedJS = %q, skipped %v, failed %v", got, r.skipped, r.failed)
	}
}

func TestAJSHandlerThatCannotBeBuiltIsSaidToBeAbsent(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	t.Setenv("DUNLIN_SEED_JS", "")
	t.Setenv("DUNLIN_ABSENT", "")
	for _, c := range []struct{ tool, want string }{
		{"node", "ABSENT: node (apt-get install nodejs): the seed"},
		{"npm", "ABSENT: npm (apt-get install npm): the seed"},
		{"make", "ABSENT: JS handler (make seed-js says why): the seed"},
	} {
		var r recorder
		SeedJS(&r, "seed", "the seed")
		if len(r.skipped) != 1 || r.skipped[0] != c.want {
			t.Errorf("without %s: skipped with %q, want %q", c.tool, r.skipped, c.want)
		}
		if err := os.WriteFile(filepath.Join(dir, c.tool), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// CI installs what this list names, so every tool that a test asks for has to be in .ci/run. CI is an amd64 machine.
func TestCIInstallsEveryTool(t *testing.T) {
	run, err := os.ReadFile("../../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(run))
	for tool, pkg := range packages {
		if strings.HasPrefix(tool, "x86_64-") {
			continue
		}
		found := false
		for _, w := range words {
			found = found || w == pkg
		}
		if !found {
			t.Errorf("%s comes with the Debian package %s, which .ci/run does not install", tool, pkg)
		}
	}
}
