package agent

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// How long data was kept is never taken for longer than it was, whatever the clock does.
func TestTheTimeThatDataWasKeptIsNeverGuessedTooLong(t *testing.T) {
	const sure, unsure = 0, 1
	day := 24 * time.Hour
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	stamp := func(boot byte, up time.Duration, clock byte, wall time.Time) store.Stamp {
		return store.Stamp{At: wall, Clock: clock, Boot: [16]byte{boot}, Up: up}
	}
	for name, c := range map[string]struct {
		then, now store.Stamp
		want      time.Duration
	}{
		"one boot":                      {stamp(1, time.Hour, sure, at), stamp(1, 3*time.Hour, sure, at.Add(2*time.Hour)), 2 * time.Hour},
		"one boot, clock set forward":   {stamp(1, time.Hour, sure, at), stamp(1, 3*time.Hour, sure, at.Add(9999*day)), 2 * time.Hour},
		"one boot, clock set back":      {stamp(1, time.Hour, sure, at), stamp(1, 3*time.Hour, sure, at.Add(-9999*day)), 2 * time.Hour},
		"another boot":                  {stamp(1, time.Hour, sure, at), stamp(2, time.Hour, sure, at.Add(10*day)), 10 * day},
		"another boot, not synced":      {stamp(1, time.Hour, sure, at), stamp(2, time.Hour, unsure, at.Add(10*day)), time.Hour},
		"not synced at the removal":     {stamp(1, time.Hour, unsure, at), stamp(2, time.Hour, sure, at.Add(10*day)), time.Hour},
		"another boot, the clock is 0":  {stamp(1, time.Hour, unsure, time.Time{}), stamp(2, 5*time.Minute, unsure, time.Time{}), 5 * time.Minute},
		"another boot, clock went back": {stamp(1, time.Hour, sure, at), stamp(2, time.Hour, sure, at.Add(-10*day)), 0},
	} {
		if got := (removed{Kept: day, Stamp: c.then}).kept(c.now) - day; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// counterWith is a release of the counter with all that an application can leave behind.
func counterWith(f *testFleet, version string) wire.Pointer {
	return f.push(version, counter, func(r *wire.Release) {
		c := r.Components["main"]
		c.KeyValue, c.Publish, c.Directory = []string{"default"}, []string{"count/+"}, "/data"
		r.Components["main"] = c
		r.Triggers.MQTT = []wire.MQTTTrigger{{ID: "in", Topic: "in/+", QoS: 1, Component: "main"}}
	})
}

// leave has the application keep something of each kind.
func (b *board) leave() (file string, letter string) {
	b.t.Helper()
	resp, err := http.Post("http://"+b.http+"/", "text/plain", nil)
	must(b.t, err)
	must(b.t, resp.Body.Close())
	if got := b.get("/"); !strings.Contains(got, `"http":1,`) {
		b.t.Fatalf("it counts %s", got)
	}
	file = filepath.Join(b.cfg.State, "data", app, "main", "kept")
	must(b.t, os.WriteFile(file, []byte("months of data"), 0o600))
	return file, b.bury(1, nil)[0]
}

// remove the application from the board.
func (f *testFleet) remove(b *board) wire.Reported {
	f.t.Helper()
	f.desire()
	return f.await("run nothing", func(r wire.Reported) bool { return r.Generation == f.generation && len(r.Apps) == 0 })
}

func TestAnApplicationThatComesBackFindsItsData(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(counterWith(f, "1.0.0"))
	file, letter := b.leave()
	r := f.remove(b)
	if len(r.Removed) != 1 || r.Removed[0].Application != app || r.Removed[0].Version != "1.0.0" || r.Removed[0].Left == nil || time.Duration(*r.Removed[0].Left) < 29*24*time.Hour {
		t.Errorf("it reports %+v", r.Removed)
	}
	if got := b.get("/"); !strings.HasPrefix(got, "404") {
		t.Errorf("removed, it answers %s", got)
	}
	// What was accepted for it and not handled stays too.
	e := inbox.Event{Number: b.agent.inbox.Number(), Trigger: app + "/in", At: time.Now(), Message: trigger.Message{Topic: "in/a", Payload: []byte("x"), QoS: 1}}
	a, err := b.agent.inbox.Accept([]inbox.Event{e}, trigger.Ends{}, nil)
	must(t, err)
	must(t, a.Wait(t.Context()))
	b.stop()
	b.start()
	if c := b.agent.inbox.Counts(); c.Left != 1 || c.Dead != 1 {
		t.Errorf("after a start: %+v", c)
	}
	f.install(counterWith(f, "1.1.0"))
	eventually(t, "what waited is handled", func() bool { return b.agent.inbox.Counts().Waiting == 0 })
	if got := b.get("/"); !strings.Contains(got, `"http":1,"mqtt":1,`) {
		t.Errorf("it counts %s", got)
	}
	if got, err := os.ReadFile(file); string(got) != "months of data" {
		t.Errorf("its directory has %q, %v", got, err)
	}
	if _, err := b.agent.inbox.Find(letter); err != nil {
		t.Errorf("its dead letter: %v", err)
	}
	if apps, err := b.agent.removedApps(); len(apps) != 0 || err != nil {
		t.Errorf("it is still written down as removed: %v, %v", apps, err)
	}
}

func TestWhatARemovedApplicationLeftBehindIsDeletedWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := connectedBoard(t, f, func(c *Config) { c.KeepRemoved = "1s" })
	f.install(counterWith(f, "1.0.0"))
	file, letter := b.leave()
	must(t, b.agent.store.Put(map[string][]byte{"timer/" + app + "/tick": []byte("12345678"), "timer/" + app + "le/tick": []byte("12345678")}))
	f.remove(b)
	f.await("nothing is kept", func(r wire.Reported) bool { return len(r.Apps) == 0 && len(r.Removed) == 0 })
	if _, err := os.Stat(filepath.Dir(filepath.Dir(file))); !os.IsNotExist(err) {
		t.Errorf("its directory is there: %v", err)
	}
	if _, err := b.agent.inbox.Find(letter); err == nil {
		t.Error("its dead letter is there")
	}
	if timers, err := b.agent.store.List("timer/"); len(timers) != 1 || err != nil {
		t.Errorf("timers of %v, %v", timers, err)
	}
	f.install(counterWith(f, "1.1.0"))
	if got := b.get("/"); !strings.Contains(got, `"http":0,`) {
		t.Errorf("it counts %s, want a new beginning", got)
	}
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		t.Errorf("its new directory: %v", err)
	}
}

