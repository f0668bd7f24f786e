package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// apply does to a modelled board what an executor does to a real one. world says what each release holds.
func apply(t *testing.T, o *Observed, world map[string]Release, s Step) {
	t.Helper()
	switch s.Kind {
	case FetchRelease:
		o.Releases[s.Release] = world[s.Release]
	case FetchComponent:
		o.Content[s.Content.Digest] = true
	case Prepare:
		if !o.Content[s.Content.Digest] {
			t.Fatalf("prepare %s: its bytes are not on the board", s.Content.Digest)
		}
		o.Prepared[s.Content.Digest] = true
	case Activate:
		for _, c := range o.Releases[s.Release].Components {
			if !o.Prepared[c.Digest] {
				t.Fatalf("activate %s: component %s is not prepared", s.Release, c.Digest)
			}
		}
		for _, c := range o.Releases[s.Release].Files {
			if !o.Content[c.Digest] {
				t.Fatalf("activate %s: files %s are not on the board", s.Release, c.Digest)
			}
		}
		if old, ok := o.Running[s.Application]; ok {
			o.Previous[s.Application] = old
		}
		o.Running[s.Application] = s.Release
	case Retire:
		delete(o.Running, s.Application)
		delete(o.Previous, s.Application)
	case Sweep:
		for _, d := range s.Drop {
			delete(o.Content, d)
			delete(o.Prepared, d)
			delete(o.Releases, d)
		}
	}
}

func empty() Observed {
	return Observed{Running: map[string]string{}, Previous: map[string]string{}, Releases: map[string]Release{},
		Content: map[string]bool{}, Prepared: map[string]bool{}, Failed: map[string]Failure{}}
}

func settle(t *testing.T, o *Observed, world map[string]Release, d Desired) []Kind {
	t.Helper()
	var kinds []Kind
	for range 1000 {
		s, ok := Next(*o, d, now)
		if !ok {
			return kinds
		}
		kinds = append(kinds, s.Kind)
		apply(t, o, world, s)
	}
	t.Fatal("the plan never ends")
	return nil
}

func TestInstallTakesItsStepsInOrder(t *testing.T) {
	world := map[string]Release{"r1": {Application: "a", Components: []Content{{"c1", 1}, {"c2", 2}}}}
	o := empty()
	got := settle(t, &o, world, Desired{1, map[string]string{"a": "r1"}})
	want := []Kind{FetchRelease, FetchComponent, FetchComponent, Prepare, Prepare, Activate}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("steps %v, want %v", got, want)
	}
}

func TestAnUpdateKeepsThePreviousReleaseAndDropsTheOneBefore(t *testing.T) {
	world := map[string]Release{}
	for i := 1; i <= 3; i++ {
		world[fmt.Sprint("r", i)] = Release{Application: "a", Components: []Content{{fmt.Sprint("c", i), 1}}, Files: []Content{{fmt.Sprint("f", i), 1}}}
	}
	o := empty()
	for i := 1; i <= 3; i++ {
		settle(t, &o, world, Desired{uint64(i), map[string]string{"a": fmt.Sprint("r", i)}})
	}
	if o.Running["a"] != "r3" || o.Previous["a"] != "r2" {
		t.Errorf("running %s, previous %s", o.Running["a"], o.Previous["a"])
	}
	if o.Content["c1"] || !o.Content["c2"] || !o.Content["c3"] || o.Content["f1"] || !o.Content["f2"] || !o.Content["f3"] || o.Prepared["f3"] {
		t.Errorf("content kept: %v", o.Content)
	}
	o.Short = true
	settle(t, &o, world, Desired{3, map[string]string{"a": "r3"}})
	if o.Content["c2"] || o.Content["f2"] || !o.Content["c3"] || !o.Content["f3"] {
		t.Errorf("content kept on a full disk: %v", o.Content)
	}
	o.Short = false
	settle(t, &o, world, Desired{4, map[string]string{"a": "r2"}})
	if o.Running["a"] != "r2" || !o.Content["c2"] {
		t.Errorf("it doesn't go back: %v", o.Running)
	}
}

func TestAFailedReleaseRestsAndHoldsUpNoOther(t *testing.T) {
	world := map[string]Release{"r1": {Components: []Content{{"c1", 1}}}, "r2": {Components: []Content{{"c2", 1}}}}
	o := empty()
	d := Desired{7, map[string]string{"a": "r1", "b": "r2"}}
	o.Failed["r1"] = Failure{Generation: 7, Retry: now.Add(time.Minute)}
	settle(t, &o, world, d)
	if o.Running["b"] != "r2" || o.Running["a"] != "" {
		t.Errorf("running %v", o.Running)
	}
	if at := Wake(o, d, now); !at.Equal(now.Add(time.Minute)) {
		t.Errorf("wakes at %v", at)
	}
	d.Generation = 8
	settle(t, &o, world, d)
	if o.Running["a"] != "r1" {
		t.Error("a new generation does not retry at once")
	}
}

// A transfer that broke off with the link rests, and then waits for the link: an alarm that is due already would make the board
// look again without end.
func TestARestThatIsOverWakesNobodyWhileTheLinkIsDown(t *testing.T) {
	o := empty()
	o.Offline = true
	d := Desired{3, map[string]string{"a": "r1"}}
	o.Failed["r1"] = Failure{Generation: 3, Retry: now.Add(-time.Second)}
	if s, ok := Next(o, d, now); ok {
		t.Fatalf("takes the step %v", s)
	}
	if at := Wake(o, d, now); !at.IsZero() {
		t.Errorf("wakes at %v, it is %v", at, now)
	}
}

