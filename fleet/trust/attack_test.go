package trust

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestHonestFleetInstalls(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	m1 := manifest("greenhouse", "1.0.0", "")
	d, rel, err := b.install(f, t0, f.desired("pi-1", 1, "greenhouse/1.0.0.json"), m1)
	must(t, err)
	if d.Generation != 1 || d.Repeated || len(rel) != 1 || rel[0].Version() != "1.0.0" || rel[0].Application() != "greenhouse" ||
		!bytes.Equal(rel[0].Manifest(), m1) || d.Releases[0].Size != int64(len(m1)) || rel[0].Local() || len(rel[0].Components()) != 1 {
		t.Fatalf("got %+v %+v", d, rel)
	}
	// The same again is nothing new; a newer one is.
	d, _, err = b.install(f, t0, f.desired("pi-1", 1, "greenhouse/1.0.0.json"), m1)
	must(t, err)
	if !d.Repeated {
		t.Error("the same envelope is not a repeat")
	}
	m2 := manifest("greenhouse", "1.1.0", "")
	f.push(m2, t0.Add(time.Hour))
	_, rel, err = b.install(f, t0.Add(time.Hour), f.desired("pi-1", 2, "greenhouse/1.1.0.json"), m2)
	must(t, err)
	if rel[0].Version() != "1.1.0" {
		t.Errorf("got %s", rel[0].Version())
	}
	// And back again, signed by the director: both are signed releases.
	_, _, err = b.install(f, t0.Add(2*time.Hour), f.desired("pi-1", 3, "greenhouse/1.0.0.json"), m1)
	must(t, err)
}

func TestUnchangedMetadataIsNotFetchedAgain(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	_, err := b.refresh(f, t0)
	must(t, err)
	f.stamp(t0.Add(time.Hour))
	f.snapshot, f.targets = nil, nil // asking for them would fail
	v, err := b.refresh(f, t0.Add(time.Hour))
	must(t, err)
	if got := v.Versions(); got[Root] != 1 || got[Timestamp] != 2 || got[Snapshot] != 1 || got[Targets] != 1 {
		t.Errorf("versions %v", got)
	}
}

func TestRollbackOfEachRoleIsRefused(t *testing.T) {
	for _, role := range []Role{Timestamp, Snapshot, Targets} {
		t.Run(string(role), func(t *testing.T) {
			f := newFleet(t, "green")
			old := *f
			f.push(manifest("greenhouse", "1.1.0", ""), t0)
			b := f.board()
			_, err := b.refresh(f, t0)
			must(t, err)
			before := b.state.Records()
			kind := Rollback
			switch role {
			case Timestamp: // the thief of the link replays what was signed before
				f.timestamp = old.timestamp
			case Snapshot: // the thief of the timestamp key points at an old snapshot
				f.timestamp, err = NewTimestamp(old.snapshot, 9, t0, t0.Add(day), f.timeKey)
				f.snapshot = old.snapshot
			case Targets: // the thief of the snapshot and timestamp keys points at old targets
				f.targets = old.targets
				f.publish(t0)
			}
			must(t, err)
			_, err = b.refresh(f, t0)
			refused(t, err, kind)
			if !bytes.Equal(b.state.Targets, before["targets"]) || !bytes.Equal(b.state.Snapshot, before["snapshot"]) {
				t.Error("the older file was kept")
			}
		})
	}
}

func TestRollbackOfRootIsRefused(t *testing.T) {
	f := newFleet(t, "green")
	f.rotate(func(*testFleet) {})
	b := f.board()
	_, err := b.refresh(f, t0)
	must(t, err)
	v, err := Open(b.pinned, b.state, t0)
	must(t, err)
	refused(t, v.Update(Root, f.roots[1]), Rollback)
	refused(t, v.Update(Root, f.roots[2]), Rollback)
}

func TestReplayedDesiredIsRefused(t *testing.T) {
	f := newFleet(t, "green")
	f.push(manifest("greenhouse", "1.1.0", ""), t0)
	m1, m2 := manifest("greenhouse", "1.0.0", ""), manifest("greenhouse", "1.1.0", "")
	b := f.board()
	old := f.desired("pi-1", 1, "greenhouse/1.0.0.json")
	_, _, err := b.install(f, t0, old, m1)
	must(t, err)
	_, _, err = b.install(f, t0, f.desired("pi-1", 2, "greenhouse/1.1.0.json"), m2)
	must(t, err)
	_, _, err = b.install(f, t0, old, m1)
	refused(t, err, Rollback)
	_, _, err = b.install(f, t0, f.desired("pi-1", 2, "greenhouse/1.0.0.json"), m1)
	refused(t, err, Rollback) // one generation, two contents
	if b.state.Generation != 2 {
		t.Errorf("generation %d", b.state.Generation)
	}
}