// A board that was off, or killed while it deleted, goes on where it was.
func TestARemovalThatWasCutOffGoesOn(t *testing.T) {
	t.Parallel()
	steps := []func(*board){
		func(b *board) { must(b.t, os.RemoveAll(filepath.Join(b.cfg.State, "data", app))) },
		func(b *board) { must(b.t, b.agent.store.DeleteApplication(app)) },
		func(b *board) {
			_, _, err := b.agent.inbox.ForgetApplication(app)
			must(b.t, err)
		},
	}
	for done := range len(steps) + 1 {
		f := newFleet(t)
		b := connectedBoard(t, f, func(c *Config) { c.KeepRemoved = "forever" })
		f.install(counterWith(f, "1.0.0"))
		file, _ := b.leave()
		if r := f.remove(b); len(r.Removed) != 1 || r.Removed[0].Left != nil {
			t.Errorf("it reports %+v", r.Removed)
		}
		for _, step := range steps[:done] {
			step(b)
		}
		b.stop()
		b.cfg.KeepRemoved = "0s"
		b.start()
		eventually(t, "the rest is deleted", func() bool {
			apps, err := b.agent.removedApps()
			return err == nil && len(apps) == 0
		})
		if n := b.agent.inbox.Counts().Dead; n != 0 {
			t.Errorf("after %d steps: %d dead letters", done, n)
		}
		if _, err := os.Stat(filepath.Dir(filepath.Dir(file))); !os.IsNotExist(err) {
			t.Errorf("after %d steps: its directory is there: %v", done, err)
		}
		if keys, err := b.agent.store.Begin(app).Keys("default", "", 0); len(keys) != 0 || err != nil {
			t.Errorf("after %d steps: it has records %q, %v", done, keys, err)
		}
	}
}

// The local runtime has no fleet that could say so: what another application of the same folder left goes with its time too.
func TestTheLocalRuntimeForgetsWhatRanBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "dunlin.toml")
	must(t, os.WriteFile(filepath.Join(dir, "c.wasm"), hello1, 0o600))
	for _, step := range []struct {
		name, keep string
		there      bool
	}{{"first", "", true}, {"second", "", true}, {"second", "0s", false}, {"first", "0s", false}} {
		must(t, os.WriteFile(path, []byte(strings.NewReplacer("NAME", step.name, "VERSION", "1.0.0", "ROUTE", "/").Replace(localManifest)), 0o600))
		b := &board{t: t, cfg: Config{State: filepath.Join(dir, "state"), Listen: off, Bus: Bus{Listen: off}, KeepRemoved: step.keep, local: true}}
		b.seedCode()
		a, err := New(b.cfg, slog.New(slog.DiscardHandler))
		must(t, err)
		if step.keep == "" && step.name == "first" {
			tx := a.store.Begin("first")
			must(t, tx.Set("default", "k", []byte("v")))
			must(t, tx.Commit(t.Context()))
		}
		_, err = a.runManifest(t.Context(), path)
		must(t, err)
		if _, there, err := a.store.Begin("first").Get("default", "k"); there != step.there || err != nil {
			t.Errorf("%s with %q: its data is there: %t, %v", step.name, step.keep, there, err)
		}
		a.Close()
	}
}