func TestWithoutALinkWhatIsHereIsInstalledAndNothingIsFetched(t *testing.T) {
	world := map[string]Release{"r1": {Components: []Content{{"c1", 1}}}, "r2": {Components: []Content{{"c2", 1}}}, "r3": {}}
	o := empty()
	o.Offline = true
	o.Releases["r1"], o.Releases["r2"] = world["r1"], world["r2"]
	o.Content["c2"] = true
	settle(t, &o, world, Desired{1, map[string]string{"a": "r1", "b": "r2", "c": "r3"}})
	if o.Running["b"] != "r2" || len(o.Running) != 1 || o.Content["c1"] || len(o.Releases) != 2 {
		t.Errorf("running %v, content %v", o.Running, o.Content)
	}
}

func TestARunningReleaseThatLostAComponentOrItsCodeIsMadeWhole(t *testing.T) {
	world := map[string]Release{"r1": {Application: "a", Components: []Content{{"c1", 1}, {"c2", 1}}}}
	d := Desired{1, map[string]string{"a": "r1"}}
	o := empty()
	settle(t, &o, world, d)
	delete(o.Content, "c1")
	delete(o.Prepared, "c2")
	if got := fmt.Sprint(settle(t, &o, world, d)); got != "[fetch-component prepare]" {
		t.Errorf("steps %s", got)
	}
	delete(o.Releases, "r1")
	if got := fmt.Sprint(settle(t, &o, world, d)); got != "[fetch-release]" {
		t.Errorf("steps %s", got)
	}
}

func TestATransferThatNobodyWantsAnyMoreIsSwept(t *testing.T) {
	world := map[string]Release{"r1": {Application: "a", Components: []Content{{"c1", 1}}}}
	o := empty()
	d := Desired{1, map[string]string{"a": "r1"}}
	settle(t, &o, world, d)
	o.Partial = map[string]bool{"c9": true}
	s, ok := Next(o, d, now)
	if !ok || s.Kind != Sweep || fmt.Sprint(s.Drop) != "[c9]" {
		t.Errorf("step %v", s)
	}
}

func TestNothingIsSweptWhileAWantedManifestIsUnknown(t *testing.T) {
	o := empty()
	o.Content["c1"] = true
	d := Desired{1, map[string]string{"a": "r1"}}
	o.Failed["r1"] = Failure{Generation: 1, Retry: now.Add(time.Hour)}
	if s, ok := Next(o, d, now); ok {
		t.Errorf("step %v", s)
	}
}

// The law of the planner: its steps lead from any board to the desired one, and then there are none.
func TestAnyBoardReachesWhatIsDesired(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		world := map[string]Release{}
		for i := range 8 {
			var c []Content
			for range 1 + r.IntN(3) {
				c = append(c, Content{fmt.Sprint("c", r.IntN(6)), 1})
			}
			world[fmt.Sprint("r", i)] = Release{Application: fmt.Sprint("a", i%3), Components: c}
		}
		o := empty()
		for step := range 4 {
			d := Desired{uint64(step), map[string]string{}}
			for i := range 3 {
				if r.IntN(3) > 0 {
					d.Apps[fmt.Sprint("a", i)] = fmt.Sprint("r", i+3*r.IntN(2))
				}
			}
			for range r.IntN(5) { // a crash after any number of steps changes nothing about where it ends
				if s, ok := Next(o, d, now); ok {
					apply(t, &o, world, s)
				}
			}
			settle(t, &o, world, d)
			if !maps.Equal(o.Running, d.Apps) {
				t.Fatalf("seed %d: running %v, desired %v", seed, o.Running, d.Apps)
			}
		}
	}
}

func TestBackoffGrowsToItsBoundAndIsSpread(t *testing.T) {
	for _, c := range []struct {
		n      int
		jitter float64
		want   time.Duration
	}{{1, 0, 2500 * time.Millisecond}, {1, 0.999, 4997500 * time.Microsecond}, {4, 0, 20 * time.Second}, {50, 0, 5 * time.Minute}} {
		if got := Backoff(c.n, c.jitter); got != c.want {
			t.Errorf("backoff(%d, %v) = %v, want %v", c.n, c.jitter, got, c.want)
		}
	}
}

func TestWhatIsInstalledAndDoesNotServeIsRetiredToo(t *testing.T) {
	o := empty()
	o.Stopped = map[string]bool{"old": true, "wanted": true}
	o.Releases["r"] = Release{Application: "wanted"}
	o.Running["wanted"] = "r"
	if s, ok := Next(o, Desired{Apps: map[string]string{"wanted": "r"}}, now); !ok || s.Kind != Retire || s.Application != "old" {
		t.Errorf("next is %+v, %t", s, ok)
	}
}

// An application that comes back finds its data, however long its install takes.
func TestOnlyWhatIsNotWantedIsPurged(t *testing.T) {
	o := empty()
	o.Expired, o.Offline = []string{"old", "back"}, true
	d := Desired{Apps: map[string]string{"back": "r"}}
	if s, ok := Next(o, d, now); !ok || s.Kind != Purge || s.Application != "old" {
		t.Errorf("next is %+v, %t", s, ok)
	}
	o.Expired = []string{"back"}
	if s, ok := Next(o, d, now); ok {
		t.Errorf("next is %+v", s)
	}
}
