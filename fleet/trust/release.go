package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"dunlin.dev/dunlin/fleet/semver"
)

// Release is a release that may run. Only Verifier.Release, Reopen and Unverified make one, so code that takes a
// Release can't be given bytes that nobody vouched for. The zero value is no release: only IsZero may be called.
type Release struct{ r *release }

type release struct {
	application, version, floor string
	digest                      Digest
	manifest                    []byte
	components                  map[string]Blob
	files                       map[string]Blob
	local                       bool
}

// Blob is a component's bytes, or the archive of its files, by digest and size.
type Blob struct {
	Digest Digest
	Size   int64 // bytes
}

// IsZero reports whether r is no release.
func (r Release) IsZero() bool { return r.r == nil }

// Application is the application's name.
func (r Release) Application() string { return r.r.application }

// Version is the release's semantic version.
func (r Release) Version() string { return r.r.version }

// Floor is the lowest version that boards install once they saw this release; may be empty.
func (r Release) Floor() string { return r.r.floor }

// Digest is the SHA-256 of Manifest.
func (r Release) Digest() Digest { return r.r.digest }

// Manifest is the canonical manifest, for wire.ParseRelease. The caller must not change it.
func (r Release) Manifest() []byte { return r.r.manifest }

// Components are the release's components by name: what a store must hold before the release can run.
func (r Release) Components() map[string]Blob { return maps.Clone(r.r.components) }

// Files are the archives of the components' files, for those that have any: the store must hold them too.
func (r Release) Files() map[string]Blob { return maps.Clone(r.r.files) }

// Local reports whether Unverified made it.
func (r Release) Local() bool { return r.r.local }

// Unverified makes a release of a manifest that nobody signed. Only the agent's local mode (dunlin up) may call it.
func Unverified(manifest []byte) (Release, error) {
	r, err := parseManifest(manifest)
	if err != nil {
		return Release{}, fmt.Errorf("open local release: %w", err)
	}
	r.local = true
	return Release{r}, nil
}

// parseManifest reads what trust needs of a manifest; the rest is wire.ParseRelease's.
func parseManifest(b []byte) (*release, error) {
	if len(b) > MaxManifestBytes {
		return nil, verdict(TooLarge, "release", 0, "manifest of %d bytes, limit is %d", len(b), MaxManifestBytes)
	}
	var m struct {
		Application string `json:"application"`
		Version     string `json:"version"`
		Floor       string `json:"floor"`
		Components  map[string]struct {
			blob
			Files *blob `json:"files"`
		} `json:"components"`
	}
	bad := func(err error) (*release, error) {
		return nil, verdict(Malformed, "release", 0, "manifest: %v", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return bad(err)
	}
	if err := checkName(m.Application); err != nil {
		return bad(fmt.Errorf("application: %w", err))
	}
	if err := semver.Check(m.Version); err != nil {
		return bad(err)
	}
	if m.Floor != "" {
		if err := checkFloor(m.Floor, m.Version); err != nil {
			return bad(err)
		}
	}
	r := &release{application: m.Application, version: m.Version, floor: m.Floor, manifest: bytes.Clone(b), digest: sha256.Sum256(b), components: map[string]Blob{}, files: map[string]Blob{}}
	for name, c := range m.Components {
		var err error
		if r.components[name], err = c.parse(); err == nil && c.Files != nil {
			r.files[name], err = c.Files.parse()
		}
		if err != nil {
			return bad(fmt.Errorf("component %.80q: %w", name, err))
		}
	}
	if len(r.components) == 0 {
		return bad(fmt.Errorf("no components"))
	}
	return r, nil
}

// blob as a manifest has it.
type blob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

func (b blob) parse() (Blob, error) {
	d, err := parseDigest(b.Digest)
	if err == nil && b.Size < 1 {
		err = fmt.Errorf("%d bytes", b.Size)
	}
	return Blob{Digest: d, Size: b.Size}, err
}

// checkName guards the names that become paths and keys; wire.CheckName words it for people.
func checkName(s string) error {
	if s == "" || len(s) > 64 || s[0] == '.' || s[0] == '-' {
		return fmt.Errorf("bad name %.80q", s)
	}
	for i := range len(s) {
		if !strings.Contains(nameBytes, s[i:i+1]) {
			return fmt.Errorf("bad name %.80q", s)
		}
	}
	return nil
}

const nameBytes = "abcdefghijklmnopqrstuvwxyz0123456789-_."

func parseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, digestPrefix)
	b, err := hex.DecodeString(h)
	if !ok || err != nil || len(b) != len(Digest{}) || hex.EncodeToString(b) != h {
		return Digest{}, fmt.Errorf("bad digest %.80q", s)
	}
	return Digest(b), nil
}