func TestFreezeStopsInstallingAndNothingElse(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	m := manifest("greenhouse", "1.0.0", "")
	env := f.desired("pi-1", 1, "greenhouse/1.0.0.json")
	_, rel, err := b.install(f, t0, env, m)
	must(t, err)
	for name, after := range map[string]time.Duration{"timestamp": 2 * day, "root": 400 * day} {
		_, err = b.refresh(f, t0.Add(after))
		refused(t, err, Expired)
		var e *Error
		if !errors.As(err, &e) || string(e.Role) != name {
			t.Errorf("after %s: %v, want the %s", after, err, name)
		}
	}
	f.stamp(t0.Add(8 * day))
	_, err = b.refresh(f, t0.Add(8*day))
	refused(t, err, Expired) // snapshot, and now its timestamp is newer than the stored rest
	// Years later, and after a reboot, what was verified runs.
	records := b.state.Records()
	s, err := ParseState(records)
	must(t, err)
	again, err := Reopen(s, m)
	must(t, err)
	if again.Digest() != rel[0].Digest() || again.Version() != "1.0.0" {
		t.Error("another release")
	}
	d, ok, err := ReopenDesired(s)
	if err != nil || !ok || d.Generation != 1 || len(d.Releases) != 1 || d.Releases[0].Size != int64(len(m)) {
		t.Errorf("desired %+v %v %v", d, ok, err)
	}
	// Other bytes don't.
	_, err = Reopen(s, manifest("greenhouse", "1.0.1", ""))
	refused(t, err, Unknown)
	bad := bytes.Replace(m, []byte(`"size":4`), []byte(`"size":5`), 1)
	_, err = Reopen(s, bad)
	refused(t, err, Unknown)
}

func TestRunningReleaseOutlivesItsTarget(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	m := manifest("greenhouse", "1.0.0", "")
	_, _, err := b.install(f, t0, f.desired("pi-1", 1, "greenhouse/1.0.0.json"), m)
	must(t, err)
	f.push(manifest("greenhouse", "1.1.0", ""), t0)
	gone, err := RemoveReleases(f.targets, []string{"greenhouse/1.0.0.json"}, t0.Add(90*day), f.releaseKey)
	must(t, err)
	env := f.desired("pi-1", 2, "greenhouse/1.0.0.json")
	f.targets = gone
	f.publish(t0)
	_, _, err = b.install(f, t0, env, m)
	refused(t, err, Unknown)
	_, err = Reopen(b.state, m)
	must(t, err)
	// A release that was verified but whose acceptance was lost is still found in the stored targets.
	s := b.state
	s.Accepted = nil
	_, err = Reopen(s, manifest("greenhouse", "1.1.0", ""))
	must(t, err)
	_, err = Reopen(s, m)
	refused(t, err, Unknown)
}

func TestWrongFleetOrDeviceIsRefused(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	_, _, err := b.install(f, t0, f.desired("pi-2", 1, "greenhouse/1.0.0.json"), nil)
	refused(t, err, WrongDevice)
	p := f.payload("pi-1", 1)
	p.Fleet = "blue"
	_, _, err = b.install(f, t0, f.sign(p, f.direct))
	refused(t, err, WrongFleet)
	if b.state.Generation != 0 || b.state.Desired != nil {
		t.Error("a refused desired state was kept")
	}
	other := newFleet(t, "blue")
	_, err = Open(other.rootFile, b.state, t0)
	refused(t, err, WrongFleet)
	// The root keys can't rename the fleet either.
	f.name = "blue"
	_, err = NextRoot(f.rootFile, f.spec(), f.rootKey)
	refused(t, err, WrongFleet)
}

func TestMixAndMatchIsRefused(t *testing.T) {
	f := newFleet(t, "green")
	other := *f
	f.push(manifest("greenhouse", "1.1.0", ""), t0)
	other.push(manifest("greenhouse", "1.2.0", ""), t0) // same versions, other content
	for _, c := range []struct {
		name string
		mix  func(*testFleet)
	}{
		{"targets of another snapshot", func(m *testFleet) { m.targets = other.targets }},
		{"snapshot of another timestamp", func(m *testFleet) { m.snapshot = other.snapshot }},
		{"snapshot and targets of another timestamp", func(m *testFleet) { m.snapshot, m.targets = other.snapshot, other.targets }},
	} {
		t.Run(c.name, func(t *testing.T) {
			mixed := *f
			c.mix(&mixed)
			_, err := f.board().refresh(&mixed, t0)
			refused(t, err, Mismatch)
		})
	}
	t.Run("stored snapshot of another timestamp", func(t *testing.T) {
		b := f.board()
		_, err := b.refresh(f, t0)
		must(t, err)
		b.state.Timestamp = nil
		other.stamp(t0)
		v, err := b.refresh(&other, t0)
		must(t, err)
		if _, ok := v.target("greenhouse/1.1.0.json"); ok {
			t.Error("releases of the other snapshot")
		}
	})
	t.Run("manifest of another release", func(t *testing.T) {
		v, err := f.board().refresh(f, t0)
		must(t, err)
		_, err = v.Release("greenhouse/1.1.0.json", manifest("greenhouse", "1.0.0", ""))
		refused(t, err, Mismatch)
		_, err = v.Release("greenhouse/1.1.0.json", append(manifest("greenhouse", "1.1.0", ""), ' '))
		refused(t, err, Mismatch)
		_, err = v.Release("greenhouse/9.9.9.json", manifest("greenhouse", "9.9.9", ""))
		refused(t, err, Unknown)
	})
	t.Run("director names a digest that nobody signed", func(t *testing.T) {
		p := f.payload("pi-1", 1, "greenhouse/1.1.0.json")
		p.Releases[0].Release = digestPrefix + strings.Repeat("0", 64)
		_, _, err := f.board().install(f, t0, f.sign(p, f.direct))
		refused(t, err, Mismatch)
	})
}

