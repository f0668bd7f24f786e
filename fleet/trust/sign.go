package trust

import "time"

// Key is a private key (ed25519).
type Key struct{}

// PublicKey is a public key (ed25519).
type PublicKey struct{}

// GenerateKey makes a key.
func GenerateKey() (Key, error) { panic("skeleton") }

// ParseKey reads a PKCS #8 PEM private key.
func ParseKey(pem []byte) (Key, error) { panic("skeleton") }

// PEM is the key in PKCS #8.
func (k Key) PEM() ([]byte, error) { panic("skeleton") }

// Public is the key's public half.
func (k Key) Public() PublicKey { panic("skeleton") }

// ID is the key's TUF id.
func (k PublicKey) ID() string { panic("skeleton") }

// JSON is the key in TUF's form.
func (k PublicKey) JSON() ([]byte, error) { panic("skeleton") }

// ParsePublicKey is the inverse of JSON.
func ParsePublicKey(b []byte) (PublicKey, error) { panic("skeleton") }

// Signers are the keys of a role, and how many of them must sign.
type Signers struct {
	Keys      []PublicKey
	Threshold int // 0 is 1
}

// RootSpec is what a root says.
type RootSpec struct {
	Fleet                                        string
	Expires                                      time.Time
	Root, Release, Snapshot, Timestamp, Director Signers
}

// NewRoot makes version 1, signed by keys.
func NewRoot(spec RootSpec, keys ...Key) ([]byte, error) { panic("skeleton") }

// NextRoot makes the version after prev; keys must hold enough of prev's root keys and of its own.
func NextRoot(prev []byte, spec RootSpec, keys ...Key) ([]byte, error) { panic("skeleton") }

// CheckRoot reports whether a device that trusts old (nil for none) would take next.
func CheckRoot(old, next []byte) error { panic("skeleton") }

// RootInfo describes a root.
type RootInfo struct {
	Fleet   string
	Version int64
	Expires time.Time
}

// InspectRoot reads a root without trusting it.
func InspectRoot(root []byte) (RootInfo, error) { panic("skeleton") }

// TargetPath is the target of a release: "<application>/<version>.json".
func TargetPath(application, version string) string { return application + "/" + version + ".json" }

// AddRelease adds a release manifest to targets (nil to begin), and signs the next version with keys.
func AddRelease(targets, manifest []byte, expires time.Time, keys ...Key) ([]byte, error) {
	panic("skeleton")
}

// Cosign adds key's signature to metadata of any role.
func Cosign(metadata []byte, key Key) ([]byte, error) { panic("skeleton") }

// CheckTargets reports whether devices that trust root and hold old (nil for none) would take next at now.
func CheckTargets(root, old, next []byte, now time.Time) error { panic("skeleton") }

// Target is one signed release, from ListTargets.
type Target struct {
	Path, Application, Version, Floor string
	Digest                            Digest
	Size                              int64
	Components                        map[string]Digest
}

// ListTargets reads the releases of targets metadata without trusting it, with its version.
func ListTargets(targets []byte) (version int64, list []Target, err error) { panic("skeleton") }

// NewSnapshot signs a snapshot of targets. version grows with each.
func NewSnapshot(targets []byte, version int64, expires time.Time, keys ...Key) ([]byte, error) {
	panic("skeleton")
}

// NewTimestamp signs a timestamp of snapshot, issued at now. version grows with each.
func NewTimestamp(snapshot []byte, version int64, now, expires time.Time, keys ...Key) ([]byte, error) {
	panic("skeleton")
}

// SignDesired puts a desired payload (wire.MarshalDesired) into an envelope signed by keys.
func SignDesired(payload []byte, keys ...Key) ([]byte, error) { panic("skeleton") }
