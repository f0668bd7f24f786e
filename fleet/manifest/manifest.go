// Package manifest reads dunlin.toml, and spin.toml as it is: what an application's author writes. It checks everything that
// can be checked without the components, and resolves it to a wire.Release. It is pure: bytes in, a value or positioned errors out.
package manifest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/semver"
	"dunlin.dev/dunlin/fleet/wire"
)

// Version is the dunlin_manifest_version that this build reads.
const Version = 1

// MaxBytes bounds a dunlin.toml.
const MaxBytes = 256 << 10

// Manifest is a checked dunlin.toml.
type Manifest struct {
	Application string
	Version     string // semantic version
	Floor       string // lowest version that boards install from then on; may be empty
	Components  map[string]Component
	Triggers    wire.Triggers // with their ids
	Uplinks     []wire.UplinkRule
	Notes       []string // what a spin.toml has that means nothing here, one line each with its place
}

// Component is one [component.<name>] table.
type Component struct {
	Source string         // the author's path, relative to the manifest's folder
	Grants wire.Component // all but Digest, Size and Files
	files  *fileSources   // nil: none
}

// Blob is a component's digest and size in bytes, and those of the archive of its files.
type Blob struct {
	Digest wire.Digest
	Size   int64
	Files  *wire.Blob // nil: it has none
}

// Parse is Read where no variable has a value of its own.
func Parse(file string, b []byte) (*Manifest, error) { return Read(file, b, nil) }

// Lookup gives the value of a Spin application's variable, where it has one.
type Lookup func(name string) (string, bool)

// Read the manifest in b, a dunlin.toml or a spin.toml; file is its name for errors. An error is Errors, all that are wrong
// at once.
func Read(file string, b []byte, values Lookup) (*Manifest, error) {
	f := &faults{file: file, data: b}
	if len(b) > MaxBytes {
		f.add(0, "manifest of %d bytes, limit is %d", len(b), MaxBytes)
		return nil, f.err()
	}
	root := parseTree(f)
	if root == nil {
		return nil, f.err()
	}
	t := &table{f: f, n: root, name: "the manifest"}
	if isSpin(root) {
		return readSpin(t, values)
	}
	if e := t.require("dunlin_manifest_version"); e != nil {
		if v, ok := e.value.integer(); !ok || v != Version {
			f.add(e.value.at, "dunlin_manifest_version: this build reads version %d", Version)
		}
	}
	m := &Manifest{}
	m.readApplication(t)
	m.readComponents(t)
	m.readTriggers(t)
	m.readUplinks(t)
	t.rest()
	if err := f.err(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manifest) readApplication(root *table) {
	t := root.sub("application", "[application]")
	if t == nil {
		if root.n.get("application") == nil {
			root.f.add(root.n.at, "the manifest has no [application]")
		}
		return
	}
	m.Application = t.checked(t.require("name"), func(s string) error { return wire.CheckName("application", s) })
	m.Version = t.checked(t.require("version"), semver.Check)
	m.Floor = t.checked(t.find("floor"), func(s string) error {
		if err := semver.Check(s); err != nil {
			return fmt.Errorf("floor: %w", err)
		}
		if semver.Check(m.Version) == nil && semver.Compare(s, m.Version) > 0 {
			return fmt.Errorf("floor %s is above version %s: boards would refuse this very release", s, m.Version)
		}
		return nil
	})
	t.rest()
}

func (m *Manifest) readComponents(root *table) {
	m.Components = map[string]Component{}
	all := root.sub("component", "[component.<name>]")
	if all == nil {
		if root.n.get("component") == nil {
			root.f.add(root.n.at, "the manifest has no [component.<name>]")
		}
		return
	}
	for i, e := range all.n.keys {
		if i == wire.MaxComponents {
			all.f.add(e.at, "more than %d components", wire.MaxComponents)
			break
		}
		if err := wire.CheckName("component", e.name); err != nil {
			all.f.add(e.at, "%s", err)
		}
		if t := all.sub(e.name, "[component."+e.name+"]"); t != nil {
			m.Components[e.name] = readComponent(t)
		}
	}
}

func readComponent(t *table) Component {
	c := Component{Source: t.checked(t.require("source"), func(s string) error {
		if s == "" || strings.ContainsRune(s, 0) {
			return errors.New("source is empty: want the path of a component, as in \"climate.wasm\"")
		}
		return nil
	})}
	c.Grants.Outbound = t.list("allowed_outbound_hosts", func(s string) error { _, err := wire.ParseOutbound(s); return err })
	c.Grants.Deferred = t.list("deferred_outbound_hosts", wire.CheckDeferred)
	c.Grants.KeyValue = t.list("key_value_stores", func(s string) error { return wire.CheckName("key-value store", s) })
	c.Grants.Publish = t.list("publish", func(s string) error { return wire.CheckFilter(strings.TrimPrefix(s, wire.UplinkPrefix)) })
	c.Grants.BlobStores = t.list("blob_stores", func(s string) error { return wire.CheckName("blob store", s) })
	c.Grants.Variables = t.texts("variables", wire.CheckVariable)
	c.Grants.Environment = t.texts("environment", wire.CheckEnvironment)
	readFiles(t, &c)
	c.Grants.Limits = wire.DefaultLimits()
	if l := t.sub("limits", t.name+" limits"); l != nil {
		d := &c.Grants.Limits
		d.Memory = l.size("memory", wire.MinMemory, wire.MaxMemory, d.Memory)
		d.Time = wire.Duration(l.duration(l.find("time"), wire.MinTime, wire.MaxTime, time.Duration(d.Time)))
		d.Payload = l.size("payload", 1, wire.MaxPayload, d.Payload)
		d.Concurrency = int(l.integer("concurrency", 1, wire.MaxConcurrency, int64(d.Concurrency)))
		d.CPU = wire.Duration(l.duration(l.find("cpu"), wire.MinTime, wire.MaxTime, time.Duration(d.CPU)))
		d.Queue = int(l.integer("queue", 1, wire.MaxQueue, int64(d.Queue)))
		d.LogLines = int(l.integer("log_lines", 1, wire.MaxLogRate, int64(d.LogLines)))
		d.KeyValue = l.size("key_value", 1, wire.MaxKeyValue, d.KeyValue)
		d.Requests = int(l.integer("requests", 1, wire.MaxRequests, int64(d.Requests)))
		d.Files = l.size("files", wire.MinFiles, wire.MaxFiles, d.Files)
		l.rest()
	}
	t.rest()
	return c
}

// Resolve gives the release that m describes. components has the blob of each component, and no others.
func (m *Manifest) Resolve(components map[string]Blob) (wire.Release, error) {
	r := wire.Release{Format: wire.ReleaseFormat, Application: m.Application, Version: m.Version, Floor: m.Floor,
		Components: map[string]wire.Component{}, Triggers: m.Triggers, Uplinks: m.Uplinks}
	for _, name := range slices.Sorted(maps.Keys(m.Components)) {
		b, ok := components[name]
		if !ok {
			return wire.Release{}, fmt.Errorf("resolve manifest: no blob for component %q", name)
		}
		c := m.Components[name].Grants
		c.Digest, c.Size, c.Files = b.Digest, b.Size, b.Files
		r.Components[name] = c
	}
	if len(components) != len(m.Components) {
		return wire.Release{}, fmt.Errorf("resolve manifest: %d blobs for %d components", len(components), len(m.Components))
	}
	if _, err := wire.MarshalRelease(r); err != nil {
		return wire.Release{}, fmt.Errorf("resolve manifest: %w", err)
	}
	return r, nil
}
