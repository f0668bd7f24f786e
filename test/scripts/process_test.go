package scripts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"dunlin.dev/dunlin/test/process"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// source is a named thing that writes lines: a process, or a subscription.
type source struct {
	out  *journal
	cmd  *exec.Cmd     // nil: a subscription
	done chan struct{} // closed when the process is gone
	err  error         // how it ended; read after done
	stop func()        // ends it, at once; again is fine
}

// journal keeps everything that was written, and wakes those who wait for a line.
type journal struct {
	mu      sync.Mutex
	all     []byte
	from    int           // where the latest start began
	changed chan struct{} // closed and replaced at each write
	file    io.Writer     // the same, for whoever wants to read it
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = append(j.all, p...)
	close(j.changed)
	j.changed = make(chan struct{})
	return j.file.Write(p)
}

// lines returns the whole lines so far (since the latest start, unless all), and a channel that tells of more.
func (j *journal) lines(all bool) ([]string, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.all
	if !all {
		b = b[j.from:]
	}
	whole, _, _ := cutLast(b, '\n')
	if len(whole) == 0 {
		return nil, j.changed
	}
	return strings.Split(string(whole), "\n"), j.changed
}

func cutLast(b []byte, sep byte) (before, after []byte, found bool) {
	if i := bytes.LastIndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:], true
	}
	return nil, b, false
}

func (j *journal) tail(n int) string {
	lines, _ := j.lines(true)
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// journalOf returns the journal under name, for one more start.
func (s *story) journalOf(name string) (*journal, error) {
	if old := s.sources[name]; old != nil {
		old.out.mu.Lock()
		defer old.out.mu.Unlock()
		old.out.from = len(old.out.all)
		return old.out, nil
	}
	f, err := os.Create(filepath.Join(s.env.WorkDir, name+".log"))
	if err != nil {
		return nil, err
	}
	s.env.Defer(func() { f.Close() })
	return &journal{changed: make(chan struct{}), file: f}, nil
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM [ARG...]")
	}
	s, name := of(ts), args[0]
	if old := s.sources[name]; old != nil {
		if old.cmd == nil || !old.gone() {
			ts.Fatalf("start %s: it runs already", name)
		}
	}
	out, err := s.journalOf(name)
	ts.Check(err)
	src := &source{out: out, done: make(chan struct{})}
	src.cmd, err = command(ts, args[1:])
	ts.Check(err)
	src.cmd.Stdout, src.cmd.Stderr = out, out
	// Its own group, so that its children end with it; and it ends with the test, however that ends.
	src.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	src.cmd.WaitDelay = time.Second // a child that outlives it may hold its output open
	ts.Check(src.cmd.Start())
	go func() {
		src.err = src.cmd.Wait()
		close(src.done)
	}()
	src.stop = func() {
		// The group outlives its leader while it has members; an empty one is no error here.
		_ = syscall.Kill(-src.cmd.Process.Pid, syscall.SIGKILL)
		<-src.done
	}
	s.sources[name] = src
}

// command is exec.Command in the story's folder and environment.
func command(ts *testscript.TestScript, args []string) (*exec.Cmd, error) {
	path := args[0]
	if !strings.Contains(path, "/") {
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			if _, err := os.Stat(filepath.Join(dir, args[0])); err == nil {
				path = filepath.Join(dir, args[0])
				break
			}
		}
	}
	cmd := exec.Command(ts.MkAbs(path), args[1:]...)
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environ(ts)
	return cmd, nil
}

// environ is the story's environment as it is now. A testscript tells the value of a variable but not which there are, so
// the names come from the setup and from the story's own text.
func environ(ts *testscript.TestScript) []string {
	s := of(ts)
	var names []string
	for _, kv := range s.env.Vars {
		name, _, _ := strings.Cut(kv, "=")
		names = append(names, name)
	}
	text, err := os.ReadFile(filepath.Join(s.folder, ts.Name()+".txtar"))
	ts.Check(err)
	for _, m := range setsVariable.FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	var out []string
	for _, name := range names {
		if value := ts.Getenv(name); value != "" {
			out = append(out, name+"="+value)
		}
	}
	return out
}

// setsVariable matches the lines of a story that set a variable: env NAME=VALUE, capture NAME REGEXP.
var setsVariable = regexp.MustCompile(`(?m)^(?:\[[^]]*\] *)*(?:env|capture) +([A-Za-z_][A-Za-z0-9_]*)`)

func (src *source) gone() bool {
	select {
	case <-src.done:
		return true
	default:
		return false
	}
}

// source finds a named source.
func (s *story) source(ts *testscript.TestScript, name string) *source {
	src := s.sources[name]
	if src == nil {
		ts.Fatalf("nothing was started as %q", name)
	}
	return src
}

// process finds a named process.
func (s *story) process(ts *testscript.TestScript, name string) *source {
	src := s.source(ts, name)
	if src.cmd == nil {
		ts.Fatalf("%s is a subscription, not a process", name)
	}
	return src
}

