package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Verifier is one refresh: it starts from a State, takes newer metadata in the order that Next says, and ends in a newer
// State. Not safe for concurrent use.
//
//	v, err := trust.Open(pinned, state, now)
//	for f, ok := v.Next(); ok; f, ok = v.Next() {
//		// fetch f; where there is no such root: v.NoNewerRoot(), else:
//		err = v.Update(f.Role, bytes)
//	}
//	d, err := v.Desired(envelope, device)
//	state = v.State() // also after an error: what was verified until then guards against older files
type Verifier struct {
	tm        *trustedmetadata.TrustedMetadata
	now       time.Time
	root      *root
	state     State // grows as files are verified
	stage     Role  // what comes next
	rotations int
	releases  []Target // when done
}

const done Role = ""

// Fetch is a metadata file to fetch. Version 0 is the newest. More than MaxBytes is an attack: stop reading.
type Fetch struct {
	Role     Role
	Version  int64
	MaxBytes int64
}

// Open starts a refresh at now for a board whose pinned root is pinned: the file that it was enrolled with. The stored
// root goes on from there; a pinned one of a higher version wins, since whoever can write it owns the board. now should
// come from Clock.Now; it is never taken to be before State.Issued.
func Open(pinned []byte, s State, now time.Time) (*Verifier, error) {
	r, err := parseRoot(pinned)
	if err != nil {
		return nil, err
	}
	trusted := pinned
	if s.Root != nil {
		stored, err := parseRoot(s.Root)
		if err != nil {
			return nil, err
		}
		if stored.fleet != r.fleet {
			e := verdict(WrongFleet, Root, r.version(), "pinned root is of fleet %q, this board trusts %q", r.fleet, stored.fleet)
			e.Hint = "to move the board to another fleet, clear its store first"
			return nil, e
		}
		if stored.version() >= r.version() {
			r, trusted = stored, s.Root
		}
	}
	tm, err := openRoot(trusted)
	if err != nil {
		return nil, err
	}
	tm.RefTime = latest(now, s.Issued).UTC()
	v := &Verifier{tm: tm, now: tm.RefTime, root: r, state: s.clone(), stage: Root}
	v.state.Root = trusted
	return v, nil
}

// Fleet is the fleet's name, from the root.
func (v *Verifier) Fleet() string { return v.root.fleet }

// State is what was verified so far. Keep it in one transaction, also when the refresh stopped half-way.
func (v *Verifier) State() State { return v.state.clone() }

// Versions are the metadata versions that State holds, for reports. 0 where there is none.
func (v *Verifier) Versions() map[Role]int64 {
	out := map[Role]int64{Root: v.tm.Root.Signed.Version}
	if v.tm.Timestamp != nil {
		out[Timestamp] = v.tm.Timestamp.Signed.Version
	}
	if v.tm.Snapshot != nil {
		out[Snapshot] = v.tm.Snapshot.Signed.Version
	}
	if t := v.tm.Targets[string(Targets)]; t != nil {
		out[Targets] = t.Signed.Version
	}
	return out
}

// Next is what to fetch next; ok is false when the refresh is complete.
func (v *Verifier) Next() (f Fetch, ok bool) {
	switch v.stage {
	case Root:
		return Fetch{Root, v.tm.Root.Signed.Version + 1, MaxRootBytes}, true
	case Timestamp:
		return Fetch{Timestamp, 0, MaxTimestampBytes}, true
	case Snapshot:
		return fetch(Snapshot, v.tm.Timestamp.Signed.Meta[string(Snapshot)+".json"], MaxSnapshotBytes), true
	case Targets:
		return fetch(Targets, v.tm.Snapshot.Signed.Meta[string(Targets)+".json"], MaxTargetsBytes), true
	}
	return Fetch{}, false
}

func fetch(role Role, m *metadata.MetaFiles, limit int64) Fetch {
	f := Fetch{role, m.Version, limit}
	if m.Length > 0 && m.Length < limit {
		f.MaxBytes = m.Length
	}
	return f
}

