package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
	"go.etcd.io/bbolt"
)

// Metadata is one file of the trust chain.
type Metadata struct {
	Role    trust.Role
	Version int64
	Bytes   []byte
}

// kept versions of the roles that are signed often: a board that is in the middle of a refresh finds what its
// timestamp named. Roots are all kept, since a board steps through each.
const kept = 8

// Metadata gives a file by role and version, version 0 for the newest.
func (s *Store) Metadata(role trust.Role, version int64) (m Metadata, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if m = metadata(tx, role, version); m.Bytes == nil {
			return fmt.Errorf("%s version %d: %w", role, version, ErrNotFound)
		}
		return nil
	})
	return m, err
}

func metadata(tx *bbolt.Tx, role trust.Role, version int64) Metadata {
	b := tx.Bucket(bucketMetadata)
	if version > 0 {
		return Metadata{Role: role, Version: version, Bytes: clone(b.Get(metadataKey(role, version)))}
	}
	c := b.Cursor()
	c.Seek(metadataKey(role, 1<<62))
	k, v := c.Prev()
	if k == nil { // the seek went beyond the last key
		k, v = c.Last()
	}
	prefix := len(role) + 1
	if len(k) != prefix+8 || string(k[:prefix]) != string(role)+"/" {
		return Metadata{}
	}
	return Metadata{Role: role, Version: int64(binary.BigEndian.Uint64(k[prefix:])), Bytes: clone(v)}
}

func metadataKey(role trust.Role, version int64) []byte {
	return append([]byte(string(role)+"/"), number(uint64(version))...)
}

// Publication is a change of what the fleet serves. It takes effect as a whole.
type Publication struct {
	Metadata []Metadata
	Manifest []byte // a release manifest; may be empty
}

// Publish commits p, and drops old versions of all roles but root.
func (s *Store) Publish(p Publication) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMetadata)
		for _, m := range p.Metadata {
			if err := b.Put(metadataKey(m.Role, m.Version), m.Bytes); err != nil {
				return err
			}
			if m.Role != trust.Root {
				if err := dropOld(b, m.Role); err != nil {
					return err
				}
			}
		}
		if len(p.Manifest) == 0 {
			return nil
		}
		d := wire.Sum(p.Manifest)
		return tx.Bucket(bucketReleases).Put(d[:], p.Manifest)
	})
}

// Manifest gives a release manifest by its digest.
func (s *Store) Manifest(d wire.Digest) (manifest []byte, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if manifest = clone(tx.Bucket(bucketReleases).Get(d[:])); manifest == nil {
			return fmt.Errorf("release %s: %w", d.Short(), ErrNotFound)
		}
		return nil
	})
	return manifest, err
}

// dropOld keeps the newest versions of role.
func dropOld(b *bbolt.Bucket, role trust.Role) error {
	c := b.Cursor()
	c.Seek(metadataKey(role, 1<<62))
	n := 0
	var old [][]byte
	k, _ := c.Prev()
	if k == nil {
		k, _ = c.Last()
	}
	for ; bytes.HasPrefix(k, []byte(string(role)+"/")); k, _ = c.Prev() {
		if n++; n > kept {
			old = append(old, clone(k))
		}
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
