// Package timer is the source of ticks: at an interval, or by a cron line in a time zone.
package timer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// Missed says what becomes of firings that fell while nothing could fire them.
type Missed string

// Overlap says what becomes of a firing that is due while the one before still runs.
type Overlap string

// Policies of a Timer; the empty ones mean skip. What is not fired is counted in the next tick.
const (
	MissedSkip Missed = "skip" // none of them
	MissedOnce Missed = "once" // one tick for all
	MissedAll  Missed = "all"  // each, oldest first, at most 100

	OverlapSkip  Overlap = "skip"
	OverlapQueue Overlap = "queue" // at most 100
)

// Timer is one binding. Exactly one of Every and Cron is set.
type Timer struct {
	ID       string
	Every    time.Duration // of time that the board is awake
	Cron     string        // five fields, or six with seconds first
	Timezone string        // IANA name; "" is UTC
	Missed   Missed
	Overlap  Overlap
	Jitter   time.Duration // each tick is handed over by up to this much later, at random; its scheduled time stays
	Handle   trigger.Handler
}

// Config of a Source.
type Config struct {
	Wall    func() time.Time     // the wall clock; nil: time.Now
	Elapsed func() time.Duration // since any fixed point, suspended time included; nil: CLOCK_BOOTTIME
	Trusted func() bool          // whether Wall can be believed; nil: always
	Memory  Memory               // for Missed over restarts; nil: none
	Drain   time.Duration        // how long Run waits for ticks in flight before it cancels them; 0: 10 s
}

// tooLate for a loop that only sleeps and starts goroutines: the scheduler is stuck.
const tooLate = 15 * time.Second

const recheck = time.Minute // a wall clock that is set gives no sign: look at it this often while a cron line waits

// Source fires timers. It has no goroutine but one for each timer, which sleeps.
type Source struct {
	cfg      Config
	log      *slog.Logger
	handlers context.Context // of ticks
	cancel   context.CancelFunc
	ticks    sync.WaitGroup

	mu      sync.Mutex
	timers  map[string]*running
	started context.Context // Run's; nil before
}

// running is one timer with what is remembered of it.
type running struct {
	source *Source
	sched  schedule
	memory memory
	stop   context.CancelFunc // of its loop
	ended  chan struct{}      // closed when gone

	mu      sync.Mutex
	timer   Timer
	skipped uint32          // firings since the last tick that nothing handled
	waiting []*trigger.Tick // to be handled in order
	busy    bool            // a goroutine handles waiting
	gone    bool            // no longer bound
	wakes   time.Time       // when its loop looks again; zero: it doesn't
}

// New makes a source; Run fires.
func New(cfg Config, log *slog.Logger) *Source {
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	if cfg.Elapsed == nil {
		cfg.Elapsed = bootTime
	}
	if cfg.Trusted == nil {
		cfg.Trusted = func() bool { return true }
	}
	cfg.Drain = cmp.Or(cfg.Drain, 10*time.Second)
	s := &Source{cfg: cfg, log: log, timers: map[string]*running{}}
	s.handlers, s.cancel = context.WithCancel(context.Background())
	return s
}

func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