// NoNewerRoot says that there is no root of the version that Next asked for, so the one we have is the last.
func (v *Verifier) NoNewerRoot() error {
	if v.stage != Root {
		return verdict(Order, Root, 0, "the refresh is past the root")
	}
	if v.tm.Root.Signed.IsExpired(v.now) {
		return v.expired(Root, v.tm.Root.Signed.Version, v.tm.Root.Signed.Expires)
	}
	// The stored timestamp guards against older ones. It may be expired, or signed by a key that is gone: then it doesn't.
	if checkMeta(Timestamp, v.state.Timestamp) == nil {
		_, _ = v.tm.UpdateTimestamp(v.state.Timestamp)
	}
	v.stage = Timestamp
	return nil
}

// Update takes the bytes of the file that Next asked for. After an error Next still asks for it, and State keeps
// what was verified before.
func (v *Verifier) Update(role Role, b []byte) error {
	f, ok := v.Next()
	if !ok || f.Role != role {
		return verdict(Order, role, 0, "next is %q", f.Role)
	}
	if int64(len(b)) > f.MaxBytes {
		return verdict(TooLarge, role, 0, "%d bytes, limit is %d", len(b), f.MaxBytes)
	}
	switch role {
	case Root:
		return v.updateRoot(b)
	case Timestamp:
		return v.updateTimestamp(b)
	case Snapshot:
		return v.updateSnapshot(b)
	}
	return v.updateTargets(b)
}

func (v *Verifier) updateRoot(b []byte) error {
	if v.rotations == MaxRootRotations {
		return verdict(TooLarge, Root, 0, "more than %d new roots in one refresh", MaxRootRotations)
	}
	if err := updateRoot(v.tm, b); err != nil {
		return err
	}
	r, err := parseRoot(b)
	if err != nil {
		return err
	}
	v.root, v.state.Root = r, bytes.Clone(b)
	v.rotations++
	return nil
}

func (v *Verifier) updateTimestamp(b []byte) error {
	if err := checkMeta(Timestamp, b); err != nil {
		return err
	}
	var known int64
	if v.tm.Timestamp != nil {
		known = v.tm.Timestamp.Signed.Version
	}
	_, err := v.tm.UpdateTimestamp(b)
	if v.tm.Timestamp != nil && v.tm.Timestamp.Signed.Version > known {
		v.state.Timestamp = bytes.Clone(b) // authentic, even if it has expired
	}
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}), err == nil, equalVersion(err):
		t := v.tm.Timestamp.Signed
		if t.IsExpired(v.now) {
			return v.expired(Timestamp, t.Version, t.Expires)
		}
	default:
		return fromTUF(Timestamp, versionOf(b), known, err)
	}
	var field timestampField
	if raw, ok := v.tm.Timestamp.Signed.UnrecognizedFields[fleetField]; ok && recode(raw, &field) == nil {
		v.issued(field.Issued)
	}
	v.stage = Snapshot
	// What is stored may do: then nothing is fetched.
	if s := v.state.Snapshot; checkMeta(Snapshot, s) == nil {
		_, err := v.tm.UpdateSnapshot(s, true)
		want := v.tm.Timestamp.Signed.Meta[string(Snapshot)+".json"]
		if err == nil && want.VerifyLengthHashes(s) == nil {
			v.afterSnapshot()
		}
	}
	return nil
}

func (v *Verifier) updateSnapshot(b []byte) error {
	if err := checkMeta(Snapshot, b); err != nil {
		return err
	}
	known := v.tm.Timestamp.Signed.Meta[string(Snapshot)+".json"].Version
	if _, err := v.tm.UpdateSnapshot(b, false); err != nil {
		if errors.Is(err, &metadata.ErrExpiredMetadata{}) && v.tm.Snapshot != nil {
			return v.expired(Snapshot, v.tm.Snapshot.Signed.Version, v.tm.Snapshot.Signed.Expires)
		}
		return fromTUF(Snapshot, versionOf(b), known, err)
	}
	v.state.Snapshot = bytes.Clone(b)
	v.afterSnapshot()
	return nil
}

