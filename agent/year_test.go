package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	timertrigger "dunlin.dev/dunlin/agent/internal/trigger/timer"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

var yearSeed = flag.Uint64("year-seed", 0, "seed of the simulated year; 0: a few of them")

// year is one board over a year of virtual time: its real store, timers, clock and verifier, a fleet of real metadata, and
// nothing else. What fails it is drawn from a seed.
type year struct {
	t     *testing.T
	rand  *rand.Rand
	fleet *yearFleet
	dir   string

	mu      sync.Mutex
	offset  time.Duration // of the board's clock from the true time
	synced  bool
	cutting bool // power fails: what is handled now never commits
	ticks   map[string][]trigger.Tick
	fired   map[moment]int
	wrong   []span // while the board ran with a clock that is far off

	board *yearBoard
	cuts  int
}

// moment is a minute of true time in which a timer fired, and what it said of its clock.
type moment struct {
	timer   string
	at      time.Time
	trusted bool
}

type span struct{ from, to time.Time }

// yearBoard is one boot.
type yearBoard struct {
	agent *Agent
	stop  func()
}

var yearTimers = []timertrigger.Timer{
	{ID: "all", Cron: "0 */6 * * *", Timezone: "Europe/Berlin", Missed: timertrigger.MissedAll},
	{ID: "once", Cron: "30 2 * * *", Timezone: "Europe/Berlin", Missed: timertrigger.MissedOnce},
	{ID: "skip", Cron: "15 * * * *", Timezone: "UTC"},
}

func TestAYearOfCutsAndClocksThatJump(t *testing.T) {
	seeds := []uint64{1, rand.Uint64()}
	if *yearSeed != 0 {
		seeds = []uint64{*yearSeed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("year-seed=", seed), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed, dir) })
		})
	}
}

func simulate(t *testing.T, seed uint64, dir string) {
	y := &year{t: t, rand: rand.New(rand.NewPCG(seed, 0)), dir: dir, synced: true, ticks: map[string][]trigger.Tick{}, fired: map[moment]int{}}
	y.fleet = newYearFleet(t)
	y.boot()
	began := time.Now()
	for time.Since(began) < 365*24*time.Hour {
		y.live(time.Duration(1+y.rand.IntN(96)) * time.Hour)
		y.something()
	}
	y.settle()
	y.board.stop()
	y.check(began)
	t.Logf("seed %d: %d cuts, %d generations, %d releases", seed, y.cuts, y.fleet.generation, y.fleet.releases)
}

func (y *year) wall() time.Time {
	y.mu.Lock()
	defer y.mu.Unlock()
	return time.Now().Add(y.offset)
}

func (y *year) isSynced() bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.synced
}

// set the board's clock.
func (y *year) set(offset time.Duration, synced bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.offset, y.synced = offset, synced
}

func (y *year) live(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // synctest's clock
	synctest.Wait()
}

// something happens.
func (y *year) something() {
	switch y.rand.IntN(6) {
	case 0, 1: // power is away, for a moment or for weeks
		y.cut()
		y.live(time.Duration(y.rand.ExpFloat64() * float64(24*time.Hour)))
		y.wake()
	case 2: // time is set by a little, and corrected
		y.set(time.Duration(y.rand.IntN(3600)-1800)*time.Second, true)
		y.live(time.Duration(y.rand.IntN(48)) * time.Hour)
		y.set(0, true)
	case 3: // and by decades, from one moment to the next
		y.far(func() {})
	case 4:
		y.fleet.push()
	case 5:
		y.connect()
	}
}

// wake the board with the clock that it happens to have.
func (y *year) wake() {
	switch y.rand.IntN(3) {
	case 0:
		y.set(0, true)
		y.boot()
	case 1: // it kept the time, and nothing says so yet
		y.set(0, false)
		y.boot()
		y.live(time.Duration(y.rand.IntN(72)) * time.Hour)
		y.set(0, true)
	case 2:
		y.far(y.boot)
	}
}

// far is a while in 1970 or 2106, which the network may even claim to be right. The link works all the same.
func (y *year) far(begin func()) {
	from := time.Now()
	y.set(farClocks[y.rand.IntN(2)].Sub(from), y.rand.IntN(2) == 0)
	begin()
	y.live(time.Duration(1+y.rand.IntN(72)) * time.Hour)
	if y.rand.IntN(2) == 0 {
		y.connect()
	}
	y.set(0, true)
	y.wrong = append(y.wrong, span{from.Add(-time.Hour), time.Now().Add(2 * time.Hour)})
}