func TestFloorHoldsEvenAgainstTheDirector(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	m1, m2 := manifest("greenhouse", "1.0.0", ""), manifest("greenhouse", "2.0.0", "1.5.0")
	_, _, err := b.install(f, t0, f.desired("pi-1", 1, "greenhouse/1.0.0.json"), m1)
	must(t, err)
	f.push(m2, t0)
	_, err = b.refresh(f, t0) // seeing the floor is enough
	must(t, err)
	_, _, err = b.install(f, t0, f.desired("pi-1", 2, "greenhouse/1.0.0.json"), m1)
	refused(t, err, BelowFloor)
	if b.state.Generation != 1 {
		t.Error("a desired state below the floor was accepted")
	}
	refused(t, b.state.Allows("greenhouse", "1.4.9"), BelowFloor)
	must(t, b.state.Allows("greenhouse", "1.5.0"))
	must(t, b.state.Allows("other", "0.0.1"))
	// Taking the release off the targets does not lower the floor.
	f.targets, err = RemoveReleases(f.targets, []string{"greenhouse/2.0.0.json"}, t0.Add(90*day), f.releaseKey)
	must(t, err)
	f.publish(t0)
	_, _, err = b.install(f, t0, f.desired("pi-1", 2, "greenhouse/1.0.0.json"), m1)
	refused(t, err, BelowFloor)
	// What runs goes on.
	_, err = Reopen(b.state, m1)
	must(t, err)
}

func TestStepsOutOfOrderAreRefused(t *testing.T) {
	f := newFleet(t, "green")
	v, err := Open(f.rootFile, State{}, t0)
	must(t, err)
	refused(t, v.Update(Timestamp, f.timestamp), Order)
	refused(t, v.Update(Targets, f.targets), Order)
	_, err = v.Desired(f.desired("pi-1", 1), "pi-1")
	refused(t, err, Order)
	_, err = v.Release("greenhouse/1.0.0.json", manifest("greenhouse", "1.0.0", ""))
	refused(t, err, Order)
	must(t, v.NoNewerRoot())
	refused(t, v.NoNewerRoot(), Order)
	refused(t, v.Update(Root, f.rootFile), Order)
}

func TestAFalseTimeThatWasSavedGivesWayToASynchronisedClock(t *testing.T) {
	wrong := Clock{Build: t0, Verified: t0.Add(day), LastGood: t0.Add(3000 * day)}
	right := t0.Add(2 * day)
	if now, ok := wrong.Now(right, false); ok || !now.Equal(wrong.LastGood) {
		t.Errorf("a clock that nothing disciplines gives %s %t", now, ok)
	}
	if now, ok := wrong.Now(right, true); !ok || !now.Equal(right) {
		t.Errorf("a synchronised clock gives %s %t", now, ok)
	}
}

func TestClockNeverGoesBelowItsFloor(t *testing.T) {
	c := Clock{Build: t0, Verified: t0.Add(day), LastGood: t0.Add(-day)}
	if got := c.Floor(); !got.Equal(t0.Add(day)) {
		t.Errorf("floor %s", got)
	}
	for _, synced := range []bool{false, true} {
		for _, system := range []time.Time{time.Unix(0, 0), time.Unix(1<<32-1, 0), {}} { // 1970, 2106, year 1
			if now, ok := c.Now(system, synced); ok || !now.Equal(t0.Add(day)) {
				t.Errorf("a clock of %s, synchronised %t, gives %s %t", system, synced, now, ok)
			}
		}
		if now, ok := c.Now(t0.Add(2*day), synced); !ok || !now.Equal(t0.Add(2*day)) {
			t.Errorf("a good clock gives %s %t", now, ok)
		}
	}
	// A board whose clock fell back still sees that metadata expired.
	f := newFleet(t, "green")
	b := f.board()
	b.state.Issued = t0.Add(3 * day)
	_, err := b.refresh(f, t0)
	refused(t, err, Expired)
}
