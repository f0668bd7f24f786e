package runner

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/test/guests"
)

// resident memory of this process, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	engine.Trim()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// neighbour handles events, one after the other, for as long as something else goes on.
type neighbour struct{ *fixture }

func (n neighbour) beside(t *testing.T, do func()) {
	t.Helper()
	var over atomic.Bool
	began, ended := make(chan struct{}), make(chan int)
	go func() {
		handled := 0
		for ; !over.Load() || handled < 3; handled++ {
			e, w := request("GET", "/", nil)
			if err := n.Handle(context.Background(), e); err != nil || w.Body.String() != "Hello World!" {
				t.Errorf("the neighbour's event: %v, %d %q", err, w.Code, w.Body)
			}
			if handled == 0 {
				close(began)
			}
		}
		ended <- handled
	}()
	<-began
	do()
	over.Store(true)
	<-ended
}

// Each misdeed of the hostile guest ends its own event, by a limit that says its name or in a trap, beside a neighbour of which
// no event fails; and afterwards the process is as it was.
func TestAHostileHandlerCostsItsOwnLimitsAndNobodyElseAnything(t *testing.T) {
	refuses := httptest.NewServer(http.NotFoundHandler())
	defer refuses.Close()
	const trapped, full, cpu = trigger.Trapped, trigger.Reason("key-value-limit"), trigger.TooBusy
	patient := start(t, guests.Hostile, Limits{Time: time.Minute, CPU: time.Minute})
	patient.cfg.Grants.OutboundHosts = []string{"http://127.0.0.1:*"}
	thinker := start(t, guests.Hostile, Limits{Time: time.Minute, CPU: 50 * time.Millisecond})
	sleeper := start(t, guests.Hostile, Limits{Time: 50 * time.Millisecond})
	vast := start(t, enginetest.Wat(t, `(component (core module $m (memory 65536)) (core instance (instantiate $m)))`), Limits{})
	tables := start(t, enginetest.Wat(t, `(component (core module $m (table 100000 funcref) (table 100000 funcref)) (core instance (instantiate $m)))`), Limits{Memory: 1 << 20})
	next := neighbour{start(t, guests.HelloHTTP, Limits{})}
	cases := []struct {
		on      *fixture
		misdeed string
		reason  trigger.Reason
		text    string
	}{
		{patient, "handles-pollable", trapped, "holds 10000 handles"},
		{patient, "handles-fields", trapped, "holds 10000 handles"},
		{patient, "handles-request", trapped, "holds 10000 handles"},
		{patient, "handles-response", trapped, "holds 10000 handles"},
		{patient, "handles-options", trapped, "holds 10000 handles"},
		{patient, "handles-stream", trapped, "holds 10000 handles"},
		{patient, "handles-bucket", trapped, "holds 10000 handles"},
		{patient, "handles-client", trapped, "holds 10000 handles"},
		{patient, "handles-message", trapped, "holds 10000 handles"},
		{patient, "fork-bomb", trapped, "holds 10000 handles"},
		{patient, "poll-nothing", trapped, "list of pollables is empty"},
		{patient, "random", trapped, "4294967296 random bytes"},
		{patient, "get-many", trapped, ""},
		{patient, "strings", trapped, "16 MiB to keep"},
		{patient, "bytes", trapped, ""},
		{patient, "kv-bomb", full, "key_value limit of 16MiB"},
		{patient, "kv-flood", "event-limit", "event limit of 8MiB"},
		{patient, "publish-bomb", "event-limit", "event limit of 8MiB"},
		{patient, "request-bomb " + refuses.Listener.Addr().String(), "requests-limit", "requests limit of 64"},
		{patient, "stack", trapped, ""},
		{patient, "memory", trapped, "memory limit is 64MiB"},
		{patient, "give-up", trigger.TooBig, "memory limit is 64MiB"},
		{patient, "panic", trapped, ""},
		{thinker, "loop", cpu, "cpu limit of 50ms"},
		{thinker, "stderr-endless", cpu, "cpu limit of 50ms"},
		{thinker, "log-endless", cpu, "cpu limit of 50ms"},
		{thinker, "environment", cpu, "cpu limit of 50ms"},
		{thinker, "list-keys", cpu, "cpu limit of 50ms"},
		{sleeper, "sleep", trigger.TooSlow, "time limit of 50ms"},
		{sleeper, "poll-many", trigger.TooSlow, "time limit of 50ms"},
		{sleeper, "poll-spin", trigger.TooSlow, "time limit of 50ms"},
		{vast, "a memory of 4 GiB", trigger.TooBig, "memory limit of 64MiB"},
		{tables, "tables that are too large", trigger.TooBig, "memory limit of 1MiB"},
	}
	round := func() {
		for _, c := range cases {
			next.beside(t, func() {
				err := c.on.Handle(t.Context(), message(c.misdeed))
				if got := trigger.ReasonOf(err); got != c.reason || !strings.Contains(err.Error(), c.text) {
					t.Errorf("%s: %s: %v, want %s with %q", c.misdeed, got, err, c.reason, c.text)
				}
			})
		}
	}
	round() // the first one compiles, and fills caches
	machine, err := world()
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	memory, live, goroutines := resident(t), machine.engine.Live(), runtime.NumGoroutine()
	// How much of what was freed glibc keeps differs from round to round, by up to 8 MiB for each thread; what leaks adds up.
	rounds, grown := uint64(1), int64(math.MaxInt64)
	for ; rounds < 4 && grown > 32<<20; rounds++ {
		round()
		grown = resident(t) - memory
	}
	if n := machine.engine.Live(); n != live {
		t.Errorf("%d components, linkers and stores, before it were %d", n, live)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines+4 }) // kept connections have some
	if t.Logf("%d KiB are resident that were not before", grown>>10); grown > 32<<20 {
		t.Errorf("they stay over %d rounds", rounds-1)
	}
	for _, f := range []*fixture{patient, thinker, sleeper} {
		if err := f.Handle(t.Context(), message("ok")); err != nil && f != sleeper { // which may be too slow on a slow machine
			t.Errorf("after all that: %v", err)
		}
		if out := f.outbox(t); len(out) != 0 {
			t.Errorf("events that failed published %d messages", len(out))
		}
		if n := strings.Count(f.log.String(), "\n"); n > 5000 { // of more than 50,000
			t.Errorf("%d lines in the log", n)
		}
	}
	if c := thinker.Counters(); c.Dropped == 0 || c.Reasons[cpu] != 5*rounds {
		t.Errorf("counters of one that talked and computed too much: %+v", c)
	}
}

