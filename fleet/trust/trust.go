// Package trust decides who may be believed: which metadata, which desired state, which release, for which board and
// since when. It is pure: bytes and a time in, a verdict out. It is TUF with four roles (root, targets, snapshot,
// timestamp) and one of our own: the director, named in the root, who signs what one board should run.
package trust

import "time"

// Role names a metadata file.
type Role string

// Roles. Their names are TUF's, but for the director.
const (
	Root      Role = "root"
	Timestamp Role = "timestamp"
	Snapshot  Role = "snapshot"
	Targets   Role = "targets"
	Director  Role = "director"
)

// Limits of what a board fetches, in bytes.
const (
	MaxRootBytes      = 512 << 10
	MaxTimestampBytes = 16 << 10
	MaxSnapshotBytes  = 64 << 10
	MaxTargetsBytes   = 4 << 20
	MaxManifestBytes  = 256 << 10
	MaxEnvelopeBytes  = 64 << 10
	MaxRootRotations  = 256 // in one refresh
)

// Digest is a SHA-256.
type Digest = [32]byte

// Release is a release that may run. Only Verifier.Release, Reopen and Unverified make one, so code that takes a
// Release can't be given bytes that nobody vouched for. The zero value is no release.
type Release struct{ r *release }

type release struct {
	application, version, floor, target string
	digest                              Digest
	manifest                            []byte
	components                          map[string]Blob
	local                               bool
}

// Blob is a component's bytes by digest and size.
type Blob struct {
	Digest Digest
	Size   int64
}

// IsZero reports whether r is no release.
func (r Release) IsZero() bool { return r.r == nil }

// Application is the application's name.
func (r Release) Application() string { return r.r.application }

// Version is the release's semantic version.
func (r Release) Version() string { return r.r.version }

// Floor is the lowest version that boards may install once they saw this release; may be empty.
func (r Release) Floor() string { return r.r.floor }

// Digest is the SHA-256 of Manifest.
func (r Release) Digest() Digest { return r.r.digest }

// Manifest is the canonical manifest, for wire.ParseRelease. The caller must not change it.
func (r Release) Manifest() []byte { return r.r.manifest }

// Components are the release's components by name: what a store must hold before the release can run.
func (r Release) Components() map[string]Blob { panic("skeleton") }

// Local reports whether Unverified made it.
func (r Release) Local() bool { return r.r.local }

// Unverified makes a release of a manifest that nobody signed. Only the agent's local mode (dunlin up) may call it.
func Unverified(manifest []byte) (Release, error) { panic("skeleton") }

// State is all that a board must not forget: plain data, which the store keeps in one transaction. The zero State is a
// board that has seen nothing but its pinned root.
type State struct {
	Root, Timestamp, Snapshot, Targets []byte            // newest verified
	Verified                           time.Time         // reference time of the last complete refresh
	Issued                             time.Time         // newest signed time seen; part of the clock's floor
	Generation                         uint64            // of Desired
	Desired                            []byte            // newest accepted envelope
	Floors                             map[string]string // application -> lowest version that may be installed
	Accepted                           []Accepted        // releases that were verified, newest last, few per application
}

// Accepted is a release that this board verified.
type Accepted struct {
	Application, Version, Target string
	Digest                       Digest
}

// Records gives s as key-value records, one for each field, so that a store writes only what changed.
func (s State) Records() map[string][]byte { panic("skeleton") }

// ParseState is the inverse of Records.
func ParseState(records map[string][]byte) (State, error) { panic("skeleton") }

// Allows reports whether application may be installed in version, or why not.
func (s State) Allows(application, version string) error { panic("skeleton") }

// Reopen makes a release of stored bytes that were verified before, also when its metadata has expired since.
func Reopen(s State, manifest []byte) (Release, error) { panic("skeleton") }

// ReopenDesired gives the desired state that s accepted last; ok is false if there was none.
func ReopenDesired(s State) (d Desired, ok bool, err error) { panic("skeleton") }

// Verifier is one refresh: it starts from a State, takes newer metadata in TUF's order, and ends in a newer State.
// Not safe for concurrent use.
type Verifier struct{}

// Fetch is a metadata file to fetch: Version 0 is the newest. At most MaxBytes, more is an attack.
type Fetch struct {
	Role     Role
	Version  int64
	MaxBytes int64
}

// Open starts a refresh at now, for a board whose pinned root is root.
func Open(root []byte, s State, now time.Time) (*Verifier, error) { panic("skeleton") }

// Fleet is the fleet's name, from the root.
func (v *Verifier) Fleet() string { panic("skeleton") }

// Next is what to fetch next; ok is false when the refresh is complete.
func (v *Verifier) Next() (f Fetch, ok bool) { panic("skeleton") }

// NoNewerRoot says that the root which Next asked for doesn't exist, so the one we have is the newest.
func (v *Verifier) NoNewerRoot() error { panic("skeleton") }

// Update takes the bytes of the file that Next asked for.
func (v *Verifier) Update(role Role, b []byte) error { panic("skeleton") }

// State is what was verified so far; keep it after a complete refresh, and after one that stopped half-way too.
func (v *Verifier) State() State { panic("skeleton") }

// Desired judges a desired envelope for device. The refresh must be complete.
func (v *Verifier) Desired(envelope []byte, device string) (Desired, error) { panic("skeleton") }

// Release judges the bytes of a release manifest that d points at.
func (v *Verifier) Release(target string, manifest []byte) (Release, error) { panic("skeleton") }

// Desired is a desired state that was verified.
type Desired struct {
	Fleet, Device string
	Generation    uint64
	Issued        time.Time
	Releases      []Pointer
	Repeated      bool // the very envelope that was accepted before: nothing to do
}

// Pointer names a release of a Desired. Size is the manifest's signed size.
type Pointer struct {
	Application, Version, Target string
	Digest                       Digest
	Size                         int64
}

// Kind of a verdict: test with errors.Is.
type Kind string

// Kinds.
const (
	Expired     Kind = "expired"
	Rollback    Kind = "older than what was seen"
	Signature   Kind = "not signed by enough trusted keys"
	Malformed   Kind = "malformed"
	Mismatch    Kind = "doesn't match what was signed"
	WrongFleet  Kind = "for another fleet"
	WrongDevice Kind = "for another device"
	Unknown     Kind = "not among the signed targets"
	BelowFloor  Kind = "below the floor"
	TooLarge    Kind = "too large"
	Order       Kind = "out of order"
)

func (k Kind) Error() string { return string(k) }

// Clock is what bounds a board's time from below.
type Clock struct {
	Build    time.Time // when the agent was built
	Verified time.Time // State.Issued
	LastGood time.Time // last synchronised time that was saved
}

// Floor is the newest of them: the time is not before that.
func (c Clock) Floor() time.Time { panic("skeleton") }
