// Package need is how a test asks for a tool that lies outside of the module. A test whose tool is absent is skipped, and
// says in one line which Debian package brings it; `make test` shows those lines, and CI fails on any.
package need

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Prefix starts every line about an absent tool.
const Prefix = "ABSENT: "

// packages maps each tool to the Debian package that holds it. A tool that is not listed can't be asked for, so that CI
// (which installs all of them) never lacks one silently.
var packages = map[string]string{
	"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
	"mosquitto":             "mosquitto",
	"node":                  "nodejs",
	"npm":                   "npm",
	"qemu-aarch64-static":   "qemu-user-static",
	"strace":                "strace",
	"systemd-analyze":       "systemd",
	"x86_64-linux-gnu-gcc":  "gcc-x86-64-linux-gnu",
}

// Skipper is the part of *testing.T that Tool uses.
type Skipper interface {
	Skip(args ...any)
	Fatal(args ...any)
}

// Tool returns the path of an executable, or skips the test. untested says what goes untested without it:
// "events through a broker that is already there".
func Tool(t Skipper, tool, untested string) string {
	pkg, ok := packages[tool]
	if !ok {
		t.Fatal(fmt.Sprintf("need %s: no Debian package is listed for it in test/need", tool))
	}
	path, err := exec.LookPath(tool)
	if err == nil {
		return path
	}
	Absent(t, fmt.Sprintf("%s (apt-get install %s): %s", tool, pkg, untested))
	return ""
}

// Absent skips t with a line: "tool or permission (the way to have it): what goes untested without it".
func Absent(t Skipper, what string) {
	line := Prefix + what
	// go test prints nothing of a package that passes, so the line also goes where make test looks for it.
	if err := note(line); err != nil {
		t.Fatal(fmt.Sprintf("note %q: %v", line, err))
	}
	t.Skip(line)
}

// note appends line to the file that $DUNLIN_ABSENT names, if it names one.
func note(line string) error {
	name := os.Getenv("DUNLIN_ABSENT")
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, line); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Make runs a target of the Makefile: the programs under test are built by the one recipe that there is.
func Make(target string) error {
	cmd := exec.Command("make", "--no-print-directory", "-s", "-C", Root(), target)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "MAKE") || strings.HasPrefix(kv, "MFLAGS") // an outer make's job server isn't ours
	})
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make %s: %w\n%s", target, err, out)
	}
	return nil
}

// Programs is the folder of the programs, built first unless DUNLIN_BIN_DIR names one.
var Programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("DUNLIN_BIN_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	// go test takes a stored result when the files that the test looked at are the same. The programs are built from
	// sources that the test doesn't look at, so look.
	for _, dir := range []string{"agent", "fleet", "wit"} {
		err := filepath.WalkDir(filepath.Join(Root(), dir), func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return filepath.Join(Root(), "bin"), Make("build")
})

// Root is the folder of go.mod, found from where a test runs (its package's folder).
func Root() string {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == "/" {
			break
		}
	}
	panic("find go.mod: not above the working directory")
}

// CrossCompiler skips t where there is no C compiler for linux/arch.
func CrossCompiler(t Skipper, arch, untested string) {
	if arch == runtime.GOARCH {
		return
	}
	Tool(t, map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]+"-linux-gnu-gcc", untested)
}
