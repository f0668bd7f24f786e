package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	httptrigger "dunlin.dev/dunlin/agent/internal/trigger/http"
)

// world is one engine for all tests, with each guest compiled once.
var world = sync.OnceValues(func() (*machine, error) {
	e, err := engine.New(engine.Config{})
	if err != nil {
		return nil, err
	}
	h, err := host.New(e)
	if err != nil {
		return nil, err
	}
	return &machine{engine: e, host: h, compiled: map[string][]byte{}}, nil
})

type machine struct {
	engine   *engine.Engine
	host     *host.Host
	compiled map[string][]byte
}

// journal collects log lines.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

type fixture struct {
	*Runner
	store *store.Store
	log   *journal
}

// start a runner of a guest on a store of its own.
func start(t testing.TB, wasm []byte, l Limits) *fixture {
	t.Helper()
	m, err := world()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir(), slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: s, log: &journal{}}
	f.Runner = New(Config{
		Engine: m.engine, Host: m.host, Application: "app", Name: "guest", Limits: l,
		Load:   func() (*engine.Component, error) { return m.engine.Compile(wasm) },
		Grants: host.Grants{Stores: []string{"default"}, Publish: []string{"#"}, Variables: map[string]string{}},
		Begin: func(*trigger.Event) Tx {
			return s.Begin("app").Within(store.Quota{Stores: []string{"default"}, Bytes: 16 << 20})
		},
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	t.Cleanup(func() {
		if err := errors.Join(f.Close(context.Background()), s.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func message(payload string) *trigger.Event {
	return &trigger.Event{Kind: trigger.KindMQTT, Trigger: "app/mqtt/in", At: time.Now(), MQTT: &trigger.Message{Topic: "in", Payload: []byte(payload), QoS: 1}}
}

func request(method, path string, body io.Reader) (*trigger.Event, *httptest.ResponseRecorder) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, body)
	return &trigger.Event{Kind: trigger.KindHTTP, Trigger: "app/http/", At: time.Now(), HTTP: &trigger.HTTP{Request: r, Response: w, Route: "/..."}}, w
}

// counts asks the counter guest.
func (f *fixture) counts(t testing.TB) map[string]int {
	t.Helper()
	e, w := request("GET", "/", nil)
	if err := f.Handle(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var n map[string]int
	if err := json.Unmarshal(w.Body.Bytes(), &n); err != nil {
		t.Fatalf("%v in %q", err, w.Body)
	}
	return n
}

func (f *fixture) outbox(t testing.TB) []string {
	t.Helper()
	ms, err := f.store.Outbox(0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range ms {
		out = append(out, m.Topic+"="+string(m.Payload))
	}
	return out
}

// waitFor something that another goroutine does.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	often, late := time.NewTicker(time.Millisecond), time.After(30*time.Second)
	defer often.Stop()
	for !done() {
		select {
		case <-often.C:
		case <-late:
			t.Fatal("it never happened")
		}
	}
}

// serve a runner over a real listener.
func serve(t testing.TB, f *fixture) string {
	t.Helper()
	s := httptrigger.New(httptrigger.Config{Address: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
	if err := s.Set([]httptrigger.Route{{ID: "r", Pattern: "/...", Handle: f.Handle}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String()
}