func TestWhatIsKeptStaysWithinTheKeyValueLimitOverEvents(t *testing.T) {
	f := start(t, guests.Hostile, Limits{Time: time.Minute, CPU: time.Minute})
	for n := range 8 {
		err := f.Handle(t.Context(), message("kv-fill"))
		if n < 5 && err != nil {
			t.Errorf("event %d, of 3 MiB each: %v", n, err)
		}
		if n >= 5 && (trigger.ReasonOf(err) != trigger.OverLimit("key_value") || !strings.Contains(err.Error(), "key_value limit of 16MiB")) {
			t.Errorf("event %d: %s, %v", n, trigger.ReasonOf(err), err)
		}
	}
	// A handler that copes is no failure, but it was said.
	if err := f.Handle(t.Context(), message("kv-coping")); err != nil {
		t.Error(err)
	}
	if n := f.Counters().Reasons["key-value-limit"]; n != 3 {
		t.Errorf("%d events failed by the limit, want 3", n)
	}
	if !strings.Contains(f.log.String(), `level=WARN msg="key_value limit of 16MiB`) {
		t.Error("the log doesn't say it")
	}
}

// Two components could have the whole engine between them, and one takes all that it gets. What comes for the other, and for a
// third, is handled all the same.
func TestAComponentThatFillsTheEngineStarvesNoOther(t *testing.T) {
	machine, err := world()
	if err != nil {
		t.Fatal(err)
	}
	slots := machine.engine.Slots()
	hog := start(t, guests.Hostile, Limits{Time: time.Minute, Concurrency: slots, Queue: 1000})
	others := []neighbour{{start(t, guests.HelloHTTP, Limits{})}, {start(t, guests.HelloHTTP, Limits{Concurrency: slots})}}
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	for range 2 * slots {
		go func() { results <- hog.Handle(ctx, message("sleep")) }()
	}
	waitFor(t, func() bool { c := hog.Counters(); return c.Active == slots && c.Waiting == slots })
	for _, other := range others {
		other.beside(t, func() {
			for range 20 {
				e, _ := request("GET", "/", nil)
				if err := other.Handle(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	cancel()
	for range 2 * slots {
		if err := <-results; trigger.ReasonOf(err) != trigger.Canceled {
			t.Errorf("one of the many: %s, %v", trigger.ReasonOf(err), err)
		}
	}
	if err := hog.Handle(t.Context(), message("ok")); err != nil {
		t.Error(err)
	}
}

// With room to wait nothing is refused, however many come at once, and the wait for the engine counts against nobody's time.
func TestNothingIsRefusedWhileThereIsRoomToWait(t *testing.T) {
	const events = 200
	f := start(t, guests.Hostile, Limits{Concurrency: 2, Queue: events, Time: time.Minute})
	results := make(chan error)
	for range events {
		go func() { results <- f.Handle(t.Context(), message("ok")) }()
	}
	for range events {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	full := start(t, guests.Hostile, Limits{Concurrency: 1, Queue: 1, Time: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	for n := range 2 {
		go func() { results <- full.Handle(ctx, message("sleep")) }()
		waitFor(t, func() bool { c := full.Counters(); return c.Active+c.Waiting == n+1 })
	}
	err := full.Handle(t.Context(), message("ok"))
	if trigger.ReasonOf(err) != trigger.Busy || !strings.Contains(err.Error(), "queue limit of 1") || !strings.Contains(err.Error(), "concurrency limit of 1") {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	for range 2 {
		if r := trigger.ReasonOf(<-results); r != trigger.Canceled {
			t.Errorf("one that was under way: %s", r)
		}
	}
}
