package timer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

func mustCron(t *testing.T, line, zone string) schedule {
	t.Helper()
	s, err := Timer{Cron: line, Timezone: zone}.schedule()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatIsFiredAfterAGap(t *testing.T) {
	for _, c := range []struct {
		name      string
		line      string
		last, now string
		policy    Missed
		skipped   uint32
		want      string // scheduled+missed, ...
		left      uint32
	}{
		{"on time", "0 * * * *", "2026-03-01T05:00:00Z", "2026-03-01T06:00:00Z", MissedSkip, 0, "06:00+0", 0},
		{"a little late", "0 * * * *", "2026-03-01T05:00:00Z", "2026-03-01T06:00:09Z", MissedSkip, 0, "06:00+0", 0},
		{"not yet", "0 * * * *", "2026-03-01T05:00:00Z", "2026-03-01T05:59:59Z", MissedAll, 3, "", 3},
		{"late, skip", "0 * * * *", "2026-03-01T05:00:00Z", "2026-03-01T06:10:00Z", MissedSkip, 0, "", 1},
		{"late, skip, and one on time", "0 * * * *", "2026-03-01T02:30:00Z", "2026-03-01T05:00:01Z", MissedSkip, 4, "05:00+6", 0},
		{"late, once", "0 * * * *", "2026-03-01T02:30:00Z", "2026-03-01T05:10:00Z", MissedOnce, 0, "05:00+2", 0},
		{"late, all", "0 * * * *", "2026-03-01T02:30:00Z", "2026-03-01T05:10:00Z", MissedAll, 1, "03:00+1 04:00+0 05:00+0", 0},
	} {
		fire, left := due(mustCron(t, c.line, ""), at(t, c.last), at(t, c.now), c.policy, c.skipped)
		var got []string
		for _, f := range fire {
			got = append(got, fmt.Sprintf("%s+%d", f.scheduled.Format("15:04"), f.missed))
		}
		if g := strings.Join(got, " "); g != c.want || left != c.left {
			t.Errorf("%s: fired %q with %d left, want %q with %d", c.name, g, left, c.want, c.left)
		}
	}
}

func TestAGapOfYearsFiresABoundedNumber(t *testing.T) {
	s := mustCron(t, "* * * * * *", "")
	last := at(t, "1970-01-01T00:00:00Z")
	fire, _ := due(s, last, at(t, "2026-01-01T00:00:00Z"), MissedAll, 0)
	if len(fire) != maxCatchUp || fire[0].missed != maxCount-maxCatchUp {
		t.Errorf("%d ticks with %d missed before, want %d with %d", len(fire), fire[0].missed, maxCatchUp, maxCount-maxCatchUp)
	}
}

func TestAClockThatIsSetIsNotAGap(t *testing.T) {
	last := at(t, "2026-03-01T05:00:00Z")
	for name, c := range map[string]struct {
		wall    time.Duration // by which the wall clock went on
		elapsed time.Duration // and what really passed
		moved   bool
	}{
		"time passes":            {time.Hour, time.Hour, false},
		"suspended for a month":  {720 * time.Hour, 720 * time.Hour, false},
		"set forward by minutes": {10 * time.Minute, time.Minute, false},
		"set back by an hour":    {-time.Hour, time.Minute, false},
		"from 1970 to now":       {56 * 8766 * time.Hour, time.Minute, true},
		"back to 1970":           {-56 * 8766 * time.Hour, time.Minute, true},
	} {
		before := reading{wall: last, elapsed: time.Hour}
		now := reading{wall: last.Add(c.wall), elapsed: time.Hour + c.elapsed}
		want := last
		if c.moved {
			want = now.wall
		}
		if got := afterStep(last, before, now); !got.Equal(want) {
			t.Errorf("%s: accounted for up to %s, want %s", name, got, want)
		}
	}
}

func TestCronLinesFollowTheirTimeZone(t *testing.T) {
	for _, c := range []struct{ line, zone, after, want string }{
		{"0 6 * * *", "", "2026-07-01T00:00:00Z", "2026-07-01T06:00:00Z"},
		{"0 6 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T04:00:00Z"},
		{"0 6 * * *", "Europe/Berlin", "2026-12-01T00:00:00Z", "2026-12-01T05:00:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"}, // 02:30 does not exist: at the change
		{"*/15 * * * * *", "", "2026-07-01T00:00:01Z", "2026-07-01T00:00:15Z"},
		{"0 0 13 * 5", "", "2026-07-01T00:00:00Z", "2026-07-03T00:00:00Z"}, // the 13th or a Friday, as in crontab(5)
	} {
		if got := mustCron(t, c.line, c.zone).Next(at(t, c.after)); !got.Equal(at(t, c.want)) {
			t.Errorf("%q in %q after %s: %s, want %s", c.line, c.zone, c.after, got.UTC().Format(time.RFC3339), c.want)
		}
	}
}

func TestBadTimersAreNamed(t *testing.T) {
	ok := func(context.Context, *trigger.Event) error { return nil }
	for _, c := range []struct {
		timers []Timer
		want   string
	}{
		{[]Timer{{ID: "a"}}, "a: want either every or cron"},
		{[]Timer{{ID: "a", Every: 1, Cron: "* * * * *"}}, "a: want either"},
		{[]Timer{{ID: "a", Every: -1}}, "want more than 0"},
		{[]Timer{{ID: "a", Cron: "61 * * * *"}}, `cron line "61 * * * *"`},
		{[]Timer{{ID: "a", Cron: "0 0 30 2 *"}}, "no such date"},
		{[]Timer{{ID: "a", Cron: "@every 1s"}}, "write the five fields"},
		{[]Timer{{ID: "a", Cron: "CRON_TZ=UTC * * * * *"}}, "the time zone as timezone"},
		{[]Timer{{ID: "a", Cron: "* * * * *", Timezone: "Mars/Base"}}, `time zone "Mars/Base"`},
		{[]Timer{{ID: "a", Every: 1, Handle: ok}, {ID: "a", Every: 1, Handle: ok}}, "two have the id a"},
	} {
		if err := New(Config{}, slog.New(slog.DiscardHandler)).Set(c.timers); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Set(%+v) = %v, want an error with %q", c.timers, err, c.want)
		}
	}
}

