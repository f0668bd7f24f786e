package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// A transfer is a bucket named by its target: "meta", and one bucket a block, as in a blob.
var keyMeta = []byte("meta")

const maxBlocks = 1 << 20 // of one transfer; far below the index that reads like "meta"

// Transfer is a fetch that was begun: which encoding, and the blocks so far. Meta is the owner's bytes (the offer).
type Transfer struct {
	Target string // digest of what is fetched
	Meta   []byte
	Have   []int // indices of stored blocks, ascending
}

// BeginTransfer of target. One that was begun with the same meta goes on; one with another meta is forgotten with its blocks.
func (s *Store) BeginTransfer(target string, meta []byte) error {
	if _, err := parseDigest(target); err != nil {
		return fmt.Errorf("begin transfer: %w", err)
	}
	if len(meta) > MaxBlock {
		return fmt.Errorf("begin transfer of %s: %w: meta of %d bytes, at most %d", target, ErrTooLarge, len(meta), MaxBlock)
	}
	t, ok, err := s.Transfer(target)
	if ok && err == nil && bytes.Equal(t.Meta, meta) {
		return nil
	}
	if err != nil && !errors.Is(err, ErrDamaged) { // damaged: begin again
		return err
	}
	err = s.update(func(tx *bolt.Tx) error {
		if err := dropBucket(tx.Bucket(bucketTransfers), []byte(target)); err != nil {
			return err
		}
		b, err := tx.Bucket(bucketTransfers).CreateBucket([]byte(target))
		if err != nil {
			return err
		}
		return b.Put(keyMeta, seal(keyMeta, meta))
	})
	if err != nil {
		return fmt.Errorf("begin transfer of %s: %w", target, err)
	}
	return nil
}

// Transfer of target as far as it is; ok is false when none was begun.
func (s *Store) Transfer(target string) (t Transfer, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		t, ok = Transfer{Target: target}, false
		b := tx.Bucket(bucketTransfers).Bucket([]byte(target))
		if b == nil {
			return nil
		}
		ok = true
		meta, err := unseal(keyMeta, b.Get(keyMeta))
		if err != nil {
			return err
		}
		t.Meta = bytes.Clone(meta)
		return b.ForEachBucket(func(k []byte) error {
			if len(k) != 4 {
				return damaged("block with key %x", k)
			}
			t.Have = append(t.Have, int(binary.BigEndian.Uint32(k)))
			return nil
		})
	})
	if err != nil {
		return Transfer{}, false, fmt.Errorf("read transfer of %s: %w", target, err)
	}
	return t, ok, nil
}

// PutBlocks stores blocks of at most MaxBlock bytes by their indices, in one commit. A block that is there already is
// replaced. ErrNoTransfer when the transfer wasn't begun.
func (s *Store) PutBlocks(target string, blocks map[int][]byte) error {
	for i, data := range blocks {
		if i < 0 || i >= maxBlocks {
			return fmt.Errorf("store blocks of %s: index %d is out of range", target, i)
		}
		if len(data) == 0 || len(data) > MaxBlock {
			return fmt.Errorf("store blocks of %s: block %d: %w: %d bytes, want 1 to %d", target, i, ErrTooLarge, len(data), MaxBlock)
		}
	}
	err := s.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketTransfers).Bucket([]byte(target))
		if b == nil {
			return ErrNoTransfer
		}
		for _, i := range slices.Sorted(maps.Keys(blocks)) {
			k := indexKey(i)
			c, err := b.CreateBucketIfNotExists(k)
			if err != nil {
				return err
			}
			if err := c.Put(keyBytes, seal(k, blocks[i])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store blocks of %s: %w", target, err)
	}
	return nil
}

// TransferReader gives blocks 0 to blocks-1 one after the other. Each Read looks into the store by itself, so it may stay
// open as long as it likes. A block that is missing or damaged is an error.
func (s *Store) TransferReader(target string, blocks int) (io.ReadCloser, error) {
	if _, ok, err := s.Transfer(target); err != nil {
		return nil, err
	} else if !ok {
		return nil, fmt.Errorf("read transfer of %s: %w", target, ErrNoTransfer)
	}
	return &transferReader{s: s, target: target, blocks: blocks}, nil
}

type transferReader struct {
	s      *Store
	target string
	next   int
	blocks int
	left   []byte
}

func (r *transferReader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		if r.next >= r.blocks {
			return 0, io.EOF
		}
		if err := r.load(); err != nil {
			return 0, fmt.Errorf("read block %d of %s: %w", r.next, r.target, err)
		}
		r.next++
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *transferReader) load() error {
	return r.s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketTransfers).Bucket([]byte(r.target))
		if b == nil {
			return ErrNoTransfer
		}
		k := indexKey(r.next)
		c := b.Bucket(k)
		if c == nil {
			return errors.New("not stored yet")
		}
		row := c.Get(keyBytes)
		if len(row) > MaxBlock+4 {
			return damaged("block of %d bytes", len(row))
		}
		data, err := unseal(k, row)
		r.left = append(r.left[:0], data...)
		return err
	})
}

func (r *transferReader) Close() error {
	r.blocks, r.left = 0, nil
	return nil
}

// EndTransfer forgets a transfer and its blocks; one that isn't there is no error.
func (s *Store) EndTransfer(target string) error {
	err := s.update(func(tx *bolt.Tx) error { return dropBucket(tx.Bucket(bucketTransfers), []byte(target)) })
	if err != nil {
		return fmt.Errorf("end transfer of %s: %w", target, err)
	}
	return nil
}

// Transfers lists the targets of all that were begun, sorted.
func (s *Store) Transfers() (targets []string, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		targets = nil
		return tx.Bucket(bucketTransfers).ForEachBucket(func(k []byte) error {
			targets = append(targets, string(k))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list transfers: %w", err)
	}
	return targets, nil
}
