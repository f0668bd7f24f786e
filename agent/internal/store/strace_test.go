//go:build !race

package store

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

// call is one that a traced process made and that the kernel carried out.
type call struct {
	name  string
	args  []string // unquoted
	begun int      // the number of calls that had ended when it began
}

// straced runs this test binary as env says, and gives its calls in the order in which they ended.
func straced(t *testing.T, env []string, options ...string) (calls []call, injected int) {
	t.Helper()
	strace := need.Tool(t, "strace", "power cuts and failing disks")
	out := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, append([]string{"-f", "-y", "-xx", "-s", "4000000", "-o", out}, append(options, os.Args[0])...)...)
	cmd.Env = append(os.Environ(), env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	calls, injected, err = parseTrace(f)
	must(t, err)
	return calls, injected
}

var (
	wholeCall   = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)
	begunCall   = regexp.MustCompile(`^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$`)
	resumedCall = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)`)
	escape      = regexp.MustCompile(`\\x[0-9a-f]{2}`)
)

func parseTrace(f *os.File) (calls []call, injected int, err error) {
	type start struct {
		args string
		n    int
	}
	open := map[string]start{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		line := sc.Text()
		if strings.HasSuffix(line, "(INJECTED)") {
			injected++
			continue
		}
		if m := begunCall.FindStringSubmatch(line); m != nil {
			open[m[1]] = start{m[3], len(calls)}
			continue
		}
		m, begun := wholeCall.FindStringSubmatch(line), len(calls)
		if m == nil {
			if m = resumedCall.FindStringSubmatch(line); m == nil {
				continue // signals, exits
			}
			m[3], begun = open[m[1]].args+m[3], open[m[1]].n
		}
		if strings.HasPrefix(m[4], "-") {
			continue
		}
		c := call{name: m[2], begun: begun}
		for _, a := range splitArgs(m[3]) {
			a = escape.ReplaceAllStringFunc(a, func(s string) string { b, _ := hex.DecodeString(s[2:]); return string(b) })
			if strings.HasSuffix(a, `"...`) {
				return nil, 0, fmt.Errorf("strace cut an argument of %s short", c.name)
			}
			if strings.HasPrefix(a, `"`) {
				a = a[1 : len(a)-1]
			}
			c.args = append(c.args, a)
		}
		calls = append(calls, c)
	}
	return calls, injected, sc.Err()
}

// splitArgs at commas; with -xx there are none inside of quotes.
func splitArgs(s string) []string { return strings.Split(s, ", ") }

// path of a descriptor: 7</tmp/x>.
func (c call) path() string {
	_, p, _ := strings.Cut(c.args[0], "<")
	return strings.TrimSuffix(p, ">")
}

func (c call) number(i int) int64 {
	n, _ := strconv.ParseInt(c.args[i], 0, 64)
	return n
}
