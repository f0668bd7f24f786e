package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"dunlin.dev/dunlin/fleet/semver"
)

// Desired is what one board should run, verified: from Verifier.Desired or ReopenDesired. Applications that it doesn't
// name are removed.
type Desired struct {
	Fleet, Device string
	Generation    uint64
	Issued        time.Time
	Releases      []Pointer // sorted by application, one each
	Repeated      bool      // it was accepted before: nothing new
}

// Pointer names a release of a Desired.
type Pointer struct {
	Application, Version, Target string
	Digest                       Digest // of the manifest
	Size                         int64  // manifest's signed size in bytes
}

// size fills in the signed sizes.
func (d *Desired) size(list []Target) {
	for i, p := range d.Releases {
		for _, t := range list {
			if t.Path == p.Target && t.Digest == p.Digest {
				d.Releases[i].Size = t.Size
			}
		}
	}
}

// desiredPayload has wire.Desired's shape; test/vectors holds the two together.
type desiredPayload struct {
	Fleet      string           `json:"fleet"`
	Device     string           `json:"device"`
	Generation uint64           `json:"generation"`
	Issued     time.Time        `json:"issued"`
	Releases   []desiredPointer `json:"releases,omitempty"`
}

type desiredPointer struct {
	Application string `json:"application"`
	Version     string `json:"version"`
	Release     string `json:"release"`
	Target      string `json:"target"`
}

// parseDesired reads a canonical payload. It verifies nothing.
func parseDesired(b []byte) (Desired, error) {
	var p desiredPayload
	if err := strict(b, &p); err != nil {
		return Desired{}, verdict(Malformed, Director, 0, "payload: %v", err)
	}
	bad := func(format string, args ...any) (Desired, error) {
		return Desired{}, verdict(Malformed, Director, int64(p.Generation), format, args...)
	}
	if p.Generation == 0 || checkName(p.Fleet) != nil || checkName(p.Device) != nil || p.Issued.IsZero() {
		return bad("fleet %.80q, device %.80q, issued %s", p.Fleet, p.Device, p.Issued)
	}
	d := Desired{Fleet: p.Fleet, Device: p.Device, Generation: p.Generation, Issued: p.Issued}
	for i, r := range p.Releases {
		digest, err := parseDigest(r.Release)
		if err != nil || checkName(r.Application) != nil || semver.Check(r.Version) != nil || r.Target != TargetPath(r.Application, r.Version) {
			return bad("release %d: %.80q %.80q at %.160q", i, r.Application, r.Version, r.Target)
		}
		if i > 0 && p.Releases[i-1].Application >= r.Application {
			return bad("release of %q after %q: not sorted, or twice", r.Application, p.Releases[i-1].Application)
		}
		d.Releases = append(d.Releases, Pointer{Application: r.Application, Version: r.Version, Target: r.Target, Digest: digest})
	}
	return d, nil
}

// parseEnvelope reads a canonical DSSE envelope of a desired payload. It verifies nothing.
func parseEnvelope(b []byte) (envelope, error) { return openEnvelope(b, PayloadType, MaxEnvelopeBytes) }

// Desired judges a desired envelope for device, after a complete refresh. On success State holds it. An error leaves
// State as it was; where the director did sign for this device, the Desired that comes with it names its generation.
func (v *Verifier) Desired(b []byte, device string) (Desired, error) {
	if v.stage != done {
		return Desired{}, verdict(Order, Director, 0, "the refresh is not complete")
	}
	e, err := parseEnvelope(b)
	if err != nil {
		return Desired{}, err
	}
	if err := e.verify(v.root); err != nil {
		return Desired{}, err
	}
	d, err := parseDesired(e.payload)
	if err != nil {
		return Desired{}, err
	}
	generation := int64(d.Generation)
	if d.Fleet != v.root.fleet {
		return Desired{}, verdict(WrongFleet, Director, generation, "%s, this is %s", d.Fleet, v.root.fleet)
	}
	if d.Device != device {
		return Desired{}, verdict(WrongDevice, Director, generation, "%s, this is %s", d.Device, device)
	}
	refused := Desired{Fleet: d.Fleet, Device: d.Device, Generation: d.Generation}
	if d.Generation <= v.state.Generation {
		if have, err := parseEnvelope(orEmpty(v.state.Desired)); err == nil && bytes.Equal(have.payload, e.payload) {
			d.Repeated = true
			d.size(v.releases)
			return d, nil
		}
		if d.Generation == v.state.Generation {
			return refused, verdict(Rollback, Director, generation, "this generation was accepted before, with other content")
		}
		return refused, verdict(Rollback, Director, generation, "generation %d was accepted before", v.state.Generation)
	}
	for _, p := range d.Releases {
		if err := v.known(p); err != nil {
			return refused, err
		}
	}
	d.size(v.releases)
	v.state.Generation, v.state.Desired = d.Generation, bytes.Clone(b)
	v.issued(d.Issued)
	return d, nil
}

// known judges one pointer of a desired state.
func (v *Verifier) known(p Pointer) error {
	t, ok := v.target(p.Target)
	if !ok {
		return verdict(Unknown, "release", 0, "%s %s", p.Application, p.Version)
	}
	if t.Digest != p.Digest {
		return verdict(Mismatch, "release", 0, "%s %s: director names digest %x, release keys signed %x", p.Application, p.Version, p.Digest[:6], t.Digest[:6])
	}
	return v.state.Allows(p.Application, p.Version)
}

// Release judges the bytes of the release manifest at target, after a complete refresh. On success State has accepted
// it, so keep State together with the manifest.
func (v *Verifier) Release(target string, manifest []byte) (Release, error) {
	if v.stage != done {
		return Release{}, verdict(Order, "release", 0, "the refresh is not complete")
	}
	t, ok := v.target(target)
	if !ok {
		return Release{}, verdict(Unknown, "release", 0, "target %q", target)
	}
	if int64(len(manifest)) != t.Size {
		return Release{}, verdict(Mismatch, "release", 0, "manifest of %s has %d bytes, %d were signed", target, len(manifest), t.Size)
	}
	r, err := parseManifest(manifest)
	if err != nil {
		return Release{}, err
	}
	if r.digest != t.Digest {
		return Release{}, verdict(Mismatch, "release", 0, "manifest of %s has digest %x, %x was signed", target, r.digest[:6], t.Digest[:6])
	}
	if r.application != t.Application || r.version != t.Version || r.floor != t.Floor {
		return Release{}, verdict(Mismatch, "release", 0, "manifest of %s is of %s %s", target, r.application, r.version)
	}
	if err := v.state.Allows(r.application, r.version); err != nil {
		return Release{}, err
	}
	v.state.accept(r)
	return Release{r}, nil
}

// strict decodes b, which must be what v encodes to.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, again) {
		return fmt.Errorf("not in canonical form")
	}
	return nil
}

// strictBase64 takes the one encoding that its result has.
func strictBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err == nil && base64.StdEncoding.EncodeToString(b) != s {
		err = fmt.Errorf("not in canonical form")
	}
	return b, err
}
