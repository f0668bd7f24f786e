package trust

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

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

func TestTargetsAreRenewedWithoutARelease(t *testing.T) {
	f := newFleet(t, "green")
	b := f.board()
	m := manifest("greenhouse", "1.0.0", "")
	late := t0.Add(100 * day) // the targets have expired, and boards say that they are frozen
	f.publish(late)
	_, err := b.refresh(f, late)
	refused(t, err, Expired)
	f.targets, err = RemoveReleases(f.targets, nil, late.Add(90*day), f.releaseKey)
	must(t, err)
	f.publish(late)
	_, _, err = b.install(f, late, f.desired("pi-1", 1, "greenhouse/1.0.0.json"), m)
	must(t, err)
	empty, err := RemoveReleases(nil, nil, t0.Add(day), f.releaseKey)
	must(t, err)
	if version, _, list, err := ListTargets(empty); err != nil || version != 1 || len(list) != 0 {
		t.Errorf("first targets: %d %v %v", version, list, err)
	}
	must(t, CheckTargets(f.rootFile, nil, empty, t0))
}

func FuzzKeys(f *testing.F) {
	key, err := GenerateKey()
	must(f, err)
	private, err := key.PEM()
	must(f, err)
	public, err := key.Public().JSON()
	must(f, err)
	f.Add(private)
	f.Add(public)
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParsePublicKey(b); err == nil {
			if again, err := k.JSON(); err != nil || !bytes.Equal(again, bytes.TrimSpace(b)) {
				t.Fatalf("%q is written as %q, %v", b, again, err)
			}
		}
		if k, err := ParseKey(b); err == nil { // PEM has many forms of the same key
			written, err := k.PEM()
			must(t, err)
			if again, err := ParseKey(written); err != nil || again.Public().ID() != k.Public().ID() {
				t.Fatalf("%q is written as another key, %v", b, err)
			}
		}
	})
}
