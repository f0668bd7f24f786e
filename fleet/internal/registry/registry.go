// Package registry holds what the fleet may run: the trust chain (root, targets, and the snapshot and timestamp that the
// server signs itself) and the release manifests. Root and targets come from people; they are checked as a board would
// check them before any board sees them.
package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// Errors that the API tells apart.
var (
	ErrNoFleet  = errors.New("the fleet has no root yet")
	ErrRefused  = errors.New("devices would not take it")
	ErrConflict = errors.New("somebody else was first")
	ErrMissing  = errors.New("components are missing")
)

// How long what the server signs is good for; it is signed again when a third of that has passed.
const (
	TimestampLife = 3 * 24 * time.Hour
	SnapshotLife  = 30 * 24 * time.Hour
)

// onlineKeys are the server's own, by the names that the database knows them by.
var onlineKeys = []string{"snapshot", "timestamp", "director"}

// Registry is the trust chain and the releases. Safe for concurrent use.
type Registry struct {
	store *store.Store
	blobs Blobs
	now   func() time.Time
	log   *slog.Logger
	keys  map[string]trust.Key

	mu    sync.Mutex // one change at a time
	fleet atomic.Pointer[string]
}

// Blobs tells whether a component is here.
type Blobs interface {
	Size(d wire.Digest) (int64, error)
}

// Open the registry; on the first start it makes the online keys.
func Open(st *store.Store, blobs Blobs, now func() time.Time, log *slog.Logger) (*Registry, error) {
	r := &Registry{store: st, blobs: blobs, now: now, log: log, keys: map[string]trust.Key{}}
	made := map[string][]byte{}
	for _, name := range onlineKeys {
		pem, err := st.Server("key/" + name)
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", name, err)
		}
		if pem == nil {
			k, err := trust.GenerateKey()
			if err != nil {
				return nil, fmt.Errorf("make key %s: %w", name, err)
			}
			if pem, err = k.PEM(); err != nil {
				return nil, fmt.Errorf("make key %s: %w", name, err)
			}
			made["key/"+name] = pem
		}
		if r.keys[name], err = trust.ParseKey(pem); err != nil {
			return nil, fmt.Errorf("read key %s: %w", name, err)
		}
	}
	if len(made) > 0 {
		if err := st.PutServer(made); err != nil {
			return nil, fmt.Errorf("keep keys: %w", err)
		}
	}
	root, err := st.Metadata(trust.Root, 0)
	if errors.Is(err, store.ErrNotFound) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := trust.InspectRoot(root.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	r.fleet.Store(&info.Fleet)
	return r, nil
}

// Director is the key that signs desired states.
func (r *Registry) Director() trust.Key { return r.keys["director"] }

// Fleet is the fleet's name, empty before the first root. It never waits: the broker asks for each message.
func (r *Registry) Fleet() string {
	if name := r.fleet.Load(); name != nil {
		return *name
	}
	return ""
}

// Keys are the public halves of the online keys.
func (r *Registry) Keys() (k model.Keys, err error) {
	for name, to := range map[string]*json.RawMessage{"snapshot": &k.Snapshot, "timestamp": &k.Timestamp, "director": &k.Director} {
		if *to, err = r.keys[name].Public().JSON(); err != nil {
			return k, fmt.Errorf("show key %s: %w", name, err)
		}
	}
	return k, nil
}

// Metadata gives one file of the chain, version 0 for the newest.
func (r *Registry) Metadata(role trust.Role, version int64) (store.Metadata, error) {
	return r.store.Metadata(role, version)
}

// chain is the newest root and targets.
func (r *Registry) chain() (root, targets store.Metadata, err error) {
	if root, err = r.store.Metadata(trust.Root, 0); err == nil {
		targets, err = r.store.Metadata(trust.Targets, 0)
	}
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoFleet
	}
	return root, targets, err
}

