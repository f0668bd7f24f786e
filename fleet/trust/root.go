package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Signers are the keys of a role, and how many of them must sign.
type Signers struct {
	Keys      []PublicKey
	Threshold int // 0 is 1
}

// RootSpec is what a root says.
type RootSpec struct {
	Fleet     string
	Expires   time.Time
	Root      Signers // people: may sign the next root
	Release   Signers // people: sign targets
	Snapshot  Signers // server
	Timestamp Signers // server
	Director  Signers // server: signs what a board should run
}

// fleetField is the field of a root's and a timestamp's signed part that holds what TUF has no place for.
const fleetField = "dunlin"

type rootField struct {
	Fleet    string       `json:"fleet"`
	Director directorRole `json:"director"`
}

type directorRole struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

// NewRoot makes version 1, signed by keys, which must reach the root threshold.
func NewRoot(spec RootSpec, keys ...Key) ([]byte, error) {
	b, err := makeRoot(spec, 1, keys)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	if err := CheckRoot(nil, b); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	return b, nil
}

// NextRoot makes the version after prev: new keys, a new expiry. keys must reach the root threshold of prev and of the
// new one.
func NextRoot(prev []byte, spec RootSpec, keys ...Key) ([]byte, error) {
	info, err := InspectRoot(prev)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	b, err := makeRoot(spec, info.Version+1, keys)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	if err := CheckRoot(prev, b); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	return b, nil
}

func makeRoot(spec RootSpec, version int64, keys []Key) ([]byte, error) {
	m := metadata.Root(seconds(spec.Expires))
	m.Signed.Version = version
	field := rootField{Fleet: spec.Fleet}
	for _, r := range []struct {
		role Role
		s    Signers
	}{{Root, spec.Root}, {Targets, spec.Release}, {Snapshot, spec.Snapshot}, {Timestamp, spec.Timestamp}, {Director, spec.Director}} {
		threshold := max(r.s.Threshold, 1)
		if len(r.s.Keys) < threshold {
			return nil, fmt.Errorf("role %s has %d keys and needs %d signatures", r.role, len(r.s.Keys), threshold)
		}
		var ids []string
		for _, k := range r.s.Keys {
			if k.public == nil {
				return nil, fmt.Errorf("role %s: no key", r.role)
			}
			ids = append(ids, k.ID())
			m.Signed.Keys[k.ID()] = k.tuf()
		}
		if r.role == Director {
			field.Director = directorRole{KeyIDs: ids, Threshold: threshold}
			continue
		}
		m.Signed.Roles[string(r.role)] = &metadata.Role{KeyIDs: ids, Threshold: threshold}
	}
	m.Signed.UnrecognizedFields = map[string]any{fleetField: field}
	return sign(m, keys, MaxRootBytes)
}

// CheckRoot reports whether a board that trusts old (nil for a first root) would take next, and whether next is one
// that a fleet can work with.
func CheckRoot(old, next []byte) error {
	n, err := parseRoot(next)
	if err != nil {
		return err
	}
	if n.fleet == "" || len(n.director) == 0 {
		return verdict(Malformed, Root, n.version(), "names no fleet and director")
	}
	first := next
	if old != nil {
		first = old
	}
	tm, err := openRoot(first)
	if err != nil || old == nil {
		return err
	}
	return updateRoot(tm, next)
}

// RootInfo describes a root.
type RootInfo struct {
	Fleet     string
	Version   int64
	Expires   time.Time
	Keys      map[Role][]string // key ids of each role, the director among them
	Threshold map[Role]int
}

// InspectRoot reads a root without trusting it.
func InspectRoot(b []byte) (RootInfo, error) {
	r, err := parseRoot(b)
	if err != nil {
		return RootInfo{}, err
	}
	info := RootInfo{
		Fleet: r.fleet, Version: r.version(), Expires: r.m.Signed.Expires,
		Keys: map[Role][]string{}, Threshold: map[Role]int{},
	}
	for name, role := range r.m.Signed.Roles {
		info.Keys[Role(name)], info.Threshold[Role(name)] = role.KeyIDs, role.Threshold
	}
	for id := range r.director {
		info.Keys[Director] = append(info.Keys[Director], id)
	}
	info.Threshold[Director] = r.threshold
	return info, nil
}