// bench is a source on a clock that a test can set.
type bench struct {
	*Source
	offset atomic.Int64 // of the wall clock
	stop   func()
}

// run starts a source inside a synctest bubble.
func run(t *testing.T, cfg Config, timers ...Timer) *bench {
	t.Helper()
	b := &bench{}
	start := time.Now()
	cfg.Wall = func() time.Time { return time.Now().Add(time.Duration(b.offset.Load())) }
	cfg.Elapsed = func() time.Duration { return time.Since(start) }
	b.Source = New(cfg, slog.New(slog.DiscardHandler))
	if err := b.Set(timers); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return b
}

// pass lets time go by, and what it starts settle.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // synctest's clock
	synctest.Wait()
}

// ticks records what a handler gets.
type ticks struct {
	mu  sync.Mutex
	all []trigger.Tick
}

func (k *ticks) handle(_ context.Context, e *trigger.Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, *e.Timer)
	return nil
}

func (k *ticks) take() []trigger.Tick {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.all
	k.all = nil
	return all
}

func TestAnIntervalKeepsItsBeatWhateverTheClockDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ticks
		b := run(t, Config{}, Timer{ID: "a", Every: 30 * time.Second, Handle: got.handle})
		defer b.stop()
		for _, step := range []time.Duration{0, 20 * 8766 * time.Hour, -40 * 8766 * time.Hour, time.Minute} {
			b.offset.Add(int64(step))
			pass(5 * time.Minute)
			all := got.take()
			if len(all) != 10 {
				t.Errorf("after a step of %s: %d ticks in 5 minutes, want 10", step, len(all))
			}
			for _, k := range all {
				if late := k.Actual.Sub(k.Scheduled); late < 0 || late > time.Millisecond || k.Missed != 0 || !k.ClockTrusted {
					t.Errorf("after a step of %s: tick %+v, want one on time", step, k)
				}
			}
		}
	})
}

func TestACronLineSurvivesAClockThatIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ticks
		// The bubble's clock starts at midnight UTC.
		b := run(t, Config{Trusted: func() bool { return false }}, Timer{ID: "a", Cron: "*/10 * * * *", Missed: MissedAll, Handle: got.handle})
		defer b.stop()
		pass(time.Hour)
		if n := len(got.take()); n != 6 {
			t.Errorf("%d ticks in an hour, want 6", n)
		}
		for _, years := range []int{26, -26} {
			b.offset.Add(int64(years) * int64(365*24*time.Hour))
			pass(time.Hour)
			all := got.take()
			if len(all) != 6 {
				t.Errorf("%d ticks in the hour after the clock was set by %d years, want 6", len(all), years)
			}
			if len(all) > 0 && all[0].ClockTrusted {
				t.Error("a tick claims a trusted clock")
			}
		}
		b.offset.Add(-int64(30 * time.Minute))
		pass(30 * time.Minute)
		if n := len(got.take()); n != 0 {
			t.Errorf("%d ticks repeated after the clock was set back by half an hour", n)
		}
		if st := b.Status(); st.Health != trigger.Healthy || !strings.Contains(st.Detail, "not synchronised") {
			t.Errorf("status %+v does not say that the clock can't be believed", st)
		}
	})
}

func TestOverlap(t *testing.T) {
	for policy, want := range map[Overlap]string{OverlapSkip: "0 2 2", OverlapQueue: "0 0 0"} {
		synctest.Test(t, func(t *testing.T) {
			var missed []string
			b := run(t, Config{Drain: time.Hour}, Timer{ID: "a", Every: time.Minute, Overlap: policy, Handle: func(_ context.Context, e *trigger.Event) error {
				missed = append(missed, fmt.Sprint(e.Timer.Missed))
				time.Sleep(150 * time.Second) //nolint:forbidigo // synctest's clock; two more are due meanwhile
				return nil
			}})
			pass(8 * time.Minute)
			b.stop()
			if got := strings.Join(missed, " "); got != want {
				t.Errorf("%s: missed counts %q, want %q", policy, got, want)
			}
		})
	}
}

func TestAnUpgradeLosesNoTickAndKeepsTheBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var old, next ticks
		closed := func(context.Context, *trigger.Event) error {
			return &trigger.Failure{Reason: trigger.Closed, Err: errors.New("closed")}
		}
		b := run(t, Config{}, Timer{ID: "a", Every: time.Minute, Handle: old.handle})
		defer b.stop()
		pass(90 * time.Second)
		if err := b.Set([]Timer{{ID: "a", Every: time.Minute, Handle: closed}}); err != nil {
			t.Fatal(err)
		}
		pass(31 * time.Second) // the second tick finds a version that is closed
		if err := b.Set([]Timer{{ID: "a", Every: time.Minute, Handle: next.handle}}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if a, z := len(old.take()), next.take(); a != 1 || len(z) != 2 || z[1].Scheduled.Sub(z[0].Scheduled) != time.Minute {
			t.Errorf("%d ticks before and %+v after, want 1 and 2 a minute apart", a, z)
		}
		if err := b.Set(nil); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		if n := len(next.take()); n != 0 {
			t.Errorf("%d ticks of a timer that is gone", n)
		}
	})
}

func TestATickWaitsForABoardThatCantCommit(t *testing.T) {
	for policy, want := range map[Overlap]string{OverlapSkip: "0 3 0", OverlapQueue: "0 0 0 0 0 0"} {
		synctest.Test(t, func(t *testing.T) {
			var got ticks
			start := time.Now()
			b := run(t, Config{}, Timer{ID: "a", Every: time.Minute, Overlap: policy, Handle: func(ctx context.Context, e *trigger.Event) error {
				if time.Since(start) < 4*time.Minute+30*time.Second {
					return &trigger.Failure{Reason: trigger.Unavailable, Err: errors.New("commit: no space left on device")}
				}
				return got.handle(ctx, e)
			}})
			defer b.stop()
			pass(6*time.Minute + time.Second)
			all := got.take()
			missed := make([]string, len(all))
			for i, k := range all {
				missed[i] = fmt.Sprint(k.Missed)
			}
			if s := strings.Join(missed, " "); s != want {
				t.Errorf("%s: missed counts %q, want %q: each firing is in a tick", policy, s, want)
			}
			if len(all) > 0 && (!all[0].Scheduled.Equal(start.Add(time.Minute)) || all[0].Actual.Sub(start) > 5*time.Minute) {
				t.Errorf("%s: first tick %+v, want the one of minute 1, within half a minute of the disk being back", policy, all[0])
			}
		})
	}
}

func TestATickThatWaitsDelaysNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		b := run(t, Config{}, Timer{ID: "a", Every: time.Minute, Handle: func(context.Context, *trigger.Event) error {
			tries.Add(1)
			return &trigger.Failure{Reason: trigger.Unavailable, Err: errors.New("load component: input/output error")}
		}})
		pass(time.Hour)
		if n := tries.Load(); n < 100 || n > 130 {
			t.Errorf("tried %d times in an hour, want once in 30 s", n)
		}
		at := time.Now()
		b.stop()
		if d := time.Since(at); d != 0 {
			t.Errorf("the stop took %s", d)
		}
	})
}

func TestAFailureIsNotReportedTwice(t *testing.T) {
	for want, err := range map[string]error{
		"":                              &trigger.Failure{Reason: trigger.Trapped, Err: errors.New("unreachable")},
		`error="handler panicked: bug"`: errors.New("handler panicked: bug"),
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			s := New(Config{}, slog.New(slog.NewTextHandler(&log, nil)))
			if err := s.Set([]Timer{{ID: "a", Every: time.Minute, Handle: func(context.Context, *trigger.Event) error { return err }}}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
			if got := log.String(); (want == "") != (got == "") || !strings.Contains(got, want) {
				t.Errorf("log %q, want %q in it, or nothing", got, want)
			}
		})
	}
}

func TestATimerThatHangsOrPanicsStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got ticks
		release := make(chan struct{})
		b := run(t, Config{},
			Timer{ID: "hang", Every: time.Second, Handle: func(context.Context, *trigger.Event) error { <-release; return nil }},
			Timer{ID: "panic", Every: time.Second, Handle: func(context.Context, *trigger.Event) error { panic("bug") }},
			Timer{ID: "ok", Every: time.Second, Handle: got.handle})
		pass(10 * time.Second)
		if n := len(got.take()); n != 10 {
			t.Errorf("%d ticks beside the others, want 10", n)
		}
		close(release)
		b.stop()
	})
}

func TestStoppingCancelsATickThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		s := New(Config{Drain: time.Second}, slog.New(slog.DiscardHandler))
		if err := s.Set([]Timer{{ID: "a", Every: time.Second, Handle: func(ctx context.Context, _ *trigger.Event) error {
			<-ctx.Done()
			cause = ctx.Err()
			return cause
		}}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		err := s.Run(ctx)
		synctest.Wait()
		if err == nil || !strings.Contains(err.Error(), "after 1s") || cause == nil {
			t.Errorf("Run = %v, the tick saw %v; want both told", err, cause)
		}
	})
}

// A scheduler that doesn't come round says so, for the health check to hear.
func TestASchedulerThatHangsIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs, freed := atomic.Bool{}, make(chan struct{})
		s := New(Config{Wall: func() time.Time {
			if hangs.Load() {
				<-freed
			}
			return time.Now()
		}}, slog.New(slog.DiscardHandler))
		if err := s.Set([]Timer{{ID: "app/minutely", Cron: "* * * * *", Handle: func(context.Context, *trigger.Event) error { return nil }}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		if st := s.Status(); st.Health != trigger.Healthy {
			t.Errorf("a scheduler that works is %s: %s", st.Health, st.Detail)
		}
		hangs.Store(true)
		time.Sleep(2 * time.Minute) //nolint:forbidigo // synctest's clock
		if st := s.Status(); st.Health != trigger.Stuck {
			t.Errorf("a scheduler that hangs is %s", st.Health)
		}
		hangs.Store(false)
		close(freed)
		synctest.Wait()
		if st := s.Status(); st.Health != trigger.Healthy {
			t.Errorf("a scheduler that came round is %s: %s", st.Health, st.Detail)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
