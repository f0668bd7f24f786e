package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
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
		if !strings.Contains(err.Error(), name) || !Transient(err) {
			t.Errorf("after %s: %v", after, err)
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

func TestSignatureByAnotherKeyIsRefused(t *testing.T) {
	thief := newFleet(t, "thief")
	for _, role := range []Role{Root, Timestamp, Snapshot, Targets, Director} {
		t.Run(string(role), func(t *testing.T) {
			f := newFleet(t, "green")
			b := f.board()
			env := f.desired("pi-1", 1)
			switch role {
			case Root:
				spec := f.spec()
				next, err := makeRoot(spec, 2, []Key{thief.rootKey})
				must(t, err)
				f.roots[2] = next
			case Timestamp:
				f.timeKey = thief.timeKey
				f.stamp(t0)
			case Snapshot:
				f.snapKey = thief.snapKey
				f.publish(t0)
			case Targets:
				f.releaseKey = f.snapKey // the server's own keys are no release keys
				next, err := AddRelease(f.targets, manifest("evil", "1.0.0", ""), t0.Add(90*day), f.releaseKey)
				must(t, err)
				refused(t, CheckTargets(f.rootFile, f.targets, next, t0), Signature)
				f.targets = next
				f.publish(t0)
			case Director:
				env = f.sign(f.payload("pi-1", 1), thief.direct, f.timeKey, f.rootKey)
			}
			_, _, err := b.install(f, t0, env)
			refused(t, err, Signature)
			if b.state.Generation != 0 {
				t.Error("accepted")
			}
		})
	}
}

func TestThresholdCountsKeysNotSignatures(t *testing.T) {
	f := newFleet(t, "green")
	second := seedKey(t, "second", 0)
	spec := f.spec()
	spec.Director = Signers{Keys: []PublicKey{f.direct.Public(), second.Public()}, Threshold: 2}
	spec.Release = Signers{Keys: []PublicKey{f.releaseKey.Public(), second.Public()}, Threshold: 2}
	var err error
	f.rootFile, err = NewRoot(spec, f.rootKey)
	must(t, err)
	f.roots[1] = f.rootFile
	b := f.board()
	_, err = b.refresh(f, t0)
	refused(t, err, Signature) // targets have one signature
	twice, err := Cosign(f.targets, f.releaseKey)
	must(t, err)
	refused(t, CheckTargets(f.rootFile, nil, twice, t0), Signature)
	f.targets, err = Cosign(f.targets, second)
	must(t, err)
	must(t, CheckTargets(f.rootFile, nil, f.targets, t0))
	f.publish(t0)
	_, _, err = b.install(f, t0, f.desired("pi-1", 1))
	refused(t, err, Signature)
	_, _, err = b.install(f, t0, f.sign(f.payload("pi-1", 1), f.direct, f.direct))
	refused(t, err, Signature)
	_, _, err = b.install(f, t0, f.sign(f.payload("pi-1", 1), f.direct, second))
	must(t, err)
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

func TestRootRotation(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	m := manifest("greenhouse", "1.0.0", "")
	_, _, err := b.install(f, t0, f.desired("pi-1", 1, "greenhouse/1.0.0.json"), m)
	must(t, err)
	oldDirector, oldRelease := f.direct, f.releaseKey
	f.rotate(func(f *testFleet) { f.rootKey = seedKey(t, "rotated", 0) })
	f.rotate(func(f *testFleet) {
		f.releaseKey, f.snapKey = seedKey(t, "rotated", 1), seedKey(t, "rotated", 2)
		f.timeKey, f.direct = seedKey(t, "rotated", 3), seedKey(t, "rotated", 4)
	})
	// Versions of the new keys begin anew: the root keys vouch for that (fast-forward recovery).
	f.timestampVersion, f.snapshotVersion = 0, 0
	f.targets, err = AddRelease(nil, m, t0.Add(90*day), f.releaseKey)
	must(t, err)
	f.push(manifest("greenhouse", "1.1.0", ""), t0)
	_, rel, err := b.install(f, t0, f.desired("pi-1", 2, "greenhouse/1.1.0.json"), manifest("greenhouse", "1.1.0", ""))
	must(t, err)
	if len(rel) != 1 || b.state.Generation != 2 {
		t.Fatal("not installed")
	}
	if info, err := InspectRoot(b.state.Root); err != nil || info.Version != 3 || info.Keys[Director][0] != f.direct.Public().ID() {
		t.Errorf("root %+v %v", info, err)
	}
	// Keys that were taken out sign nothing any more.
	_, _, err = b.install(f, t0, f.sign(f.payload("pi-1", 3), oldDirector))
	refused(t, err, Signature)
	f.targets, err = AddRelease(f.targets, manifest("evil", "1.0.0", ""), t0.Add(90*day), oldRelease)
	must(t, err)
	f.publish(t0)
	_, err = b.refresh(f, t0)
	refused(t, err, Signature)
	// What ran before the rotation runs on, and a board that was reset to the first root walks the chain.
	_, err = Reopen(b.state, m)
	must(t, err)
	// A root pinned anew by whoever owns the board is taken from there.
	v, err := Open(f.roots[3], State{Root: f.roots[1]}, t0)
	must(t, err)
	if next, _ := v.Next(); next.Version != 4 {
		t.Errorf("next root is %d", next.Version)
	}
}

func TestRootMustBeSignedByOldAndNewKeys(t *testing.T) {
	f := newFleet(t, "green")
	old := f.rootKey
	f.rootKey = seedKey(t, "rotated", 0)
	for name, keys := range map[string][]Key{"old only": {old}, "new only": {f.rootKey}} {
		t.Run(name, func(t *testing.T) {
			_, err := NextRoot(f.rootFile, f.spec(), keys...)
			refused(t, err, Signature)
			forged, err := makeRoot(f.spec(), 2, keys)
			must(t, err)
			v, err := Open(f.rootFile, State{}, t0)
			must(t, err)
			refused(t, v.Update(Root, forged), Signature)
			if next, _ := v.Next(); next.Version != 2 {
				t.Error("taken")
			}
		})
	}
	skipped, err := makeRoot(f.spec(), 3, []Key{old, f.rootKey})
	must(t, err)
	v, err := Open(f.rootFile, State{}, t0)
	must(t, err)
	refused(t, v.Update(Root, skipped), Mismatch)
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

func TestDamagedMetadataIsRefusedWholly(t *testing.T) {
	f := newFleet(t, "green")
	f.rotate(func(*testFleet) {})
	env := f.desired("pi-1", 1, "greenhouse/1.0.0.json")
	files := map[Role][]byte{Root: f.roots[2], Timestamp: f.timestamp, Snapshot: f.snapshot, Targets: f.targets, Director: env}
	for role, file := range files {
		t.Run(string(role), func(t *testing.T) {
			try := func(damaged []byte) error {
				g := *f
				g.roots = map[int64][]byte{1: f.roots[1], 2: f.roots[2]}
				e := env
				switch role {
				case Root:
					g.roots[2] = damaged
				case Timestamp:
					g.timestamp = damaged
				case Snapshot:
					g.snapshot = damaged
				case Targets:
					g.targets = damaged
				case Director:
					e = damaged
				}
				b := f.board()
				_, _, err := b.install(&g, t0, e, manifest("greenhouse", "1.0.0", ""))
				if err != nil && (b.state.Generation != 0 || len(b.state.Accepted) != 0) {
					t.Fatalf("kept something of %s", role)
				}
				return err
			}
			must(t, try(file))
			for i := 0; i < len(file); i += 17 {
				if err := try(file[:i]); err == nil {
					t.Fatalf("cut at %d passes", i)
				}
				flipped := bytes.Clone(file)
				flipped[i] ^= 1
				// A flip that changes no signed value (the name of an unknown field outside) is the only one that may pass.
				if err := try(flipped); err == nil && role != Root && role != Timestamp {
					t.Fatalf("bit flipped at %d passes: %s", i, flipped)
				}
			}
			var large *Error
			if err := try(append(bytes.Clone(file), bytes.Repeat([]byte(" "), MaxTargetsBytes)...)); !errors.As(err, &large) || large.Kind != TooLarge {
				t.Errorf("padded: %v", err)
			}
		})
	}
}

// A flip inside a root or timestamp may keep its meaning only outside of what is signed.
func TestFlippedSignedPartIsRefused(t *testing.T) {
	f := newFleet(t, "green")
	signed := bytes.Index(f.timestamp, []byte(`"signed":`)) + len(`"signed":`)
	for i := signed; i < len(f.timestamp)-1; i++ {
		g := *f
		g.timestamp = bytes.Clone(f.timestamp)
		g.timestamp[i] ^= 1
		if _, err := f.board().refresh(&g, t0); err == nil {
			t.Fatalf("flip at %d passes: %s", i, g.timestamp)
		}
	}
}

func TestHostileShapesDontCrash(t *testing.T) {
	f := newFleet(t, "green")
	resign := func(b []byte, old, new string) []byte {
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %s in %s", old, b)
		}
		return bytes.Replace(b, []byte(old), []byte(new), 1)
	}
	keyJSON, err := f.rootKey.Public().JSON()
	must(t, err)
	for name, b := range map[string][]byte{
		"null role":     resign(f.rootFile, `"roles":{`, `"roles":{"x":null,`),
		"null key":      resign(f.rootFile, string(keyJSON), "null"),
		"short key":     resign(f.rootFile, `"public":"`, `"public":"00`),
		"no roles":      []byte(`{"signed":{"_type":"root","version":1},"signatures":[]}`),
		"zero version":  resign(f.rootFile, `"version":1`, `"version":0`),
		"null":          []byte("null"),
		"empty":         nil,
		"null director": resign(f.rootFile, `"director":{`, `"directo":{`),
	} {
		if _, err := Open(b, State{}, t0); err == nil {
			t.Errorf("%s: root passes", name)
		}
	}
	b := f.board()
	for name, ts := range map[string][]byte{
		"null entry": resign(f.timestamp, `"meta":{"snapshot.json":{`, `"meta":{"snapshot.json":null,"x":{`),
		"no entry":   resign(f.timestamp, `"snapshot.json"`, `"snapshot.jsn"`),
	} {
		g := *f
		g.timestamp = ts
		_, err := b.refresh(&g, t0)
		if !errors.Is(err, Malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
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

func TestStolenOnlineKeysCantPushTheClockBeyondTheRoot(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	var err error
	f.timestamp, err = NewTimestamp(f.snapshot, 9, t0.Add(9000*day), t0.Add(9999*day), f.timeKey)
	must(t, err)
	_, err = b.refresh(f, t0)
	must(t, err)
	if want := t0.Add(365 * day); !b.state.Issued.Equal(want) {
		t.Errorf("issued %s, want the root's end %s", b.state.Issued, want)
	}
}

func TestClockNeverGoesBelowItsFloor(t *testing.T) {
	c := Clock{Build: t0, Verified: t0.Add(day), LastGood: t0.Add(-day)}
	if got := c.Floor(); !got.Equal(t0.Add(day)) {
		t.Errorf("floor %s", got)
	}
	if now, ok := c.Now(time.Unix(0, 0)); ok || !now.Equal(t0.Add(day)) {
		t.Errorf("a clock of 1970 gives %s %t", now, ok)
	}
	if now, ok := c.Now(t0.Add(2 * day)); !ok || !now.Equal(t0.Add(2*day)) {
		t.Errorf("a good clock gives %s %t", now, ok)
	}
	// A board whose clock fell back still sees that metadata expired.
	f := newFleet(t, "green")
	b := f.board()
	b.state.Issued = t0.Add(3 * day)
	_, err := b.refresh(f, t0)
	refused(t, err, Expired)
}

func TestServerRefusesWhatBoardsWould(t *testing.T) {
	f := newFleet(t, "green")
	good, err := AddRelease(f.targets, manifest("greenhouse", "1.1.0", ""), t0.Add(day), f.releaseKey)
	must(t, err)
	must(t, CheckTargets(f.rootFile, f.targets, good, t0))
	refused(t, CheckTargets(f.rootFile, f.targets, good, t0.Add(2*day)), Expired)
	refused(t, CheckTargets(f.rootFile, good, f.targets, t0), Rollback)
	refused(t, CheckTargets(f.rootFile, good, good, t0), Rollback)
	refused(t, CheckTargets(newFleet(t, "blue").rootFile, f.targets, good, t0), Signature)
	if _, err := AddRelease(f.targets, bytes.Replace(manifest("greenhouse", "1.0.0", ""), []byte(":4"), []byte(":5"), 1), t0, f.releaseKey); err == nil || !strings.Contains(err.Error(), "raise the version") {
		t.Errorf("other bytes under one version: %v", err)
	}
	for name, m := range map[string][]byte{
		"path in name":  manifest("../x", "1.0.0", ""),
		"path in ver":   manifest("x", "../1.0.0", ""),
		"floor above":   manifest("x", "1.0.0", "1.0.1"),
		"no components": []byte(`{"application":"x","version":"1.0.0"}`),
		"not JSON":      []byte("x"),
	} {
		if _, err := AddRelease(f.targets, m, t0, f.releaseKey); !errors.Is(err, Malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvelopeHasOneForm(t *testing.T) {
	f := newFleet(t, "green")
	good := f.desired("pi-1", 1, "greenhouse/1.0.0.json")
	var e dsse.Envelope
	must(t, json.Unmarshal(good, &e))
	for name, change := range map[string]func(*dsse.Envelope){
		"type": func(e *dsse.Envelope) { e.PayloadType = "application/json" },
		"url":  func(e *dsse.Envelope) { e.Payload = strings.TrimRight(e.Payload, "=") },
	} {
		c := e
		change(&c)
		b, err := json.Marshal(c)
		must(t, err)
		if _, _, err := f.board().install(f, t0, b, manifest("greenhouse", "1.0.0", "")); !errors.Is(err, Malformed) && !errors.Is(err, Signature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"space": append(bytes.Clone(good), ' '), "twice": append(bytes.Clone(good), good...)} {
		_, _, err := f.board().install(f, t0, b, manifest("greenhouse", "1.0.0", ""))
		refused(t, err, Malformed)
		_ = name
	}
	if _, err := SignDesired([]byte(`{"fleet":"green"}`), f.direct); !errors.Is(err, Malformed) {
		t.Errorf("the director signs nonsense: %v", err)
	}
}
