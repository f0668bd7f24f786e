package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"dunlin.dev/dunlin/fleet/semver"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// sign replaces the signatures of m by those of keys, and gives its bytes.
func sign[T metadata.Roles](m *metadata.Metadata[T], keys []Key, limit int) ([]byte, error) {
	m.ClearSignatures()
	return addSignatures(m, keys, limit)
}

func addSignatures[T metadata.Roles](m *metadata.Metadata[T], keys []Key, limit int) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	for _, k := range keys {
		signer, err := signature.LoadED25519Signer(k.private)
		if err != nil {
			return nil, err
		}
		id := k.Public().ID()
		m.Signatures = slices.DeleteFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		if _, err := m.Sign(signer); err != nil {
			return nil, err
		}
	}
	b, err := m.ToBytes(false)
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes, limit is %d", len(b), limit)
	}
	return b, nil
}

// Cosign adds keys' signatures to root or targets metadata, to reach a threshold with people who sign one by one.
func Cosign(b []byte, keys ...Key) ([]byte, error) {
	var peek struct {
		Signed struct {
			Type Role `json:"_type"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(b, &peek); err != nil {
		return nil, fmt.Errorf("cosign metadata: %w", err)
	}
	var out []byte
	var err error
	switch peek.Signed.Type {
	case Root:
		out, err = cosign(metadata.Root(), b, keys, MaxRootBytes)
	case Targets:
		out, err = cosign(metadata.Targets(), b, keys, MaxTargetsBytes)
	default:
		err = fmt.Errorf("role %q, want root or targets", peek.Signed.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("cosign metadata: %w", err)
	}
	return out, nil
}

func cosign[T metadata.Roles](m *metadata.Metadata[T], b []byte, keys []Key, limit int) ([]byte, error) {
	m, err := m.FromBytes(b)
	if err != nil {
		return nil, err
	}
	return addSignatures(m, keys, limit)
}

// custom is what a target says about its release, so that nobody needs the manifest to list releases.
type custom struct {
	Application string            `json:"application"`
	Version     string            `json:"version"`
	Floor       string            `json:"floor,omitempty"`
	Components  map[string]string `json:"components"` // name -> "sha256:..."
}

// AddRelease adds a release manifest to targets (nil to begin), and signs the next version with keys until expires. A
// manifest that is there already only renews the signature; other bytes under the same version are refused.
func AddRelease(targets, manifest []byte, expires time.Time, keys ...Key) ([]byte, error) {
	r, err := parseManifest(manifest)
	if err != nil {
		return nil, fmt.Errorf("add release: %w", err)
	}
	m, err := nextTargets(targets, expires)
	if err != nil {
		return nil, fmt.Errorf("add release: %w", err)
	}
	path := TargetPath(r.application, r.version)
	if have, ok := m.Signed.Targets[path]; ok && hex.EncodeToString(have.Hashes["sha256"]) != hex.EncodeToString(r.digest[:]) {
		return nil, fmt.Errorf("add release: %s %s is released already, with other content: raise the version", r.application, r.version)
	}
	c := custom{Application: r.application, Version: r.version, Floor: r.floor, Components: map[string]string{}}
	for name, blob := range r.components {
		c.Components[name] = digestPrefix + hex.EncodeToString(blob.Digest[:])
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("add release: %w", err)
	}
	m.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(manifest)), Hashes: metadata.Hashes{"sha256": r.digest[:]}, Custom: (*json.RawMessage)(&raw)}
	b, err := sign(m, keys, MaxTargetsBytes)
	if err != nil {
		return nil, fmt.Errorf("add release: %w", err)
	}
	return b, nil
}

// RemoveReleases takes releases off targets by path: boards don't install them any more. What runs goes on. Without paths
// it only renews the signature until expires; of nil it makes the first, empty targets.
func RemoveReleases(targets []byte, paths []string, expires time.Time, keys ...Key) ([]byte, error) {
	m, err := nextTargets(targets, expires)
	if err != nil {
		return nil, fmt.Errorf("remove releases: %w", err)
	}
	for _, p := range paths {
		if _, ok := m.Signed.Targets[p]; !ok {
			return nil, fmt.Errorf("remove releases: no release %q", p)
		}
		delete(m.Signed.Targets, p)
	}
	b, err := sign(m, keys, MaxTargetsBytes)
	if err != nil {
		return nil, fmt.Errorf("remove releases: %w", err)
	}
	return b, nil
}

func nextTargets(targets []byte, expires time.Time) (*metadata.Metadata[metadata.TargetsType], error) {
	m := metadata.Targets(seconds(expires))
	if targets == nil {
		return m, nil
	}
	m, err := parseTargets(targets)
	if err != nil {
		return nil, err
	}
	m.Signed.Version++
	m.Signed.Expires = seconds(expires)
	return m, nil
}

// parseTargets refuses what go-tuf would trip over later. Nothing about signatures is known.
func parseTargets(b []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	if len(b) > MaxTargetsBytes {
		return nil, verdict(TooLarge, Targets, 0, "%d bytes, limit is %d", len(b), MaxTargetsBytes)
	}
	m, err := metadata.Targets().FromBytes(b)
	if err != nil {
		return nil, fromTUF(Targets, 0, 0, err)
	}
	if m.Signed.Targets == nil {
		return nil, verdict(Malformed, Targets, m.Signed.Version, "no list of targets")
	}
	for path, t := range m.Signed.Targets {
		if t == nil {
			return nil, verdict(Malformed, Targets, m.Signed.Version, "target %q is null", path)
		}
	}
	return m, nil
}

// CheckTargets reports whether boards that trust root and hold old (nil for none) would take next at now: the server
// asks before it accepts an upload.
func CheckTargets(rootBytes, old, next []byte, now time.Time) error {
	tm, err := openRoot(rootBytes)
	if err != nil {
		return err
	}
	m, err := parseTargets(next)
	if err != nil {
		return err
	}
	version := m.Signed.Version
	if err := tm.Root.VerifyDelegate(metadata.TARGETS, m); err != nil {
		return fromTUF(Targets, version, 0, err)
	}
	if m.Signed.IsExpired(now) {
		return verdict(Expired, Targets, version, "on %s", m.Signed.Expires.Format(time.RFC3339))
	}
	var had map[string]*metadata.TargetFiles
	if old != nil {
		o, err := parseTargets(old)
		if err != nil {
			return err
		}
		if had = o.Signed.Targets; version != o.Signed.Version+1 {
			e := verdict(Rollback, Targets, version, "the newest is %d, so the next is %d", o.Signed.Version, o.Signed.Version+1)
			e.Hint = "someone else pushed meanwhile: fetch the newest targets and sign again"
			return e
		}
	}
	for _, path := range slices.Sorted(maps.Keys(m.Signed.Targets)) {
		t := m.Signed.Targets[path]
		if _, err := targetOf(path, t); err != nil {
			return verdict(Malformed, Targets, version, "target %s: %v", path, err)
		}
		if h, ok := had[path]; ok && !h.Equal(*t) {
			return verdict(Mismatch, Targets, version, "target %s was signed before with other content", path)
		}
	}
	return nil
}

// Target is one signed release.
type Target struct {
	Path, Application, Version, Floor string
	Digest                            Digest // of the manifest
	Size                              int64  // manifest's bytes
	Components                        map[string]Digest
}

// ListTargets reads the releases of targets metadata without trusting it, sorted by path, with the metadata's version
// and expiry.
func ListTargets(targets []byte) (version int64, expires time.Time, list []Target, err error) {
	m, err := parseTargets(targets)
	if err != nil {
		return 0, time.Time{}, nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(m.Signed.Targets)) {
		t, err := targetOf(path, m.Signed.Targets[path])
		if err != nil {
			return 0, time.Time{}, nil, verdict(Malformed, Targets, m.Signed.Version, "target %s: %v", path, err)
		}
		list = append(list, t)
	}
	return m.Signed.Version, m.Signed.Expires, list, nil
}

// targetOf reads one target; it must be a release, under the path of its application and version.
func targetOf(path string, f *metadata.TargetFiles) (Target, error) {
	t := Target{Path: path, Size: f.Length, Components: map[string]Digest{}}
	if f.Custom == nil {
		return Target{}, fmt.Errorf("not a release: no custom part")
	}
	var c custom
	d := json.NewDecoder(bytes.NewReader(*f.Custom))
	if err := d.Decode(&c); err != nil {
		return Target{}, fmt.Errorf("custom part: %w", err)
	}
	if len(f.Hashes) != 1 || len(f.Hashes["sha256"]) != sha256.Size {
		return Target{}, fmt.Errorf("want exactly a sha256")
	}
	if f.Length < 1 || f.Length > MaxManifestBytes {
		return Target{}, fmt.Errorf("manifest of %d bytes, want 1 to %d", f.Length, MaxManifestBytes)
	}
	t.Application, t.Version, t.Floor, t.Digest = c.Application, c.Version, c.Floor, Digest(f.Hashes["sha256"])
	if path != TargetPath(t.Application, t.Version) {
		return Target{}, fmt.Errorf("holds %s %s", t.Application, t.Version)
	}
	if err := semver.Check(t.Version); err != nil {
		return Target{}, err
	}
	if t.Floor != "" {
		if err := checkFloor(t.Floor, t.Version); err != nil {
			return Target{}, err
		}
	}
	for name, s := range c.Components {
		digest, err := parseDigest(s)
		if err != nil {
			return Target{}, fmt.Errorf("component %s: %w", name, err)
		}
		t.Components[name] = digest
	}
	return t, nil
}

func checkFloor(floor, version string) error {
	if err := semver.Check(floor); err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	if semver.Compare(floor, version) > 0 {
		return fmt.Errorf("floor %s is above the release's own version %s", floor, version)
	}
	return nil
}

// NewSnapshot signs a snapshot of targets. version grows with each.
func NewSnapshot(targets []byte, version int64, expires time.Time, keys ...Key) ([]byte, error) {
	t, err := parseTargets(targets)
	if err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	m := metadata.Snapshot(seconds(expires))
	m.Signed.Version = version
	m.Signed.Meta[string(Targets)+".json"] = metaFile(targets, t.Signed.Version)
	b, err := sign(m, keys, MaxSnapshotBytes)
	if err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	return b, nil
}

type timestampField struct {
	Issued time.Time `json:"issued"`
}

// NewTimestamp signs a timestamp of snapshot, issued at now: boards take that as a lower bound of the time. version
// grows with each.
func NewTimestamp(snapshot []byte, version int64, now, expires time.Time, keys ...Key) ([]byte, error) {
	s, err := metadata.Snapshot().FromBytes(snapshot)
	if err != nil {
		return nil, fmt.Errorf("make timestamp: %w", err)
	}
	m := metadata.Timestamp(seconds(expires))
	m.Signed.Version = version
	m.Signed.Meta[string(Snapshot)+".json"] = metaFile(snapshot, s.Signed.Version)
	m.Signed.UnrecognizedFields = map[string]any{fleetField: timestampField{Issued: seconds(now)}}
	b, err := sign(m, keys, MaxTimestampBytes)
	if err != nil {
		return nil, fmt.Errorf("make timestamp: %w", err)
	}
	return b, nil
}

func metaFile(b []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(b)
	return &metadata.MetaFiles{Version: version, Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// PayloadType is the DSSE type of a desired payload.
const PayloadType = "application/vnd.dunlin.desired.v1+json"

// SignDesired puts a desired payload (wire.MarshalDesired) into an envelope signed by keys.
func SignDesired(payload []byte, keys ...Key) ([]byte, error) {
	if _, err := parseDesired(payload); err != nil {
		return nil, fmt.Errorf("sign desired: %w", err)
	}
	b, err := seal(payload, PayloadType, MaxEnvelopeBytes, keys)
	if err != nil {
		return nil, fmt.Errorf("sign desired: %w", err)
	}
	return b, nil
}