func (y *year) boot() {
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(y.dir, log, time.Now)
	must(y.t, err)
	a := &Agent{cfg: Config{Built: y.fleet.built, system: y.wall, synced: y.isSynced}, log: log, store: s}
	a.loadGood()
	g := &guard{agent: a, root: y.fleet.root, device: "hut", stored: map[string][]byte{}}
	records, err := s.List(trustArea)
	must(y.t, err)
	for key, value := range records {
		g.stored[key[len(trustArea):]] = value
	}
	g.state, err = trust.ParseState(g.stored)
	must(y.t, err)
	a.manager = &manager{agent: a, guard: g}
	a.manager.learn()
	started := time.Now()
	timers := timertrigger.New(timertrigger.Config{Wall: y.wall, Elapsed: func() time.Duration { return time.Since(started) }, Trusted: a.clockSynced,
		Memory: s, Drain: time.Second}, log)
	var bound []timertrigger.Timer
	for _, tm := range yearTimers {
		tm.Handle = func(ctx context.Context, e *trigger.Event) error { return y.handle(ctx, s, e) }
		bound = append(bound, tm)
	}
	must(y.t, timers.Set(bound))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.saveGood(ctx) })
	running.Go(func() { _ = timers.Run(ctx) }) // it says so when a cut leaves a tick in flight
	y.board = &yearBoard{agent: a, stop: func() {
		cancel()
		running.Wait()
		synctest.Wait()
		must(y.t, s.Close())
	}}
	synctest.Wait()
}

