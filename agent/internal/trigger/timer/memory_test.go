package timer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// committing handles ticks as the runner does: what ends them is written, with whatever else they do.
func committing(t *testing.T, s *store.Store, got *ticks) trigger.Handler {
	return func(ctx context.Context, e *trigger.Event) error {
		if err := got.handle(ctx, e); err != nil || e.Ends == nil {
			return err
		}
		ends, err := e.Ends(ctx)
		if err != nil {
			return err
		}
		tx := s.Begin("app")
		for _, r := range ends.Rows {
			if err := tx.With(r.Key, r.Value, r.Once); err != nil {
				t.Error(err)
			}
		}
		return tx.Commit(ctx)
	}
}

func scheduled(all []trigger.Tick) (s []string) {
	for _, k := range all {
		s = append(s, k.Scheduled.UTC().Format("02T15:04"))
	}
	return s
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A bubble's clock begins at midnight.
func TestWhatWasMissedWhileTheAgentWasOffIsMadeUpFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		timer Timer
		first []string // fired in the first five hours
		then  []string // at the start after ten more
		next  []string // in the six hours after that
	}{
		{"cron skip", Timer{Cron: "0 */4 * * *"}, []string{"01T04:00"}, nil, []string{"01T16:00", "01T20:00"}},
		{"cron once", Timer{Cron: "0 */4 * * *", Missed: MissedOnce}, []string{"01T04:00"}, []string{"01T12:00"}, []string{"01T16:00", "01T20:00"}},
		{"cron all", Timer{Cron: "0 */4 * * *", Missed: MissedAll}, []string{"01T04:00"}, []string{"01T08:00", "01T12:00"}, []string{"01T16:00", "01T20:00"}},
		{"never before", Timer{Cron: "0 7 * * *", Missed: MissedOnce}, nil, []string{"01T07:00"}, nil},
		{"interval skip", Timer{Every: 4 * time.Hour}, []string{"01T04:00"}, nil, []string{"01T19:00"}},
		{"interval once", Timer{Every: 4 * time.Hour, Missed: MissedOnce}, []string{"01T04:00"}, []string{"01T12:00"}, []string{"01T16:00", "01T20:00"}},
		{"interval all", Timer{Every: 4 * time.Hour, Missed: MissedAll}, []string{"01T04:00"}, []string{"01T08:00", "01T12:00"}, []string{"01T16:00", "01T20:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := storetest.Open(t)
				var got ticks
				c.timer.ID, c.timer.Handle = "a", committing(t, s, &got)
				b := run(t, Config{Memory: s}, c.timer)
				pass(5 * time.Hour)
				b.stop()
				if first := scheduled(got.take()); !equal(first, c.first) {
					t.Errorf("fired %v, want %v", first, c.first)
				}
				pass(10 * time.Hour)
				b = run(t, Config{Memory: s}, c.timer)
				pass(time.Second)
				if then := scheduled(got.take()); !equal(then, c.then) {
					t.Errorf("made up for %v, want %v", then, c.then)
				}
				pass(6 * time.Hour)
				b.stop()
				if next := scheduled(got.take()); !equal(next, c.next) {
					t.Errorf("went on with %v, want %v", next, c.next)
				}
			})
		})
	}
}

func TestNothingIsMadeUpForByAClockThatIsNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.Open(t)
		var got ticks
		var trusted atomic.Bool
		trusted.Store(true)
		timer := Timer{ID: "a", Cron: "0 */4 * * *", Missed: MissedOnce, Handle: committing(t, s, &got)}
		cfg := Config{Memory: s, Trusted: trusted.Load}
		b := run(t, cfg, timer)
		pass(5 * time.Hour)
		b.stop()
		got.take()
		pass(10 * time.Hour) // it is 15:00
		trusted.Store(false)
		b = run(t, cfg, timer)
		b.offset.Store(int64(-30 * 365 * 24 * time.Hour)) // a board without a clock
		pass(20 * time.Minute)
		if n := len(got.take()); n != 0 {
			t.Errorf("%d ticks by a clock that isn't trusted", n)
		}
		b.offset.Store(0) // the network is there
		trusted.Store(true)
		pass(2 * time.Minute)
		if all := got.take(); !equal(scheduled(all), []string{"01T12:00"}) || !all[0].ClockTrusted {
			t.Errorf("made up for %v, want 12:00 once the clock is trusted", all)
		}
		pass(time.Hour)
		if all := scheduled(got.take()); !equal(all, []string{"01T16:00"}) {
			t.Errorf("went on with %v", all)
		}
		b.stop()
	})
}

func TestATickThatFailedIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.Open(t)
		var got ticks
		timer := Timer{ID: "a", Cron: "0 4 * * *", Missed: MissedAll, Handle: func(ctx context.Context, e *trigger.Event) error {
			return errors.Join(got.handle(ctx, e), errors.New("trap"))
		}}
		for range 2 {
			b := run(t, Config{Memory: s}, timer)
			pass(5 * time.Hour)
			b.stop()
		}
		if all := scheduled(got.take()); !equal(all, []string{"01T04:00"}) {
			t.Errorf("fired %v", all)
		}
	})
}

func TestAnotherScheduleOwesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.Open(t)
		var got ticks
		b := run(t, Config{Memory: s}, Timer{ID: "a", Cron: "0 4 * * *", Missed: MissedAll, Handle: committing(t, s, &got)})
		pass(5 * time.Hour)
		b.stop()
		got.take()
		pass(5 * time.Hour)
		b = run(t, Config{Memory: s}, Timer{ID: "a", Cron: "0 * * * *", Missed: MissedAll, Handle: committing(t, s, &got)})
		pass(time.Second)
		if all := got.take(); len(all) != 0 {
			t.Errorf("fired %v", all)
		}
		if err := b.Set(nil); err != nil { // the timer is removed, and what is remembered of it
			t.Fatal(err)
		}
		b.stop()
		if _, ok, err := s.Get("timer/a"); ok || err != nil {
			t.Errorf("it is remembered still: %v", err)
		}
	})
}

func TestJitterDelaysATickAndNotItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ticks
		b := run(t, Config{}, Timer{ID: "a", Every: time.Hour, Jitter: 30 * time.Minute, Handle: got.handle})
		pass(100*time.Hour + 31*time.Minute)
		b.stop()
		all := got.take()
		late := map[time.Duration]bool{}
		for i, k := range all {
			by := k.Actual.Sub(k.Scheduled)
			if by < 0 || by >= 30*time.Minute || i > 0 && k.Scheduled.Sub(all[i-1].Scheduled) != time.Hour {
				t.Errorf("tick %d: scheduled %s, handed over %s later", i, k.Scheduled, by)
			}
			late[by] = true
		}
		if len(all) != 100 || len(late) < 50 {
			t.Errorf("%d ticks with %d different delays", len(all), len(late))
		}
	})
}

func TestATickThatAStopCutOffIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.Open(t)
		var got ticks
		timer := Timer{ID: "a", Cron: "0 4 * * *", Missed: MissedAll, Handle: func(ctx context.Context, _ *trigger.Event) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		src := New(Config{Memory: s, Drain: time.Second}, slog.New(slog.DiscardHandler))
		if err := src.Set([]Timer{timer}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour+time.Minute)
		defer cancel()
		if err := src.Run(ctx); err == nil {
			t.Error("the tick ended before the stop")
		}
		synctest.Wait()
		timer.Handle = committing(t, s, &got)
		b := run(t, Config{Memory: s}, timer)
		pass(time.Second)
		b.stop()
		if all := scheduled(got.take()); !equal(all, []string{"01T04:00"}) {
			t.Errorf("made up for %v, want the tick that was cut off", all)
		}
	})
}

// What is remembered of one schedule says nothing about another, whatever bytes the store gives.
func FuzzMemory(f *testing.F) {
	m := memory{store: remembered(nil), key: "timer/t", of: "1m0s  ", log: slog.New(slog.DiscardHandler)}
	f.Add(m.row(time.Unix(1_700_000_000, 5)).Value)
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := m
		m.store = remembered(b)
		if at, ok := m.read(); ok && !bytes.Equal(m.row(at).Value, b) {
			t.Fatalf("%x is written as %x", b, m.row(at).Value)
		}
	})
}

// remembered is a store of one row.
type remembered []byte

func (r remembered) Get(string) (value []byte, ok bool, err error) { return r, r != nil, nil }
func (r remembered) Put(map[string][]byte) error                   { return nil }