func awaitLog(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] log NAME REGEXP")
	}
	s, re := of(ts), pattern(ts, args[1])
	src := s.source(ts, args[0])
	timeout := time.NewTimer(s.remaining())
	defer timeout.Stop()
	for {
		gone := src.gone() // before the lines are read: what it wrote last is among them
		lines, changed := src.out.lines(false)
		for _, line := range lines {
			if !re.MatchString(line) {
				continue
			}
			if neg {
				ts.Fatalf("%s wrote %q", args[0], line)
			}
			return
		}
		switch {
		case neg:
			return
		case gone:
			ts.Fatalf("%s ended (%s) and never wrote %q", args[0], how(src.err), args[1])
		}
		select {
		case <-changed:
		case <-src.done:
		case <-timeout.C:
			ts.Fatalf("%s didn't write %q", args[0], args[1])
		}
	}
}

func count(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: count NAME REGEXP N")
	}
	re := pattern(ts, args[1])
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	lines, _ := of(ts).source(ts, args[0]).out.lines(true)
	got := 0
	for _, line := range lines {
		if re.MatchString(line) {
			got++
		}
	}
	if got != want {
		ts.Fatalf("%d lines of %s match %q, want %d", got, args[0], args[1], want)
	}
}

func crash(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: crash NAME")
	}
	src := of(ts).process(ts, args[0])
	if src.gone() {
		ts.Fatalf("crash %s: it has ended already (%s)", args[0], how(src.err))
	}
	src.stop()
}

func end(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: end NAME")
	}
	src := of(ts).process(ts, args[0])
	ts.Check(src.cmd.Process.Signal(syscall.SIGTERM))
	exited(ts, false, args)
}

func exited(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] exited NAME")
	}
	s := of(ts)
	src := s.process(ts, args[0])
	select {
	case <-src.done:
	case <-time.After(s.remaining()):
		ts.Fatalf("%s didn't end", args[0])
	}
	if bad := src.err != nil; bad != neg {
		ts.Fatalf("%s ended: %s", args[0], how(src.err))
	}
}

// asleep waits for a while without a wake; only what wakes the process more often than that can fail it.
func asleep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: asleep NAME SECONDS")
	}
	seconds, err := strconv.Atoi(args[1])
	ts.Check(err)
	s := of(ts)
	src := s.process(ts, args[0])
	look := time.NewTicker(time.Duration(seconds) * time.Second)
	defer look.Stop()
	timeout := time.After(s.remaining())
	for before := -1; ; {
		woken, err := process.Wakes(src.cmd.Process.Pid)
		ts.Check(err)
		if woken == before {
			return
		}
		before = woken
		select {
		case <-look.C:
		case <-src.done:
			ts.Fatalf("%s ended: %s", args[0], how(src.err))
		case <-timeout:
			ts.Fatalf("%s never slept for %d s", args[0], seconds)
		}
	}
}

func how(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func signal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal SIGNAL NAME")
	}
	num := unix.SignalNum("SIG" + args[0])
	if num == 0 {
		ts.Fatalf("unknown signal %s", args[0])
	}
	ts.Check(of(ts).process(ts, args[1]).cmd.Process.Signal(num))
}

// await repeats a command until it succeeds with the output that is waited for.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: await REGEXP http|exec ARG...")
	}
	var try func(args []string) (stdout, stderr string, err error)
	switch args[1] {
	case "http":
		try = httpOnce
	case "exec":
		try = func(args []string) (string, string, error) { return execOnce(ts, args) }
	default:
		ts.Fatalf("await %s: only http and exec can be repeated", args[1])
	}
	s, re := of(ts), pattern(ts, args[0])
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(s.remaining())
	for {
		stdout, stderr, err := try(args[2:])
		if usage := (usageError)(""); errors.As(err, &usage) {
			ts.Fatalf("%v", err)
		}
		if err == nil && re.MatchString(stdout) {
			fmt.Fprint(ts.Stdout(), stdout)
			fmt.Fprint(ts.Stderr(), stderr)
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			ts.Fatalf("never matched %q; last: %v\n%s%s", args[0], err, stdout, stderr)
		}
	}
}

func execOnce(ts *testscript.TestScript, args []string) (string, string, error) {
	cmd, err := command(ts, args)
	if err != nil {
		return "", "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// pattern compiles a regular expression in which ^ and $ are a line's ends, as in testscript's own commands.
func pattern(ts *testscript.TestScript, expr string) *regexp.Regexp {
	re, err := regexp.Compile("(?m)" + expr)
	ts.Check(err)
	return re
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VAR REGEXP")
	}
	m := pattern(ts, args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("the last standard output has no %q with a group", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := bracedVariable.ReplaceAllStringFunc(ts.ReadFile(args[0]), func(v string) string {
		value := ts.Getenv(v[2 : len(v)-1])
		if value == "" {
			ts.Fatalf("expand %s: %s is not set", args[0], v)
		}
		return value
	})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o666))
}

var bracedVariable = regexp.MustCompile(`\$\{[A-Z_]+\}`)
