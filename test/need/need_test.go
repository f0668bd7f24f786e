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