// SetRoot takes a root and targets. The first root needs the first targets with it; a later one must be signed by the one
// before, and needs targets when the release keys changed.
func (r *Registry) SetRoot(root, targets []byte) (fleet string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := trust.InspectRoot(root)
	if err != nil {
		return "", fmt.Errorf("read root: %w: %w", ErrRefused, err)
	}
	if err := wire.CheckName("fleet", info.Fleet); err != nil {
		return "", fmt.Errorf("read root: %w: %w", ErrRefused, err)
	}
	oldRoot, oldTargets, err := r.chain()
	if err != nil && !errors.Is(err, ErrNoFleet) {
		return "", err
	}
	if string(oldRoot.Bytes) == string(root) && (targets == nil || string(targets) == string(oldTargets.Bytes)) {
		return info.Fleet, nil
	}
	if oldRoot.Bytes != nil && r.Fleet() != info.Fleet {
		return "", fmt.Errorf("check root: it is of fleet %s, this server is of %s: %w", info.Fleet, r.Fleet(), ErrRefused)
	}
	if err := trust.CheckRoot(oldRoot.Bytes, root); err != nil {
		return "", fmt.Errorf("check root: %w: %w", ErrRefused, err)
	}
	if targets == nil {
		targets = oldTargets.Bytes
	}
	if targets == nil {
		return "", fmt.Errorf("check root: the first root needs the first targets: %w", ErrRefused)
	}
	if string(targets) != string(oldTargets.Bytes) {
		if err := trust.CheckTargets(root, oldTargets.Bytes, targets, r.now()); err != nil {
			return "", fmt.Errorf("check targets: %w: %w", ErrRefused, err)
		}
	}
	p := store.Publication{Metadata: []store.Metadata{{Role: trust.Root, Version: info.Version, Bytes: root}}}
	if err := r.publish(root, targets, p); err != nil {
		return "", err
	}
	r.fleet.Store(&info.Fleet)
	r.log.Info("root", "fleet", info.Fleet, "version", info.Version)
	return info.Fleet, nil
}

// AddRelease takes a release manifest and the targets that name it. Its components must be here.
func (r *Registry) AddRelease(manifest, targets []byte) (wire.Pointer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	release, err := wire.ParseRelease(manifest)
	if err != nil {
		return wire.Pointer{}, fmt.Errorf("read release: %w: %w", ErrRefused, err)
	}
	root, old, err := r.chain()
	if err != nil {
		return wire.Pointer{}, err
	}
	pointer := wire.Pointer{
		Application: release.Application, Version: release.Version, Release: wire.Sum(manifest),
		Target: trust.TargetPath(release.Application, release.Version),
	}
	if string(targets) != string(old.Bytes) {
		version, _, _, err := trust.ListTargets(targets)
		if err != nil {
			return wire.Pointer{}, fmt.Errorf("read targets: %w: %w", ErrRefused, err)
		}
		if version <= old.Version {
			return wire.Pointer{}, fmt.Errorf("check targets: version %d, the fleet has %d: %w", version, old.Version, ErrConflict)
		}
		if err := trust.CheckTargets(root.Bytes, old.Bytes, targets, r.now()); err != nil {
			return wire.Pointer{}, fmt.Errorf("check targets: %w: %w", ErrRefused, err)
		}
	}
	if got, err := find(targets, release.Application, release.Version); err != nil {
		return wire.Pointer{}, fmt.Errorf("check targets: %w: %w", ErrRefused, err)
	} else if got != pointer {
		return wire.Pointer{}, fmt.Errorf("check targets: %s has digest %s there, the manifest has %s: %w", pointer.Target, got.Release.Short(), pointer.Release.Short(), ErrRefused)
	}
	for name, c := range release.Components {
		if n, err := r.blobs.Size(c.Digest); err != nil || n != c.Size {
			return wire.Pointer{}, fmt.Errorf("check release: component %s (%s, %d bytes): %w", name, c.Digest.Short(), c.Size, ErrMissing)
		}
		if f := c.Files; f != nil {
			if n, err := r.blobs.Size(f.Digest); err != nil || n != f.Size {
				return wire.Pointer{}, fmt.Errorf("check release: files of component %s (%s, %d bytes): %w", name, f.Digest.Short(), f.Size, ErrMissing)
			}
		}
	}
	if err := r.publish(root.Bytes, targets, store.Publication{Manifest: manifest}); err != nil {
		return wire.Pointer{}, err
	}
	r.log.Info("release", "application", release.Application, "version", release.Version, "digest", pointer.Release.Short())
	return pointer, nil
}

// Find gives the pointer of a release that is among the signed targets.
func (r *Registry) Find(application, version string) (wire.Pointer, error) {
	_, targets, err := r.chain()
	if err != nil {
		return wire.Pointer{}, err
	}
	return find(targets.Bytes, application, version)
}

func find(targets []byte, application, version string) (wire.Pointer, error) {
	_, _, list, err := trust.ListTargets(targets)
	if err != nil {
		return wire.Pointer{}, fmt.Errorf("read targets: %w", err)
	}
	path := trust.TargetPath(application, version)
	for _, t := range list {
		if t.Path == path {
			return wire.Pointer{Application: application, Version: version, Release: t.Digest, Target: path}, nil
		}
	}
	return wire.Pointer{}, fmt.Errorf("release %s among the signed targets: %w", path, store.ErrNotFound)
}