// root is a parsed root whose shape is sound; nothing about its signatures is known.
type root struct {
	m         *metadata.Metadata[metadata.RootType]
	fleet     string
	director  map[string]PublicKey // by key id
	threshold int
}

func (r *root) version() int64 { return r.m.Signed.Version }

// parseRoot refuses what go-tuf would trip over later: null keys and roles, keys of other lengths.
func parseRoot(b []byte) (*root, error) {
	if len(b) > MaxRootBytes {
		return nil, verdict(TooLarge, Root, 0, "%d bytes, limit is %d", len(b), MaxRootBytes)
	}
	m, err := metadata.Root().FromBytes(b)
	if err != nil {
		return nil, fromTUF(Root, 0, 0, err)
	}
	bad := func(format string, args ...any) (*root, error) {
		return nil, verdict(Malformed, Root, m.Signed.Version, format, args...)
	}
	if m.Signed.Version < 1 {
		return bad("version %d", m.Signed.Version)
	}
	keys := map[string]PublicKey{}
	for id, k := range m.Signed.Keys {
		p, err := fromTUFKey(k)
		if err != nil {
			return bad("key %.16s: %v", id, err)
		}
		keys[id] = p
	}
	for _, name := range []Role{Root, Targets, Snapshot, Timestamp} {
		r := m.Signed.Roles[string(name)]
		if r == nil || r.Threshold < 1 || len(r.KeyIDs) < r.Threshold {
			return bad("role %s lacks keys or a threshold", name)
		}
	}
	for name, r := range m.Signed.Roles {
		if r == nil {
			return bad("role %s is null", name)
		}
	}
	out := &root{m: m}
	raw, ok := m.Signed.UnrecognizedFields[fleetField]
	if !ok {
		return out, nil
	}
	var f rootField
	if err := recode(raw, &f); err != nil {
		return bad("field %q: %v", fleetField, err)
	}
	if f.Fleet == "" || f.Director.Threshold < 1 || len(f.Director.KeyIDs) < f.Director.Threshold {
		return bad("field %q names no fleet, or a director with fewer keys than its threshold", fleetField)
	}
	out.fleet, out.threshold, out.director = f.Fleet, f.Director.Threshold, map[string]PublicKey{}
	for _, id := range f.Director.KeyIDs {
		k, ok := keys[id]
		if !ok {
			return bad("director's key %.16s is not among the keys", id)
		}
		out.director[id] = k
	}
	return out, nil
}

// openRoot begins a chain at b, which must be signed by its own root keys.
func openRoot(b []byte) (*trustedmetadata.TrustedMetadata, error) {
	r, err := parseRoot(b)
	if err != nil {
		return nil, err
	}
	tm, err := trustedmetadata.New(b)
	if err != nil {
		return nil, fromTUF(Root, r.version(), 0, err)
	}
	return tm, nil
}

// updateRoot takes the next root of a chain: same fleet, version plus one, signed by the root keys of both.
func updateRoot(tm *trustedmetadata.TrustedMetadata, b []byte) error {
	next, err := parseRoot(b)
	if err != nil {
		return err
	}
	known := tm.Root.Signed.Version
	var have rootField
	if raw, ok := tm.Root.Signed.UnrecognizedFields[fleetField]; ok {
		if err := recode(raw, &have); err != nil {
			return verdict(Malformed, Root, known, "field %q: %v", fleetField, err)
		}
	}
	if next.fleet != have.Fleet {
		return verdict(WrongFleet, Root, next.version(), "of fleet %q, this one is %q", next.fleet, have.Fleet)
	}
	if _, err := tm.UpdateRoot(b); err != nil {
		return fromTUF(Root, next.version(), known+1, err)
	}
	return nil
}

// recode turns a decoded JSON value into v.
func recode(raw, v any) error {
	b, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// seconds is t as TUF writes times.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

var errNoKeys = errors.New("no keys to sign with")
