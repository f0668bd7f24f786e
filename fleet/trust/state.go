package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"dunlin.dev/dunlin/fleet/semver"
)

// State is all that a board must not forget: plain data, which the store keeps in one transaction. The zero State is a
// board that has seen nothing but its pinned root. Treat the slices and maps as read-only.
type State struct {
	Root, Timestamp, Snapshot, Targets []byte // newest verified; they may be of different refreshes

	Verified   time.Time         // reference time of the last complete refresh
	Issued     time.Time         // newest signed time seen: Clock.Verified
	Generation uint64            // of Desired
	Desired    []byte            // newest accepted envelope
	Floors     map[string]string // application -> lowest version that may be installed
	Accepted   []Accepted        // releases that were verified, oldest first, at most acceptedPerApp for each application
}

// Accepted is a release that this board verified once.
type Accepted struct {
	Application string
	Version     string
	Digest      Digest // of the manifest
}

// acceptedPerApp: the current release, the one before, one on its way, and one spare.
const acceptedPerApp = 4

// Keys of Records.
const (
	recordRoot      = "root"
	recordTimestamp = "timestamp"
	recordSnapshot  = "snapshot"
	recordTargets   = "targets"
	recordDesired   = "desired"
	recordFacts     = "facts"
)

// facts is the record of State's small fields.
type facts struct {
	Verified   time.Time         `json:"verified,omitzero"`
	Issued     time.Time         `json:"issued,omitzero"`
	Generation uint64            `json:"generation,omitempty"`
	Floors     map[string]string `json:"floors,omitempty"`
	Accepted   []acceptedRecord  `json:"accepted,omitempty"`
}

type acceptedRecord struct {
	Application string `json:"application"`
	Version     string `json:"version"`
	Digest      string `json:"digest"` // hex
}

// Records gives s as key-value records, so that a store writes only those that changed. Absent fields have no record.
func (s State) Records() map[string][]byte {
	f := facts{Verified: s.Verified.UTC(), Issued: s.Issued.UTC(), Generation: s.Generation, Floors: s.Floors}
	for _, a := range s.Accepted {
		f.Accepted = append(f.Accepted, acceptedRecord{a.Application, a.Version, hex.EncodeToString(a.Digest[:])})
	}
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // strings, numbers and times before year 10000 always encode
	}
	records := map[string][]byte{recordFacts: b}
	for key, v := range map[string][]byte{recordRoot: s.Root, recordTimestamp: s.Timestamp, recordSnapshot: s.Snapshot, recordTargets: s.Targets, recordDesired: s.Desired} {
		if len(v) != 0 {
			records[key] = v
		}
	}
	return records
}

// ParseState is the inverse of Records; no records are the zero State. It verifies nothing: Open and Reopen do.
func ParseState(records map[string][]byte) (State, error) {
	var s State
	for key, v := range records {
		switch key {
		case recordRoot:
			s.Root = v
		case recordTimestamp:
			s.Timestamp = v
		case recordSnapshot:
			s.Snapshot = v
		case recordTargets:
			s.Targets = v
		case recordDesired:
			s.Desired = v
		case recordFacts:
			if err := s.setFacts(v); err != nil {
				return State{}, fmt.Errorf("decode trust state: %w", err)
			}
		default:
			return State{}, fmt.Errorf("decode trust state: unknown record %.80q", key)
		}
		if len(v) == 0 {
			return State{}, fmt.Errorf("decode trust state: record %q is empty", key)
		}
	}
	if _, ok := records[recordFacts]; !ok && len(records) > 0 {
		return State{}, fmt.Errorf("decode trust state: no record %q", recordFacts)
	}
	return s, nil
}

func (s *State) setFacts(b []byte) error {
	var f facts
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return err
	}
	s.Verified, s.Issued, s.Generation, s.Floors = f.Verified, f.Issued, f.Generation, f.Floors
	for _, a := range f.Accepted {
		digest, err := parseDigest(digestPrefix + a.Digest)
		if err != nil {
			return err
		}
		s.Accepted = append(s.Accepted, Accepted{a.Application, a.Version, digest})
	}
	if !bytes.Equal(b, s.Records()[recordFacts]) {
		return fmt.Errorf("record %q is not in canonical form", recordFacts)
	}
	return nil
}

