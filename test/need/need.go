// Package need is how a test asks for a tool that lies outside of the module. A test whose tool is absent is skipped, and
// says in one line which Debian package brings it; `make test` shows those lines, and CI fails on any.
package need

import (
	"fmt"
	"os"
	"os/exec"
)

// Prefix starts every line about an absent tool.
const Prefix = "ABSENT: "

// packages maps each tool to the Debian package that holds it. A tool that is not listed can't be asked for, so that CI
// (which installs all of them) never lacks one silently.
var packages = map[string]string{
	"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
	"dpkg-deb":              "dpkg",
	"mosquitto":             "mosquitto",
	"node":                  "nodejs",
	"qemu-aarch64-static":   "qemu-user-static",
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
	line := fmt.Sprintf("%s%s (apt-get install %s): %s", Prefix, tool, pkg, untested)
	// go test prints nothing of a package that passes, so the line also goes where make test looks for it.
	if err := note(line); err != nil {
		t.Fatal(fmt.Sprintf("note %q: %v", line, err))
	}
	t.Skip(line)
	return ""
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
