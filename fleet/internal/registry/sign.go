package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// publish signs a snapshot of targets and a timestamp of that, checks the whole chain as a new board would, and commits
// it together with p. Called with mu held.
func (r *Registry) publish(root, targets []byte, p store.Publication) error {
	now := r.now().UTC().Truncate(time.Second)
	version, _, _, err := trust.ListTargets(targets)
	if err != nil {
		return fmt.Errorf("read targets: %w", err)
	}
	snapshotVersion, err := r.nextVersion(trust.Snapshot, now)
	if err != nil {
		return err
	}
	snapshot, err := trust.NewSnapshot(targets, snapshotVersion, now.Add(SnapshotLife), r.keys["snapshot"])
	if err != nil {
		return fmt.Errorf("sign snapshot: %w", err)
	}
	timestampVersion, timestamp, err := r.timestamp(snapshot, now)
	if err != nil {
		return err
	}
	if err := r.check(root, timestamp, snapshot, targets, now); err != nil {
		return fmt.Errorf("check chain: %w: %w", ErrRefused, err)
	}
	p.Metadata = append(p.Metadata,
		store.Metadata{Role: trust.Targets, Version: version, Bytes: targets},
		store.Metadata{Role: trust.Snapshot, Version: snapshotVersion, Bytes: snapshot},
		store.Metadata{Role: trust.Timestamp, Version: timestampVersion, Bytes: timestamp})
	return r.store.Publish(p)
}

func (r *Registry) timestamp(snapshot []byte, now time.Time) (version int64, b []byte, err error) {
	if version, err = r.nextVersion(trust.Timestamp, now); err != nil {
		return 0, nil, err
	}
	if b, err = trust.NewTimestamp(snapshot, version, now, now.Add(TimestampLife), r.keys["timestamp"]); err != nil {
		return 0, nil, fmt.Errorf("sign timestamp: %w", err)
	}
	return version, b, nil
}

// nextVersion of what the server signs is the time in seconds, or one more than before: so versions grow also past a
// database that was restored from a backup, which boards would take for a rollback.
func (r *Registry) nextVersion(role trust.Role, now time.Time) (int64, error) {
	m, err := r.store.Metadata(role, 0)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	return max(m.Version+1, now.Unix()), nil
}

// check does what a new board does with the chain, a desired state included.
func (r *Registry) check(root, timestamp, snapshot, targets []byte, now time.Time) error {
	v, err := trust.Open(root, trust.State{}, now)
	if err != nil {
		return err
	}
	files := map[trust.Role][]byte{trust.Timestamp: timestamp, trust.Snapshot: snapshot, trust.Targets: targets}
	for f, ok := v.Next(); ok; f, ok = v.Next() {
		if f.Role == trust.Root {
			err = v.NoNewerRoot()
		} else {
			err = v.Update(f.Role, files[f.Role])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Role, err)
		}
	}
	payload, err := wire.MarshalDesired(wire.Desired{Fleet: v.Fleet(), Device: "probe", Generation: 1, Issued: now})
	if err != nil {
		return err
	}
	envelope, err := trust.SignDesired(payload, r.Director())
	if err != nil {
		return err
	}
	if _, err := v.Desired(envelope, "probe"); err != nil {
		return fmt.Errorf("desired state signed by this server's director key: %w", err)
	}
	return nil
}

// RenewAt is when metadata that is good for life until expires is to be signed again: when a third of its life has passed.
func RenewAt(expires time.Time, life time.Duration) time.Time { return expires.Add(-life + life/3) }

// Renew signs the snapshot and the timestamp again where their time has come, and says when to call again.
func (r *Registry) Renew() (next time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now().UTC().Truncate(time.Second)
	again := now.Add(time.Hour) // for a fleet without a root, and after clock steps
	root, targets, err := r.chain()
	if errors.Is(err, ErrNoFleet) {
		return again, nil
	}
	if err != nil {
		return again, err
	}
	snapshot, err := r.store.Metadata(trust.Snapshot, 0)
	if err != nil {
		return again, err
	}
	timestamp, err := r.store.Metadata(trust.Timestamp, 0)
	if err != nil {
		return again, err
	}
	snapshotAt, err1 := renewal(snapshot.Bytes, SnapshotLife)
	timestampAt, err2 := renewal(timestamp.Bytes, TimestampLife)
	if err := errors.Join(err1, err2); err != nil {
		return again, err
	}
	switch {
	case !snapshotAt.After(now):
		if err := r.publish(root.Bytes, targets.Bytes, store.Publication{}); err != nil {
			return again, fmt.Errorf("renew snapshot: %w", err)
		}
		r.log.Info("renewed snapshot and timestamp")
		return again, nil
	case !timestampAt.After(now):
		version, b, err := r.timestamp(snapshot.Bytes, now)
		if err != nil {
			return again, err
		}
		if err := r.store.Publish(store.Publication{Metadata: []store.Metadata{{Role: trust.Timestamp, Version: version, Bytes: b}}}); err != nil {
			return again, fmt.Errorf("renew timestamp: %w", err)
		}
		r.log.Info("renewed timestamp", "version", version)
		return again, nil
	}
	for _, t := range []time.Time{snapshotAt, timestampAt} {
		if t.Before(again) {
			again = t
		}
	}
	return again, nil
}

func renewal(metadata []byte, life time.Duration) (time.Time, error) {
	var m struct {
		Signed struct {
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(metadata, &m); err != nil {
		return time.Time{}, fmt.Errorf("read expiry: %w", err)
	}
	return RenewAt(m.Signed.Expires, life), nil
}