// Allows says why a version of application may not be installed, also not as a way back; nil if it may.
func (s State) Allows(application, version string) error {
	floor, ok := s.Floors[application]
	if !ok || semver.Compare(version, floor) >= 0 {
		return nil
	}
	e := verdict(BelowFloor, "release", 0, "%s %s, and its floor is %s", application, version, floor)
	e.Hint = "release it again under a version from the floor upwards"
	return e
}

func (s State) clone() State {
	s.Floors = maps.Clone(s.Floors)
	s.Accepted = slices.Clone(s.Accepted)
	return s
}

// raise takes the floors of verified targets.
func (s *State) raise(list []Target) {
	for _, t := range list {
		if t.Floor == "" {
			continue
		}
		if s.Floors == nil {
			s.Floors = map[string]string{}
		}
		if have, ok := s.Floors[t.Application]; !ok || semver.Compare(t.Floor, have) > 0 {
			s.Floors[t.Application] = t.Floor
		}
	}
}

func (s *State) accept(r *release) {
	s.Accepted = slices.DeleteFunc(s.Accepted, func(a Accepted) bool { return a.Digest == r.digest })
	s.Accepted = append(s.Accepted, Accepted{r.application, r.version, r.digest})
	var of []int
	for i, a := range s.Accepted {
		if a.Application == r.application {
			of = append(of, i)
		}
	}
	if len(of) > acceptedPerApp {
		s.Accepted = slices.Delete(s.Accepted, of[0], of[0]+1)
	}
}

// Reopen makes a release of bytes that this board verified before and stored: when it boots without a network, and
// also when the metadata has expired, or names the release no more. It judges by the time of verification.
func Reopen(s State, manifest []byte) (Release, error) {
	r, err := parseManifest(manifest)
	if err != nil {
		return Release{}, err
	}
	for _, a := range s.Accepted {
		if a.Digest == r.digest && a.Application == r.application && a.Version == r.version {
			return Release{r}, nil
		}
	}
	e := verdict(Unknown, "release", 0, "%s %s with digest %x was never verified here, or is damaged", r.application, r.version, r.digest[:6])
	targets, err := storedTargets(s)
	if err != nil {
		e.Detail += " (" + err.Error() + ")"
		return Release{}, e
	}
	for _, t := range targets {
		if t.Digest == r.digest && t.Application == r.application && t.Version == r.version {
			return Release{r}, nil
		}
	}
	return Release{}, e
}

// storedTargets verifies a stored chain again, as of its own time.
func storedTargets(s State) ([]Target, error) {
	if s.Root == nil || s.Targets == nil {
		return nil, verdict(Unknown, Targets, 0, "nothing stored")
	}
	tm, err := openRoot(s.Root)
	if err != nil {
		return nil, err
	}
	m, err := parseTargets(s.Targets)
	if err != nil {
		return nil, err
	}
	if err := tm.Root.VerifyDelegate(string(Targets), m); err != nil {
		return nil, fromTUF(Targets, m.Signed.Version, 0, err)
	}
	if m.Signed.IsExpired(s.Verified) {
		return nil, verdict(Expired, Targets, m.Signed.Version, "already at %s, when it was verified", s.Verified.Format(time.RFC3339))
	}
	return releases(m.Signed.Targets), nil
}

// ReopenDesired gives the desired state that this board accepted last, for a boot without a network; ok is false if
// there was none. Releases that the stored targets don't name any more have no Size.
func ReopenDesired(s State) (d Desired, ok bool, err error) {
	if s.Desired == nil {
		return Desired{}, false, nil
	}
	e, err := parseEnvelope(s.Desired)
	if err != nil {
		return Desired{}, false, err
	}
	d, err = parseDesired(e.payload)
	if err != nil {
		return Desired{}, false, err
	}
	if d.Generation != s.Generation {
		return Desired{}, false, verdict(Mismatch, Director, int64(d.Generation), "stored beside generation %d", s.Generation)
	}
	d.Repeated = true
	if m, err := parseTargets(orEmpty(s.Targets)); err == nil {
		d.size(releases(m.Signed.Targets))
	}
	return d, true, nil
}

func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte("{}")
	}
	return b
}
