package agent

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

// farClocks are those of a board without a battery, and of one whose clock ran over.
var farClocks = []time.Time{time.Unix(0, 0), time.Unix(1<<32-1, 0)} // 1970 and 2106

func TestABoardWhoseClockShows1970Or2106ConnectsAndInstalls(t *testing.T) {
	t.Parallel()
	for _, far := range farClocks {
		f := newFleet(t)
		b := boardOf(t, f)
		b.stop()
		started := time.Now()
		b.cfg.Built = started.Add(-30 * 24 * time.Hour)
		b.cfg.system = func() time.Time { return far.Add(time.Since(started)) }
		for _, synced := range []bool{false, true} { // the network may tell nonsense
			b.cfg.synced = func() bool { return synced }
			b.start()
			one := f.push("1.0.0", hello1, nil)
			if synced {
				one = f.push("2.0.0", hello2, nil)
			}
			f.install(one)
			b.agent.report()
			f.await("a report by the floor", func(r wire.Reported) bool {
				return runs(r, one) && r.Clock == wire.ClockUnsynced && !r.At.Before(b.cfg.Built.Truncate(time.Second)) && !r.At.After(time.Now())
			})
			b.stop()
		}
	}
}

func TestTheLastGoodTimeIsTheFloorOfTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	// start an agent, look at its time, have it noted, and stop.
	start := func(system time.Time, synced bool) (time.Time, wire.ClockQuality) {
		t.Helper()
		a, err := New(Config{State: dir, Listen: off, Bus: Bus{Listen: off}, Built: good.AddDate(-1, 0, 0),
			system: func() time.Time { return system }, synced: func() bool { return synced }}, slog.New(slog.DiscardHandler))
		must(t, err)
		defer a.Close()
		now, quality := a.time()
		if noted, err := a.noteGood(); err != nil || noted != (quality == wire.ClockSynced) {
			t.Errorf("at %s (%s): noted %t, %v", system, quality, noted, err)
		}
		return now, quality
	}
	for _, c := range []struct {
		name    string
		system  time.Time
		synced  bool
		now     time.Time
		quality wire.ClockQuality
	}{
		{"first start", farClocks[0], false, good.AddDate(-1, 0, 0), wire.ClockUnsynced},
		{"synchronised", good, true, good, wire.ClockSynced},
		{"after a power cut", farClocks[0], false, good, wire.ClockUnsynced},
		{"a clock that ran over", farClocks[1], false, good, wire.ClockUnsynced},
		{"a network that tells 2106", farClocks[1], true, good, wire.ClockUnsynced},
		{"nothing of that was noted", good.Add(time.Second), false, good.Add(time.Second), wire.ClockEstimated},
		{"not noted again within a day", good.Add(23 * time.Hour), true, good.Add(23 * time.Hour), wire.ClockSynced},
		{"so the floor is as it was", farClocks[0], false, good, wire.ClockUnsynced},
		{"a network that tells a false year", good.AddDate(9, 0, 0), true, good.AddDate(9, 0, 0), wire.ClockSynced},
		{"that year is the floor", good.Add(time.Hour), false, good.AddDate(9, 0, 0), wire.ClockUnsynced},
		{"until a network knows better", good.Add(time.Hour), true, good.Add(time.Hour), wire.ClockSynced},
		{"for good", farClocks[0], false, good.Add(time.Hour), wire.ClockUnsynced},
	} {
		if now, quality := start(c.system, c.synced); !now.Equal(c.now) || quality != c.quality {
			t.Errorf("%s: %s, %s; want %s, %s", c.name, now.UTC(), quality, c.now, c.quality)
		}
	}
}

func TestASavedTimeThatIsDamagedStopsNoStart(t *testing.T) {
	t.Parallel()
	var log lines
	cfg := Config{State: t.TempDir(), Listen: off, Bus: Bus{Listen: off}}
	a, err := New(cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, a.store.Put(map[string][]byte{goodRecord: []byte("noon")}))
	a.Close()
	a, err = New(cfg, slog.New(slog.NewTextHandler(io.Writer(&log), nil)))
	must(t, err)
	defer a.Close()
	if !strings.Contains(log.String(), "can't be read") || !a.good.at.IsZero() {
		t.Errorf("floor %s, log:\n%s", a.good.at, log.String())
	}
}
