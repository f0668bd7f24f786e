package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/codecache"
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/fleet/wire"
	"dunlin.dev/dunlin/test/guests"
)

// patience is how long a test waits for what must happen; nothing is decided by it but failure.
const patience = 2 * time.Minute

const (
	app      = "trial"
	goodBody = "Hello World!"
)

// board is a real agent in this process.
type board struct {
	t     *testing.T
	cfg   Config
	agent *Agent
	http  string
	bus   string
	log   *lines
	stop  func()
}

// boardOf is a board of f, with nothing installed.
func boardOf(t *testing.T, f *testFleet) *board {
	t.Helper()
	return boardIn(t, f, t.TempDir(), func(*Config) {})
}

// boardIn is such a board in a directory of the test's.
func boardIn(t *testing.T, f *testFleet, dir string, change func(*Config)) *board {
	t.Helper()
	f.write(dir)
	b := &board{t: t, cfg: Config{
		State: filepath.Join(dir, "state"), Listen: "127.0.0.1:0", Bus: Bus{Listen: "127.0.0.1:0"}, Version: "1.2.3", silence: 300 * time.Millisecond,
		rest:  func(int, float64) time.Duration { return 400 * time.Millisecond },
		Fleet: &Fleet{Name: f.name, Device: f.device, URL: f.url(), Root: filepath.Join(dir, "root.json"), TokenFile: filepath.Join(dir, "token")},
	}}
	change(&b.cfg)
	b.start()
	return b
}

// start runs the agent on what the board's directory holds.
func (b *board) start() {
	b.t.Helper()
	b.seedCode()
	b.log = &lines{}
	a, err := New(b.cfg, slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.agent = a
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("run agent: %v", err)
			}
		case <-time.After(patience):
			b.t.Fatalf("the agent does not stop")
		}
		a.Close()
	})
	b.t.Cleanup(func() {
		b.stop()
		if b.t.Failed() {
			b.t.Logf("agent's log:\n%s", b.log)
		}
	})
	ready, end := context.WithTimeout(ctx, patience)
	defer end()
	if err := a.Ready(ready); err != nil {
		b.t.Fatalf("wait until the agent listens: %v", err)
	}
	b.http, b.bus = a.Addresses()
}

// get requests a path; the body, or the error, as text.
func (b *board) get(path string) string {
	resp, err := http.Get("http://" + b.http + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("%d %s", resp.StatusCode, body)
	}
	return string(body)
}

// running gives the version of each application that serves.
func (b *board) running() string {
	var out []string
	for _, d := range b.agent.apps.list() {
		out = append(out, d.manifest.Application+" "+d.manifest.Version)
	}
	return strings.Join(out, ", ")
}

// serves checks that just these applications run, and that the trial answers as the first good version does.
func (b *board) serves(want string) {
	b.t.Helper()
	if got := b.running(); got != want {
		b.t.Errorf("runs %q, want %q", got, want)
	}
	if got := b.get("/"); got != goodBody {
		b.t.Errorf("answers %q, want %q", got, goodBody)
	}
}

// eventually waits for a condition. It looks often: what it waits for is memory's or a file's.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("it does not happen: %s", what)
		case <-look.C:
		}
	}
}

// lines keeps a log for the case of a failure.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// variant is the same component with other bytes: a custom section at its end, which nothing reads.
func variant(wasm []byte, tag string) []byte {
	content := append([]byte{byte(len("variant"))}, "variant"...)
	content = append(content, tag...)
	section := binary.AppendUvarint([]byte{0}, uint64(len(content)))
	return append(append(append([]byte{}, wasm...), section...), content...)
}

// The components that tests install.
var (
	hello1   = guests.HelloHTTP
	hello2   = variant(guests.HelloHTTP, "2")
	counter  = guests.Counter
	counter2 = variant(guests.Counter, "2")
)

// code is compiled once for all boards of this process; each gets links to the files, as if it had compiled them itself.
var code = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dunlin-agent-test-")
	if err != nil {
		return "", err
	}
	e, err := engine.New(engine.Config{})
	if err != nil {
		return "", err
	}
	defer e.Close()
	cache, err := codecache.Open(dir, e, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	for _, wasm := range [][]byte{hello1, hello2, counter, counter2} {
		c, err := cache.Load(wire.Sum(wasm).String(), func() ([]byte, error) { return wasm, nil })
		if err != nil {
			return "", err
		}
		c.Close()
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // boards wait more than they work
		panic(err)
	}
	status := m.Run()
	if dir, err := code(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(status)
}

func (b *board) seedCode() {
	b.t.Helper()
	from, err := code()
	if err != nil {
		b.t.Fatal(err)
	}
	to := filepath.Join(b.cfg.State, "code")
	if err := os.MkdirAll(to, 0o700); err != nil {
		b.t.Fatal(err)
	}
	files, err := os.ReadDir(from)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range files {
		err := os.Link(filepath.Join(from, f.Name()), filepath.Join(to, f.Name()))
		if errors.Is(err, unix.EXDEV) {
			var code []byte
			if code, err = os.ReadFile(filepath.Join(from, f.Name())); err == nil {
				err = os.WriteFile(filepath.Join(to, f.Name()), code, 0o600)
			}
		}
		if err != nil && !os.IsExist(err) {
			b.t.Fatal(err)
		}
	}
}
