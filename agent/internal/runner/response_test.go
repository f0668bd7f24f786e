package runner

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/alarm"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/test/guests"
)

// answering is a response to a recorder, in a run that has begun.
func answering(t *testing.T, limit int64) (*response, *effects, *httptest.ResponseRecorder) {
	t.Helper()
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	r := newResponse(t.Context(), new(alarm.Clock), &trigger.HTTP{Request: req, Response: w}, newReplay(req), limit)
	tx := &effects{}
	r.begin(tx)
	if err := r.Start(201, http.Header{"X-A": {"b"}, "Connection": {"upgrade"}}); err != nil {
		t.Fatal(err)
	}
	return r, tx, w
}

func write(t *testing.T, r *response, s string) {
	t.Helper()
	if _, err := io.WriteString(r, s); err != nil {
		t.Fatal(err)
	}
}

func TestAResponseWithoutEffectsIsStreamedWhenItTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w := answering(t, 1<<20)
		write(t, r, "a")
		r.mu.Lock()
		early := w.Body.Len()
		r.mu.Unlock()
		if early != 0 {
			t.Error("sent at once: a quick response should go out in one piece")
		}
		time.Sleep(streamDelay) //nolint:forbidigo // synctest's clock
		synctest.Wait()
		if w.Code != 201 || w.Body.String() != "a" || w.Header().Get("X-A") != "b" || w.Header().Get("Connection") != "" {
			t.Errorf("after %s: %d %q %v, want it begun, without the header that is the connection's", streamDelay, w.Code, w.Body, w.Header())
		}
		write(t, r, "b")
		if w.Body.String() != "ab" {
			t.Errorf("%q, want each part sent as it comes", w.Body)
		}
		if r.discard() {
			t.Error("a response that was begun was taken back")
		}
	})
}

func TestAResponseWaitsForTheEffectsThatItMayTellAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, tx, w := answering(t, 4<<20)
		tx.writing()
		write(t, r, strings.Repeat("x", 100<<10))
		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		synctest.Wait()
		if w.Body.Len() != 0 {
			t.Fatalf("%d bytes were sent before the commit", w.Body.Len())
		}
		if err := r.Finish(nil); err != nil {
			t.Fatal(err)
		}
		if w.Body.Len() != 0 {
			t.Fatal("the end was sent before the commit")
		}
		if err := r.send(); err != nil || w.Body.Len() != 100<<10 || w.Header().Get("Content-Length") != "102400" {
			t.Errorf("after the commit: %v, %d bytes, %v", err, w.Body.Len(), w.Header())
		}
	})
}

func TestTheEndOfAStreamWaitsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, tx, w := answering(t, 4<<20)
		write(t, r, strings.Repeat("x", maxSmall+1)) // begun by its size
		tx.writing()
		write(t, r, "tail")
		if err := r.Finish(http.Header{"X-Sum": {"1"}}); err != nil {
			t.Fatal(err)
		}
		if w.Body.Len() != maxSmall+1 {
			t.Errorf("%d bytes before the commit, want those from before the first effect", w.Body.Len())
		}
		if err := r.send(); err != nil || w.Body.Len() != maxSmall+5 || w.Header().Get(http.TrailerPrefix+"X-Sum") != "1" {
			t.Errorf("after the commit: %v, %d bytes, %v", err, w.Body.Len(), w.Header())
		}
	})
}

func TestAHeldResponseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, tx, w := answering(t, 8<<20)
		tx.writing()
		_, err := io.WriteString(r, strings.Repeat("x", maxHeld+1))
		if !errors.Is(err, errPayload) || !strings.Contains(err.Error(), "over 1MiB while the event's effects are not durable") {
			t.Errorf("Write = %v", err)
		}
		if r.send() == nil || w.Body.Len() != 0 {
			t.Error("it was sent all the same")
		}
		r, _, _ = answering(t, 1<<10)
		if _, err := io.WriteString(r, strings.Repeat("x", 1025)); !errors.Is(err, errPayload) {
			t.Errorf("over the payload limit: %v", err)
		}
		r.end()
	})
}

func TestARunThatConflictedLeavesNothingInTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, tx, w := answering(t, 1<<20)
		tx.writing()
		write(t, r, "first")
		if !r.discard() {
			t.Fatal("a held response can't be taken back")
		}
		r.begin(&effects{})
		if err := r.Start(200, nil); err != nil {
			t.Fatal(err)
		}
		write(t, r, "second")
		if err := errors.Join(r.Finish(nil), r.send()); err != nil {
			t.Fatal(err)
		}
		if w.Code != 200 || w.Body.String() != "second" || w.Header().Get("X-A") != "" {
			t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
		}
	})
}

func TestASmallBodyIsReadAgainAndALargeOneOnce(t *testing.T) {
	for size, again := range map[int]bool{0: true, 1: true, inMemory: true, inMemory + 1: false} {
		want := strings.Repeat("x", size)
		b := newReplay(httptest.NewRequest(http.MethodPost, "/", struct{ io.Reader }{strings.NewReader(want)}))
		// The first reader stops halfway, as one whose run ends early does.
		if _, err := io.CopyN(io.Discard, b.reader(1<<20), int64(size/2)); err != nil {
			t.Fatal(err)
		}
		if size <= inMemory {
			if got, err := io.ReadAll(b.reader(1 << 20)); err != nil || string(got) != want {
				t.Errorf("%d bytes: second reader got %d, %v", size, len(got), err)
			}
		} else if _, err := io.Copy(io.Discard, b.reader(1<<20)); err != nil {
			t.Fatal(err)
		}
		if b.again() != again {
			t.Errorf("%d bytes: again = %t", size, !again)
		}
	}
}

func TestDurationsAreWithinTenPercent(t *testing.T) {
	for _, d := range []time.Duration{2 * time.Microsecond, 216 * time.Microsecond, 5 * time.Millisecond, time.Second, 10 * time.Minute} {
		var s stats
		for range 99 {
			s.ended(nil, d)
		}
		s.ended(nil, time.Hour)
		got := s.read().P50
		if off := float64(got-d) / float64(d); off < -0.1 || off > 0.1 {
			t.Errorf("%s is reported as %s", d, got)
		}
		if got := s.read().P99; got > d*2 {
			t.Errorf("p99 of 99 times %s and an hour: %s", d, got)
		}
	}
	var s stats
	s.ended(&trigger.Failure{Reason: trigger.Busy}, 0)
	if c := s.read(); c.P50 != 0 || c.Failed != 1 || c.Reasons[trigger.Busy] != 1 {
		t.Errorf("%+v", c)
	}
}

// contested is a transaction whose reads have always changed by its end.
type contested struct{ Tx }

func (contested) Commit(context.Context) error { return store.ErrConflict }

func TestAPageThatOnlyReadAndIsOnItsWayIsNotCutOff(t *testing.T) {
	f := start(t, guests.HelloHTTP, Limits{})
	begin := f.cfg.Begin
	f.cfg.Begin = func(e *trigger.Event) Tx { return contested{begin(e)} }
	body := strings.Repeat("x", 3*maxSmall)
	e, w := request(http.MethodPost, "/echo", strings.NewReader(body))
	if err := f.Handle(t.Context(), e); err != nil || w.Body.String() != body {
		t.Errorf("streamed: %d bytes, %v", w.Body.Len(), err)
	}
	e, _ = request(http.MethodGet, "/", nil)
	if err := f.Handle(t.Context(), e); trigger.ReasonOf(err) != trigger.Conflicted {
		t.Errorf("a response that can be made again: %v, want a conflict after several runs", err)
	}
}