// afterSnapshot uses the stored targets if the snapshot names just them.
func (v *Verifier) afterSnapshot() {
	v.stage = Targets
	if v.state.Targets != nil {
		if m, err := parseTargets(v.state.Targets); err == nil {
			if _, err := v.tm.UpdateTargets(v.state.Targets); err == nil {
				v.complete(m)
			}
		}
	}
}

func (v *Verifier) updateTargets(b []byte) error {
	m, err := parseTargets(b)
	if err != nil {
		return err
	}
	known := v.tm.Snapshot.Signed.Meta[string(Targets)+".json"].Version
	if _, err := v.tm.UpdateTargets(b); err != nil {
		if errors.Is(err, &metadata.ErrExpiredMetadata{}) {
			return v.expired(Targets, m.Signed.Version, m.Signed.Expires)
		}
		return fromTUF(Targets, m.Signed.Version, known, err)
	}
	v.state.Targets = bytes.Clone(b)
	v.complete(m)
	return nil
}

func (v *Verifier) complete(m *metadata.Metadata[metadata.TargetsType]) {
	v.stage = done
	v.releases = releases(m.Signed.Targets)
	v.state.Verified = v.now
	v.state.raise(v.releases)
}

// releases reads the targets that are releases, sorted; others are none of ours.
func releases(files map[string]*metadata.TargetFiles) []Target {
	var list []Target
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if t, err := targetOf(path, files[path]); err == nil {
			list = append(list, t)
		}
	}
	return list
}

func (v *Verifier) target(path string) (Target, bool) {
	for _, t := range v.releases {
		if t.Path == path {
			return t, true
		}
	}
	return Target{}, false
}

// issued raises the newest signed time, but not beyond the root's end: a stolen online key can't push a board's clock
// further than people signed.
func (v *Verifier) issued(t time.Time) {
	if end := v.tm.Root.Signed.Expires; t.After(end) {
		t = end
	}
	v.state.Issued = latest(v.state.Issued, t.UTC())
}

func (v *Verifier) expired(role Role, version int64, at time.Time) error {
	return verdict(Expired, role, version, "on %s, and it is %s", at.Format(time.RFC3339), v.now.Format(time.RFC3339))
}

func equalVersion(err error) bool {
	var e *metadata.ErrEqualVersionNumber
	return errors.As(err, &e)
}

// checkMeta refuses a timestamp or snapshot that go-tuf would trip over: it takes the entry of the next role for granted.
func checkMeta(role Role, b []byte) error {
	if b == nil {
		return verdict(Unknown, role, 0, "nothing stored")
	}
	var files map[string]*metadata.MetaFiles
	next := Snapshot
	if role == Timestamp {
		m, err := metadata.Timestamp().FromBytes(b)
		if err != nil {
			return fromTUF(role, 0, 0, err)
		}
		files = m.Signed.Meta
	} else {
		m, err := metadata.Snapshot().FromBytes(b)
		if err != nil {
			return fromTUF(role, 0, 0, err)
		}
		files, next = m.Signed.Meta, Targets
	}
	for name, f := range files {
		if f == nil || f.Version < 1 {
			return verdict(Malformed, role, versionOf(b), "entry %q has no version", name)
		}
	}
	if files[string(next)+".json"] == nil {
		return verdict(Malformed, role, versionOf(b), "no entry for %s", next)
	}
	return nil
}

// versionOf is the version that metadata claims, 0 if it can't be read: for error texts.
func versionOf(b []byte) int64 {
	var peek struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if json.Unmarshal(b, &peek) != nil {
		return 0
	}
	return peek.Signed.Version
}