// handle a tick as the runner does: its effect, the next number of its timer, and its end in one transaction.
func (y *year) handle(ctx context.Context, s *store.Store, e *trigger.Event) error {
	y.mu.Lock()
	cutting := y.cutting
	y.mu.Unlock()
	if cutting {
		<-ctx.Done()
		return ctx.Err()
	}
	if e.Ends != nil {
		ends, err := e.Ends(ctx)
		if err != nil {
			return err
		}
		tx := s.Begin(app)
		key := e.Timer.Scheduled.UTC().Format(time.RFC3339)
		if _, there, err := tx.Get("default", e.Trigger+key); err != nil || there {
			y.t.Errorf("%s of %s took effect before (%v)", e.Trigger, key, err)
		}
		if err := errors.Join(tx.Set("default", e.Trigger+key, []byte{1}), tx.With(ends.Rows[0].Key, ends.Rows[0].Value, false), tx.Commit(ctx)); err != nil {
			return err
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.ticks[e.Trigger] = append(y.ticks[e.Trigger], *e.Timer)
	y.fired[moment{e.Trigger, time.Now().Truncate(time.Minute), e.Timer.ClockTrusted}]++
	return nil
}

// cut the power: from some moment on nothing commits, and a tick may be in the handler's hands.
func (y *year) cut() {
	y.cuts++
	y.mu.Lock()
	y.cutting = true
	y.mu.Unlock()
	if y.rand.IntN(2) == 0 {
		y.live(time.Duration(y.rand.IntN(8)) * time.Hour)
	}
	y.board.stop()
	y.mu.Lock()
	y.cutting = false
	y.mu.Unlock()
}

// settle ends the year with everything in order for a while.
func (y *year) settle() {
	y.set(0, true)
	y.live(48 * time.Hour)
	y.connect()
}

// connect brings the board what the fleet has sent meanwhile, some of it late, in no order and again.
func (y *year) connect() {
	a := y.board.agent
	g := a.manager.guard
	envelopes := append([][]byte{}, y.fleet.sent[max(0, len(y.fleet.sent)-3):]...)
	y.rand.Shuffle(len(envelopes), func(i, k int) { envelopes[i], envelopes[k] = envelopes[k], envelopes[i] })
	for _, e := range append(envelopes, y.fleet.sent[len(y.fleet.sent)-1]) {
		before := g.state.Generation
		v, err := g.verifier(a.now())
		must(y.t, err)
		y.fleet.stamp()
		if err := y.fleet.serve(v); err != nil {
			y.t.Errorf("at %s, clock %s: %v", time.Now().UTC(), y.wall().UTC(), err)
			return
		}
		d, err := v.Desired(e, "hut")
		if err != nil && !errors.Is(err, trust.Rollback) {
			y.t.Errorf("at %s, clock %s: %v", time.Now().UTC(), y.wall().UTC(), err)
		}
		if err == nil && !d.Repeated && d.Generation <= before {
			y.t.Errorf("generation %d after %d", d.Generation, before)
		}
		must(y.t, g.save(v.State(), nil))
		a.manager.learn()
	}
	if g.state.Generation != y.fleet.generation {
		y.t.Errorf("at %s: generation %d, the fleet sent %d", time.Now().UTC(), g.state.Generation, y.fleet.generation)
	}
}

// check that each firing of the year is accounted for, and that nothing came in a burst.
func (y *year) check(began time.Time) {
	for m, n := range y.fired {
		most := 1
		if m.trusted { // what is made up for after a start, and the tick of that minute
			most += map[string]int{"all": 100, "once": 1}[m.timer]
		}
		if n > most {
			y.t.Errorf("%s fired %d times in the minute of %s, clock trusted: %t", m.timer, n, m.at.UTC(), m.trusted)
		}
	}
	for _, tm := range yearTimers {
		if tm.Missed == "" {
			continue // what it missed over a start is nobody's
		}
		s, err := wire.ParseCron(tm.Cron, tm.Timezone)
		must(y.t, err)
		unsure := map[int64]bool{}
		last := began
		trusted := 0
		for _, tick := range y.ticks[tm.ID] {
			if !tick.ClockTrusted {
				unsure[tick.Scheduled.Unix()] = true
				continue
			}
			trusted++
			all, sure := 0, 0
			for at := s.Next(last); !at.After(tick.Scheduled); at = s.Next(at) {
				all++
				if !unsure[at.Unix()] && !y.wasFalse(at) {
					sure++
				}
			}
			if got := 1 + int(tick.Missed); got < sure || all == 0 {
				y.t.Errorf("%s of %s accounts for %d since %s, want %d to %d", tm.ID, tick.Scheduled.UTC(), got, last.UTC(), sure, all)
			}
			if tick.Scheduled.After(last) {
				last = tick.Scheduled
			}
		}
		if trusted < 100 || time.Since(last) > 24*time.Hour {
			y.t.Errorf("%s: %d ticks, the last at %s: this year shows nothing", tm.ID, trusted, last)
		}
	}
}

func (y *year) wasFalse(at time.Time) bool {
	for _, f := range y.wrong {
		if at.After(f.from) && at.Before(f.to) {
			return true
		}
	}
	return false
}

// yearFleet signs what a board fetches; its own clock is right.
type yearFleet struct {
	t                                  *testing.T
	built                              time.Time
	rel, snap, stampKey, director      trust.Key
	root, targets, snapshot, timestamp []byte
	version                            int64
	generation                         uint64
	releases                           int
	sent                               [][]byte
}

func newYearFleet(t *testing.T) *yearFleet {
	f := &yearFleet{t: t, built: time.Now().AddDate(0, -1, 0), rel: newKey(t), snap: newKey(t), stampKey: newKey(t), director: newKey(t)}
	one := func(k trust.Key) trust.Signers { return trust.Signers{Keys: []trust.PublicKey{k.Public()}} }
	root := newKey(t)
	var err error
	f.root, err = trust.NewRoot(trust.RootSpec{Fleet: "farm", Expires: time.Now().AddDate(3, 0, 0), Root: one(root), Release: one(f.rel),
		Snapshot: one(f.snap), Timestamp: one(f.stampKey), Director: one(f.director)}, root)
	must(t, err)
	f.push()
	return f
}

// push a release, and desire it.
func (f *yearFleet) push() {
	f.releases++
	version := fmt.Sprintf("1.%d.0", f.releases)
	component := []byte(version)
	manifest, err := wire.MarshalRelease(wire.Release{Format: wire.ReleaseFormat, Application: app, Version: version,
		Components: map[string]wire.Component{"main": {Digest: wire.Sum(component), Size: int64(len(component)), Limits: wire.DefaultLimits()}},
		Triggers:   wire.Triggers{HTTP: []wire.HTTPTrigger{{ID: "all", Route: "/...", Component: "main"}}}})
	must(f.t, err)
	f.targets, err = trust.AddRelease(f.targets, manifest, time.Now().AddDate(2, 0, 0), f.rel)
	must(f.t, err)
	f.stamp()
	f.generation++
	payload, err := wire.MarshalDesired(wire.Desired{Fleet: "farm", Device: "hut", Generation: f.generation, Issued: time.Now().UTC().Truncate(time.Second),
		Releases: []wire.Pointer{{Application: app, Version: version, Release: wire.Sum(manifest), Target: trust.TargetPath(app, version)}}})
	must(f.t, err)
	e, err := trust.SignDesired(payload, f.director)
	must(f.t, err)
	f.sent = append(f.sent, e)
}

func (f *yearFleet) stamp() {
	f.version++
	var err error
	f.snapshot, err = trust.NewSnapshot(f.targets, f.version, time.Now().Add(7*24*time.Hour), f.snap)
	must(f.t, err)
	f.timestamp, err = trust.NewTimestamp(f.snapshot, f.version, time.Now(), time.Now().Add(24*time.Hour), f.stampKey)
	must(f.t, err)
}

func (f *yearFleet) serve(v *trust.Verifier) error {
	for n, more := v.Next(); more; n, more = v.Next() {
		var err error
		switch n.Role {
		case trust.Root:
			err = v.NoNewerRoot()
		case trust.Timestamp:
			err = v.Update(n.Role, f.timestamp)
		case trust.Snapshot:
			err = v.Update(n.Role, f.snapshot)
		default:
			err = v.Update(n.Role, f.targets)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
