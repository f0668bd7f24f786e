// Package trust decides who may be believed: which metadata, which desired state, which release, for which board and
// since when. It is pure: bytes and a time in, a verdict out.
//
// It is TUF (go-tuf's trustedmetadata, driven by hand) with four roles, root, targets, snapshot and timestamp, and one
// of our own: the director, named in the root beside the fleet, who signs what one board should run. Root and targets
// keys stay with people; the other three are the server's. A target is one release: the resolved manifest, which
// names its components by digest.
package trust

// Role names a metadata file, or the director.
type Role string

// Roles. Their names are TUF's, but for the director.
const (
	Root      Role = "root"
	Timestamp Role = "timestamp"
	Snapshot  Role = "snapshot"
	Targets   Role = "targets" // release keys sign it
	Director  Role = "director"
)

// Limits of what a board fetches, in bytes. A server refuses to make what is larger.
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

const digestPrefix = "sha256:"

// TargetPath is the target of a release: "<application>/<version>.json".
func TargetPath(application, version string) string { return application + "/" + version + ".json" }
