package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/test/guests"
)

func TestAnHTTPEventIsAnswered(t *testing.T) {
	f := start(t, guests.HelloHTTP, Limits{})
	e, w := request("GET", "/", nil)
	if err := f.Handle(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	// On a machine that is busy the answer is on its way before its length is known.
	if n := w.Header().Get("Content-Length"); w.Code != 200 || w.Body.String() != "Hello World!" || n != "12" && n != "" {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	c := f.Counters()
	if c.Handled != 1 || c.Failed != 0 || c.P50 <= 0 {
		t.Errorf("counters %+v", c)
	}
}

func TestEffectsOfAHandledEventAreKeptAndOfAFailedOneNone(t *testing.T) {
	f := start(t, guests.Counter, Limits{})
	for _, p := range []string{"a", "fail", "b"} {
		err := f.Handle(t.Context(), message(p))
		if (err != nil) != (p == "fail") {
			t.Errorf("%s: %v", p, err)
		}
		if err != nil && trigger.ReasonOf(err) != trigger.Refused && trigger.ReasonOf(err) != trigger.Trapped {
			t.Errorf("%s: reason %s", p, trigger.ReasonOf(err))
		}
	}
	tick := &trigger.Event{Kind: trigger.KindTimer, Trigger: "app/timer", At: time.Now(), Timer: &trigger.Tick{Scheduled: time.Now(), Actual: time.Now()}}
	if err := f.Handle(t.Context(), tick); err != nil {
		t.Fatal(err)
	}
	if n := f.counts(t); n["mqtt"] != 2 || n["timer"] != 1 {
		t.Errorf("counted %v, want 2 messages and 1 tick", n)
	}
	if got := strings.Join(f.outbox(t), " "); got != "count/mqtt=1 count/mqtt=2 count/timer/timer=1" {
		t.Errorf("outbox %q", got)
	}
}

func TestConcurrentEventsAreSerial(t *testing.T) {
	f := start(t, guests.Counter, Limits{Concurrency: 8, Queue: 1000})
	const n = 200
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := f.Handle(context.Background(), message("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := f.counts(t)["mqtt"]; got != n {
		t.Errorf("%d events counted as %d", n, got)
	}
	seen := map[string]bool{}
	for _, m := range f.outbox(t) {
		if seen[m] {
			t.Errorf("%s published twice", m)
		}
		seen[m] = true
	}
	t.Logf("%d conflicts in %d events", f.Counters().Conflicts, n)
}

// rivalled is a transaction before whose commit another event of the application commits, whenever that may.
type rivalled struct {
	*store.Tx
	rival func()
}

func (r rivalled) Commit(ctx context.Context) error {
	r.rival()
	return r.Tx.Commit(ctx)
}

func TestAnEventThatOthersAlwaysOvertakeIsDoneAtLast(t *testing.T) {
	f := start(t, guests.Counter, Limits{})
	overtaken, begin := 0, f.cfg.Begin
	f.cfg.Begin = func(*trigger.Event) Tx {
		return rivalled{f.store.Begin("app"), func() {
			if !f.cfg.Commits.TryRLock() {
				return
			}
			defer f.cfg.Commits.RUnlock()
			overtaken++
			tx := f.store.Begin("app")
			if err := errors.Join(tx.Set("default", "count/mqtt", []byte(strconv.Itoa(100*overtaken))), tx.Commit(t.Context())); err != nil {
				t.Error(err)
			}
		}}
	}
	if err := f.Handle(t.Context(), message("x")); err != nil {
		t.Fatal(err)
	}
	f.cfg.Begin = begin
	if n := f.counts(t)["mqtt"]; overtaken != sharedRuns || n != 100*sharedRuns+1 {
		t.Errorf("overtaken %d times, counted to %d", overtaken, n)
	}
}

func TestConcurrentRequestsWithBodiesAreSerialToo(t *testing.T) {
	f := start(t, guests.Counter, Limits{Concurrency: 8, Queue: 1000})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			e, w := request("POST", "/", strings.NewReader("x"))
			if err := f.Handle(context.Background(), e); err != nil || w.Code >= 300 {
				t.Errorf("%v %d", err, w.Code)
			}
		})
	}
	wg.Wait()
	if got := f.counts(t)["http"]; got != 50 {
		t.Errorf("50 requests counted as %d", got)
	}
}

