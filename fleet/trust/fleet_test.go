package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// testFleet is a fleet server and the people with the keys, enough to make honest metadata and dishonest.
type testFleet struct {
	t                                             testing.TB
	name                                          string
	rootKey, releaseKey, snapKey, timeKey, direct Key
	rootFile                                      []byte // newest
	roots                                         map[int64][]byte
	timestamp, snapshot, targets                  []byte
	timestampVersion, snapshotVersion             int64
}

func newFleet(t testing.TB, name string) *testFleet {
	f := &testFleet{t: t, name: name, roots: map[int64][]byte{}}
	for i, k := range []*Key{&f.rootKey, &f.releaseKey, &f.snapKey, &f.timeKey, &f.direct} {
		*k = seedKey(t, name, i)
	}
	var err error
	f.rootFile, err = NewRoot(f.spec(), f.rootKey)
	must(t, err)
	f.roots[1] = f.rootFile
	f.push(manifest("greenhouse", "1.0.0", ""), t0)
	return f
}

// seedKey is the same key at each run, so that vectors stay as they are.
func seedKey(_ testing.TB, name string, i int) Key {
	seed := sha256.Sum256([]byte(fmt.Sprint("test key ", name, i)))
	return Key{ed25519.NewKeyFromSeed(seed[:])}
}

func (f *testFleet) spec() RootSpec {
	one := func(k Key) Signers { return Signers{Keys: []PublicKey{k.Public()}} }
	return RootSpec{Fleet: f.name, Expires: t0.Add(365 * day), Root: one(f.rootKey), Release: one(f.releaseKey),
		Snapshot: one(f.snapKey), Timestamp: one(f.timeKey), Director: one(f.direct)}
}

// push signs a release and publishes it.
func (f *testFleet) push(manifest []byte, now time.Time) {
	b, err := AddRelease(f.targets, manifest, now.Add(90*day), f.releaseKey)
	must(f.t, err)
	must(f.t, CheckTargets(f.rootFile, f.targets, b, now))
	f.targets = b
	f.publish(now)
}

// publish makes a snapshot and timestamp of the targets.
func (f *testFleet) publish(now time.Time) {
	var err error
	f.snapshotVersion++
	f.snapshot, err = NewSnapshot(f.targets, f.snapshotVersion, now.Add(7*day), f.snapKey)
	must(f.t, err)
	f.stamp(now)
}

func (f *testFleet) stamp(now time.Time) {
	var err error
	f.timestampVersion++
	f.timestamp, err = NewTimestamp(f.snapshot, f.timestampVersion, now, now.Add(day), f.timeKey)
	must(f.t, err)
}

func (f *testFleet) rotate(change func(*testFleet), signers ...Key) {
	old := f.rootKey
	change(f)
	b, err := NextRoot(f.rootFile, f.spec(), append([]Key{old, f.rootKey}, signers...)...)
	must(f.t, err)
	f.rootFile = b
	info, err := InspectRoot(b)
	must(f.t, err)
	f.roots[info.Version] = b
}

func (f *testFleet) desired(device string, generation uint64, releases ...string) []byte {
	return f.sign(f.payload(device, generation, releases...), f.direct)
}

func (f *testFleet) payload(device string, generation uint64, releases ...string) desiredPayload {
	p := desiredPayload{Fleet: f.name, Device: device, Generation: generation, Issued: t0}
	_, _, list, err := ListTargets(f.targets)
	must(f.t, err)
	for _, path := range releases {
		for _, t := range list {
			if t.Path == path {
				p.Releases = append(p.Releases, desiredPointer{t.Application, t.Version, digestPrefix + hex.EncodeToString(t.Digest[:]), t.Path})
			}
		}
	}
	return p
}

func (f *testFleet) sign(p desiredPayload, keys ...Key) []byte {
	b, err := json.Marshal(p)
	must(f.t, err)
	e, err := SignDesired(b, keys...)
	must(f.t, err)
	return e
}

func manifest(application, version, floor string) []byte {
	m := map[string]any{"format": 1, "application": application, "version": version,
		"components": map[string]any{"main": map[string]any{"digest": digestPrefix + hex.EncodeToString(bytes.Repeat([]byte{7}, 32)), "size": 4}}}
	if floor != "" {
		m["floor"] = floor
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// board is a device: its pinned root and what it remembers.
type board struct {
	pinned []byte
	state  State
}

func (f *testFleet) board() *board { return &board{pinned: f.roots[1]} }

// refresh takes what f serves now. The state is kept also after an error, as an agent does.
func (b *board) refresh(f *testFleet, now time.Time) (*Verifier, error) {
	v, err := Open(b.pinned, b.state, now)
	if err != nil {
		return nil, err
	}
	defer func() { b.state = v.State() }()
	for want, ok := v.Next(); ok; want, ok = v.Next() {
		file := map[Role][]byte{Root: f.roots[want.Version], Timestamp: f.timestamp, Snapshot: f.snapshot, Targets: f.targets}[want.Role]
		if want.Role == Root && file == nil {
			err = v.NoNewerRoot()
		} else {
			err = v.Update(want.Role, file)
		}
		if err != nil {
			return v, err
		}
	}
	return v, nil
}

// install is what an agent does with a desired state: refresh, judge, take the manifests.
func (b *board) install(f *testFleet, now time.Time, envelope []byte, manifests ...[]byte) (d Desired, releases []Release, err error) {
	v, err := b.refresh(f, now)
	if err != nil {
		return d, nil, err
	}
	defer func() { b.state = v.State() }()
	if d, err = v.Desired(envelope, "pi-1"); err != nil {
		return d, nil, err
	}
	for i, p := range d.Releases {
		r, err := v.Release(p.Target, manifests[i])
		if err != nil {
			return d, releases, err
		}
		releases = append(releases, r)
	}
	return d, releases, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, err error, kind Kind) {
	t.Helper()
	if err == nil {
		t.Fatalf("passes, want %q", kind)
	}
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %q", err, kind)
	}
}