// Set replaces the timers. One whose schedule is unchanged goes on; its next tick goes to the new handler.
func (s *Source) Set(timers []Timer) error {
	scheds := make([]schedule, len(timers))
	seen := map[string]bool{}
	for i, t := range timers {
		if seen[t.ID] {
			return fmt.Errorf("set timers: two have the id %s", t.ID)
		}
		seen[t.ID] = true
		var err error
		if scheds[i], err = t.schedule(); err != nil {
			return fmt.Errorf("set timers: %s: %w", t.ID, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.timers {
		if !seen[id] {
			r.end()
			r.memory.forget()
			delete(s.timers, id)
		}
	}
	for i, t := range timers {
		if r := s.timers[t.ID]; r != nil {
			if r.update(t) {
				continue
			}
			r.end()
		}
		r := &running{source: s, sched: scheds[i], memory: s.memoryOf(t), ended: make(chan struct{}), timer: t}
		s.timers[t.ID] = r
		if s.started != nil {
			r.start(s.started)
		}
	}
	return nil
}

func (t Timer) schedule() (schedule, error) {
	switch {
	case (t.Every != 0) == (t.Cron != ""):
		return nil, fmt.Errorf("want either every or cron")
	case t.Every < 0:
		return nil, fmt.Errorf("every is %s: want more than 0", t.Every)
	case t.Every > 0:
		return interval{time.Now(), t.Every}, nil
	}
	return wire.ParseCron(t.Cron, cmp.Or(t.Timezone, "UTC"))
}

// Run fires until ctx ends, then waits for ticks in flight.
func (s *Source) Run(ctx context.Context) error {
	s.mu.Lock()
	s.started = ctx
	for _, r := range s.timers {
		r.start(ctx)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	for _, r := range s.timers {
		r.end()
	}
	s.mu.Unlock()
	defer s.cancel()
	idle := make(chan struct{})
	go func() {
		s.ticks.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-time.After(s.cfg.Drain):
		return fmt.Errorf("stop timers: ticks were still in flight after %s", s.cfg.Drain)
	}
}

// Status of the source.
func (s *Source) Status() trigger.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := trigger.Status{Source: string(trigger.KindTimer), Health: trigger.Healthy}
	if s.started == nil || s.started.Err() != nil {
		st.Health = trigger.Stopped
		return st
	}
	now := time.Now()
	for id, r := range s.timers {
		if _, byMonotonic := r.sched.(interval); !byMonotonic && !s.cfg.Trusted() {
			st.Detail = "cron timers go by a clock that is not synchronised"
		}
		if late := r.late(now); late > tooLate {
			return trigger.Status{Source: st.Source, Health: trigger.Stuck, Detail: fmt.Sprintf("timer %s should have been looked at %s ago", id, late.Round(time.Second))}
		}
	}
	return st
}

// update gives r a new handler; false if anything else has changed.
func (r *running) update(t Timer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.timer
	same := old.Every == t.Every && old.Cron == t.Cron && old.Timezone == t.Timezone && old.Missed == t.Missed && old.Overlap == t.Overlap && old.Jitter == t.Jitter
	if same {
		r.timer = t
	}
	return same
}

func (r *running) start(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	if i, ok := r.sched.(interval); ok {
		i.anchor = time.Now() // it may have been set long before Run
		r.sched = i
	}
	now := r.source.read()
	gap := r.gap(now)
	if i, ok := r.sched.(interval); ok {
		i.anchor = i.anchor.Add(-gap.age(r.source.cfg.Trusted()))
		r.sched = i
	}
	go r.loop(ctx, now, gap)
}

// end the loop; the tick that is being handled goes on, those that wait are dropped.
func (r *running) end() {
	if r.stop != nil {
		r.stop()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.gone {
		close(r.ended)
	}
	r.gone, r.waiting = true, nil
}

// loop sleeps until the next firing, and fires.
func (r *running) loop(ctx context.Context, before reading, gap gap) {
	last := before.wall
	i, byMonotonic := r.sched.(interval)
	if byMonotonic {
		last = i.anchor
	}
	for {
		now := time.Now()
		if !byMonotonic {
			reading := r.source.read()
			last = afterStep(last, before, reading)
			before, now = reading, reading.wall
			if from, to, ok := gap.close(reading, r.source.cfg.Trusted()); ok {
				r.fire(from, to)
			}
		}
		r.fire(last, now)
		if now.After(last) {
			last = now
		}
		next := r.sched.Next(last)
		if next.IsZero() {
			r.source.log.Warn("timer has no next time", "trigger", r.timer.ID)
			r.wakesAt(time.Time{})
			return
		}
		pause := next.Sub(now)
		if !byMonotonic {
			pause = min(pause, recheck)
		}
		r.wakesAt(time.Now().Add(pause))
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (r *running) wakesAt(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakes = t
}

// late is by how much r should have looked for what is due, and has not.
func (r *running) late(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wakes.IsZero() || r.gone {
		return 0
	}
	return now.Sub(r.wakes)
}

func (s *Source) read() reading {
	// Without its monotonic reading: the wall clock is what cron lines mean.
	return reading{wall: s.cfg.Wall().Round(0), elapsed: s.cfg.Elapsed()}
}

// fire hands what is due to the handler's goroutine, and starts that where it doesn't run.
func (r *running) fire(last, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var fire []firing
	fire, r.skipped = due(r.sched, last, now, r.timer.Missed, r.skipped)
	if len(fire) == 0 || r.gone {
		return
	}
	if r.busy && r.timer.Overlap != OverlapQueue {
		for _, f := range fire {
			r.skipped = add(r.skipped, 1+int(f.missed))
		}
		return
	}
	_, byMonotonic := r.sched.(interval)
	for _, f := range fire {
		if len(r.waiting) == maxCatchUp {
			f.missed = add(f.missed, 1+int(r.waiting[0].Missed))
			r.waiting = r.waiting[1:]
		}
		if byMonotonic { // by how late it is, so that it is right on a clock that was set meanwhile
			f.scheduled = r.source.cfg.Wall().Add(-now.Sub(f.scheduled)).In(f.scheduled.Location())
		}
		r.waiting = append(r.waiting, &trigger.Tick{Scheduled: f.scheduled, Missed: f.missed})
	}
	if !r.busy {
		r.busy = true
		r.source.ticks.Add(1)
		go r.handle()
	}
}

// handle ticks, one after the other, until none waits.
func (r *running) handle() {
	defer r.source.ticks.Done()
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 {
			r.busy = false
			r.mu.Unlock()
			return
		}
		tick := r.waiting[0]
		r.waiting = r.waiting[1:]
		jitter := r.timer.Jitter
		r.mu.Unlock()
		if jitter > 0 {
			select {
			case <-r.ended:
			case <-time.After(rand.N(jitter)):
			}
		}
		r.take(tick)
	}
}

// take a tick to its end. While nothing can take it, it is tried again, and what falls due meanwhile overlaps with it.
func (r *running) take(tick *trigger.Tick) {
	ctx := r.source.handlers
	for waits := 0; ; {
		r.mu.Lock()
		t, gone := r.timer, r.gone
		r.mu.Unlock()
		if gone {
			r.source.log.Info("drop tick: the timer has ended", "trigger", t.ID, "scheduled", tick.Scheduled)
			return
		}
		tick.Actual, tick.ClockTrusted = r.source.cfg.Wall(), r.source.cfg.Trusted()
		err := trigger.Guarded(ctx, t.Handle, &trigger.Event{Kind: trigger.KindTimer, Trigger: t.ID, At: time.Now(), Timer: tick, Ends: r.memory.ends(tick)})
		pause := trigger.RetryDelay(1)
		switch trigger.ReasonOf(err) {
		case trigger.Closed, trigger.Busy:
			// It was not tried: an upgrade is under way, or too much waits.
		case trigger.Unavailable:
			waits++
			pause = trigger.RetryDelay(waits)
		default:
			if f := (*trigger.Failure)(nil); err != nil && !errors.As(err, &f) { // a Failure is in the log already
				r.source.log.Error("give up on tick", "trigger", t.ID, "scheduled", tick.Scheduled, "error", err)
			}
			if err != nil && ctx.Err() == nil { // one that the stop cut off is made up for
				r.memory.note(tick)
			}
			return
		}
		select {
		case <-r.ended:
		case <-time.After(pause):
		}
	}
}