// misdeeds of the hostile guest by HTTP and by message, and how they end.
func TestWhatAHandlerDoesWrongIsNamed(t *testing.T) {
	f := start(t, guests.Hostile, Limits{Time: 300 * time.Millisecond, Memory: 32 << 20, Payload: 256 << 10})
	for misdeed, want := range map[string]struct {
		reason trigger.Reason
		text   string
	}{
		"panic": {trigger.Trapped, "unreachable"},

		"stack":  {trigger.Trapped, ""},
		"loop":   {trigger.TooSlow, "time limit of 300ms"},
		"sleep":  {trigger.TooSlow, "time limit of 300ms"},
		"memory": {trigger.Trapped, "memory limit is 32MiB"}, // it says nothing, and the engine can't tell why a guest gave up
		"half":   {trigger.Trapped, ""},
		"ok":     {"", ""},
	} {
		e, w := request("GET", "/"+misdeed, nil)
		for kind, err := range map[string]error{"mqtt": f.Handle(t.Context(), message(misdeed)), "http": f.Handle(t.Context(), e)} {
			if got := trigger.ReasonOf(err); got != want.reason || (err != nil && !strings.Contains(err.Error(), want.text)) {
				t.Errorf("%s by %s: %s: %v, want %s with %q", misdeed, kind, got, err, want.reason, want.text)
			}
		}
		if want.reason != "" && w.Body.Len() > 0 {
			t.Errorf("%s by http: answered %q all the same", misdeed, w.Body)
		}
	}
	if out := f.outbox(t); len(out) != 0 {
		t.Errorf("events that failed published %q", out)
	}
	for _, want := range []string{"component=guest", "trigger=app/mqtt/in", "event=" + f.prefix, "backtrace=", "reason=time-limit"} {
		if !strings.Contains(f.log.String(), want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

func TestAQuietRunnerDropsAHandlersLinesBelowWarnings(t *testing.T) {
	f := start(t, guests.Hostile, Limits{})
	quiet := true
	f.cfg.Quiet = func() bool { return quiet }
	x := &run{Runner: f.Runner, log: f.Runner.log}
	x.guestLog(slog.LevelInfo, "", "small talk")
	x.guestLog(slog.LevelWarn, "", "a warning")
	quiet = false
	x.guestLog(slog.LevelInfo, "", "again")
	if log := f.log.String(); strings.Contains(log, "small talk") || !strings.Contains(log, "a warning") || !strings.Contains(log, "again") || f.lines.dropped() != 1 {
		t.Errorf("%d dropped, the log is %q", f.lines.dropped(), log)
	}
}

func TestAHandlerThatTalksTooMuchIsCutShort(t *testing.T) {
	f := start(t, guests.Hostile, Limits{})
	if err := f.Handle(t.Context(), message("stderr")); err != nil {
		t.Fatal(err)
	}
	if n := len(f.log.String()); n > 1<<20 {
		t.Errorf("%d bytes of log for one event that wrote 10 MiB", n)
	}
	if n := strings.Count(f.log.String(), "log lines dropped: log_lines limit"); n > 1 {
		t.Errorf("said %d times that lines were dropped", n)
	}
	l := newLineLimit(50)
	now := time.Now()
	for range 50 * linesBurst {
		if !l.take(now) {
			t.Fatal("a line within the burst was dropped")
		}
	}
	for range 3 {
		if l.take(now) {
			t.Fatal("a line over the burst passed")
		}
	}
	if n := l.due(now, false); n != 3 {
		t.Errorf("%d dropped lines are said at once, want 3", n)
	}
	l.take(now)
	if n := l.due(now, false); n != 0 {
		t.Errorf("%d dropped lines are said at once again", n)
	}
	if n := l.due(now.Add(sayApart), false); n != 1 {
		t.Errorf("%d dropped lines are said in the end, want 1", n)
	}
	passed := 0
	for range 100 {
		if l.take(now.Add(time.Second)) {
			passed++
		}
	}
	if passed != 50 || l.dropped() != 54 {
		t.Errorf("after a second: %d passed, %d dropped in all, want 50 and 54", passed, l.dropped())
	}
}

func TestEventsWaitForTheirTurnAndTooManyAreRefused(t *testing.T) {
	f := start(t, guests.Hostile, Limits{Time: 2 * time.Second, Concurrency: 1, Queue: 2})
	if err := f.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan error, 3)
	for i := range 3 {
		go func() { results <- f.Handle(ctx, message("loop")) }()
		waitFor(t, func() bool { c := f.Counters(); return c.Active+c.Waiting == i+1 })
	}
	if err := f.Handle(ctx, message("ok")); trigger.ReasonOf(err) != trigger.Busy {
		t.Errorf("the event after a full queue: %v, want busy", err)
	}
	cancel()
	for range 3 {
		if err := <-results; trigger.ReasonOf(err) != trigger.Canceled {
			t.Errorf("a canceled event: %v", err)
		}
	}
	if err := f.Handle(t.Context(), message("ok")); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestAnEventWaitsForItsTurnNoLongerThanIsUseful(t *testing.T) {
	f := start(t, guests.Hostile, Limits{Time: 20 * time.Millisecond, Concurrency: 1})
	if err := f.acquire(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := f.Handle(t.Context(), message("ok")); trigger.ReasonOf(err) != trigger.Busy || !errors.Is(err, errTurn) {
		t.Errorf("an event whose turn never comes: %v", err)
	}
	f.release()
	if err := f.Handle(t.Context(), message("ok")); err != nil {
		t.Error(err)
	}
}

func TestOneComponentThatHangsDelaysNoOther(t *testing.T) {
	hang, fine := start(t, guests.Hostile, Limits{Time: time.Minute, Concurrency: 4}), start(t, guests.HelloHTTP, Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _ = hang.Handle(ctx, message("loop")) }) // canceled in the end
	}
	waitFor(t, func() bool { return hang.Counters().Active == 4 })
	for range 10 {
		e, w := request("GET", "/", nil)
		if err := fine.Handle(t.Context(), e); err != nil || w.Code != 200 {
			t.Errorf("beside four loops and sixteen that wait: %v %d", err, w.Code)
		}
	}
	cancel()
	wg.Wait()
}

func TestClosingDrainsThenCancels(t *testing.T) {
	f := start(t, guests.Hostile, Limits{Time: time.Minute})
	result := make(chan error)
	go func() { result <- f.Handle(context.Background(), message("loop")) }()
	waitFor(t, func() bool { return f.Counters().Active == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	closed := make(chan error)
	go func() { closed <- f.Close(ctx) }()
	waitFor(t, func() bool { return trigger.ReasonOf(f.Handle(context.Background(), message("ok"))) == trigger.Closed })
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v with an event in flight", err)
	default:
	}
	cancel()
	if err := <-result; trigger.ReasonOf(err) != trigger.Canceled {
		t.Errorf("the event in flight: %v", err)
	}
	if err := <-closed; err == nil {
		t.Error("Close says nothing of the event that it canceled")
	}
}

func TestPayloadsAreBounded(t *testing.T) {
	f := start(t, guests.HelloHTTP, Limits{Payload: 64 << 10})
	big := strings.Repeat("x", 65<<10)
	if err := f.Handle(t.Context(), message(big)); trigger.ReasonOf(err) != trigger.TooLarge {
		t.Errorf("message: %v", err)
	}
	for name, body := range map[string]io.Reader{"known length": strings.NewReader(big), "stream": struct{ io.Reader }{strings.NewReader(big)}} {
		e, w := request("POST", "/echo", body)
		err := f.Handle(t.Context(), e)
		var tooLarge *http.MaxBytesError
		if trigger.ReasonOf(err) != trigger.TooLarge || !errors.As(err, &tooLarge) {
			t.Errorf("%s: %d %v", name, w.Code, err)
		}
	}
	e, w := request("POST", "/echo", strings.NewReader(big[:64<<10]))
	if err := f.Handle(t.Context(), e); err != nil || w.Body.String() != big[:64<<10] {
		t.Errorf("a body at the limit: %v, %d bytes back", err, w.Body.Len())
	}
}

func TestAComponentThatDoesNotLoadIsTriedAgain(t *testing.T) {
	f := start(t, guests.HelloHTTP, Limits{})
	load := f.cfg.Load
	f.cfg.Load = func() (*engine.Component, error) { f.cfg.Load = load; return nil, errors.New("no such file") }
	e, _ := request("GET", "/", nil)
	if err := f.Handle(t.Context(), e); trigger.ReasonOf(err) != trigger.Unavailable || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("first: %v", err)
	}
	if err := f.Handle(t.Context(), e); err != nil {
		t.Errorf("second: %v", err)
	}
}

// The board's broker refuses such topics, but another one may not; text that is not UTF-8 would end the process inside the engine.
func TestMessagesOfAnyBytesAreHandledOrRefused(t *testing.T) {
	for name, c := range map[string]struct {
		wasm     []byte
		payloads []string
		mends    bool // what is no text is replaced
	}{
		"wasi:messaging": {guests.Ledger, []string{"1"}, true},
		"spin":           {guests.Spin, []string{"", "\x00", "\xff\xfe", strings.Repeat("\xc3", 1000)}, false},
	} {
		f := start(t, c.wasm, Limits{})
		for topic, good := range map[string]bool{"ok": true, "\U0010ffff": true, "\xff": false, "\xed\xa0\x80": false, "a/\xc3": false} {
			for _, payload := range c.payloads {
				m := message(payload)
				m.MQTT.Topic = topic
				if err := f.Handle(t.Context(), m); (err == nil) != (good || c.mends) {
					t.Errorf("%s: topic %q, payload %.10q: %v", name, topic, payload, err)
				}
			}
		}
	}
}

func TestAnEventThatNothingHandlesSaysSo(t *testing.T) {
	f := start(t, guests.HelloHTTP, Limits{})
	tick := &trigger.Event{Kind: trigger.KindTimer, Trigger: "t", Timer: &trigger.Tick{}}
	if err := f.Handle(t.Context(), tick); err == nil {
		t.Error("a tick was handled by a component that has no handler for it")
	}
}

func TestHostileHandlersOverRealConnections(t *testing.T) {
	f := start(t, guests.Hostile, Limits{Time: 500 * time.Millisecond, Payload: 1 << 20})
	url := serve(t, f)
	for path, want := range map[string]int{
		"/ok": 200, "/open": 200, "/leak": 500, "/panic": 500, "/loop": 504, "/sleep": 504, "/never": 500, "/half": 500, "/memory": 500, "/stack": 500,
	} {
		res, err := http.Get(url + path)
		if err != nil {
			t.Errorf("GET %s: %v", path, err)
			continue
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: %d %q, want %d; the log:\n%s", path, res.StatusCode, b, want, f.log)
		}
	}
	// Begun and then broken: the client must be able to tell.
	for _, path := range []string{"/late", "/endless", "/drop", "/twice"} {
		res, err := http.Get(url + path)
		if err != nil {
			continue // cut off before the header
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode < 500 {
			t.Errorf("GET %s: %d and a body of %d bytes that looks whole", path, res.StatusCode, len(b))
		}
	}
	// A client that sends half of a large body and then nothing holds its handler no longer than the time limit.
	r, w := io.Pipe()
	go fmt.Fprint(w, "half")
	res, err := http.Post(url+"/ok", "text/plain", r)
	if err == nil {
		res.Body.Close()
	}
	w.Close()
	waitFor(t, func() bool { return f.Counters().Active == 0 })
}
