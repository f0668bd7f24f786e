package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

var sharedHost = sync.OnceValues(func() (*Host, error) {
	e, err := engine.New(engine.Config{})
	if err != nil {
		return nil, err
	}
	testEngine = e
	return New(e)
})

var testEngine *engine.Engine

// newHost is one host for all tests of the process.
func newHost(t testing.TB) *Host {
	t.Helper()
	h, err := sharedHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// compile a component from wasm.
func compile(t testing.TB, wasm []byte) *engine.Component {
	t.Helper()
	newHost(t)
	c, err := testEngine.Compile(wasm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// start a guest, closed with the test or before.
func start(t testing.TB, ctx context.Context, c *engine.Component, l Limits, env *Env) *Guest {
	t.Helper()
	g, err := newHost(t).Instantiate(ctx, testEngine, c, l, env)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// bus is a KV and a Publisher in memory, as one event's transaction is.
type bus struct {
	data map[string][]byte
	sent []string
	err  error
}

func (b *bus) Get(store, key string) ([]byte, bool, error) {
	v, ok := b.data[store+"/"+key]
	return v, ok, b.err
}

func (b *bus) Set(store, key string, value []byte) error {
	if b.data == nil {
		b.data = map[string][]byte{}
	}
	b.data[store+"/"+key] = value
	return b.err
}

func (b *bus) Delete(store, key string) error {
	delete(b.data, store+"/"+key)
	return b.err
}

func (b *bus) Keys(store, after string, limit int) ([]string, error) {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(b.data)) {
		if key, ok := strings.CutPrefix(k, store+"/"); ok && key > after && len(keys) < limit {
			keys = append(keys, key)
		}
	}
	return keys, b.err
}

func (b *bus) Publish(topic string, payload []byte, qos byte, retain bool) error {
	b.sent = append(b.sent, fmt.Sprintf("%s %s %d %v", topic, payload, qos, retain))
	return b.err
}

// answer keeps a response.
type answer struct {
	status   int
	header   http.Header
	body     bytes.Buffer
	trailer  http.Header
	finished int
	writes   int
	refuse   error // what Start returns
}

func (a *answer) Start(status int, header http.Header) error {
	a.status, a.header = status, header
	return a.refuse
}

func (a *answer) Write(p []byte) (int, error) {
	a.writes++
	return a.body.Write(p)
}

func (a *answer) Finish(trailer http.Header) error {
	a.finished++
	a.trailer = trailer
	return nil
}

// serve one request with c on a fresh instance.
func serve(t testing.TB, c *engine.Component, l Limits, env *Env, r *http.Request) (*answer, error) {
	t.Helper()
	g := start(t, r.Context(), c, l, env)
	defer g.Close()
	a := &answer{}
	return a, g.ServeHTTP(HandlersOf(c).HTTP, a, r)
}

// logs collects what a guest says.
type logs []string

func (l *logs) add(level slog.Level, context, message string) {
	*l = append(*l, fmt.Sprintf("%v %s: %s", level, context, message))
}

// within fails the test when do takes longer than anything here may.
func within(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("still blocked after a minute")
	}
}

func request(method, target string, body io.Reader) *http.Request {
	return httptest.NewRequest(method, target, body)
}

var errTest = errors.New("refused by the test")
