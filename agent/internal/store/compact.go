package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/crash"
)

// bbolt's file never shrinks: what is freed inside it is used again, and is of no use to anybody else. So where most of it holds nothing,
// what there is goes into a new file, which takes the old one's place in one rename.

// worth compacting are files that would become so many bytes smaller, and at most half as large.
var worth int64 = 16 << 20

const compactBytes = 1 << 20 // of one commit to the new file

// Worthwhile says whether Compact would free much.
func (s Stats) Worthwhile() bool { return s.Free >= worth && s.Free >= s.Bytes/2 }

// Compact writes what the database holds into a new file, which replaces it. Whoever reads or commits waits meanwhile. freed is 0 where it isn't
// worthwhile. An error leaves everything as it was, unless the store is stopped by it.
func (s *Store) Compact() (freed int64, err error) {
	before, err := s.Stats()
	if err != nil || !before.Worthwhile() && !crash.Eager {
		return 0, err
	}
	return s.replace(before)
}

func (s *Store) replace(before Stats) (freed int64, err error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := s.usable(); err != nil {
		return 0, fmt.Errorf("compact store %s: %w", s.path, err)
	}
	// What is kept free may be used meanwhile: more of it is there afterwards.
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.path), &fs); err == nil {
		if room, need := int64(fs.Bavail)*int64(fs.Bsize), before.Bytes-before.Free+compactBytes; room < need { //nolint:unconvert // 32 bits wide on some boards
			return 0, fmt.Errorf("compact store %s: %d bytes are needed and %d free: %w", s.path, need, room, unix.ENOSPC)
		}
	}
	began, tmp := time.Now(), temporary(s.path)
	err = guard(func() error { return copyInto(tmp, s.db) })
	if err == nil {
		crash.At("compact")
		err = os.Rename(tmp, s.path)
	}
	if err != nil {
		return 0, fmt.Errorf("compact store %s: %w", s.path, errors.Join(err, removeLeftover(s.path)))
	}
	// From here on only the new file is there.
	err = syncPath(filepath.Dir(s.path))
	crash.At("compacted")
	if e := s.db.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = guard(s.openBolt)
	}
	if err != nil {
		err = fmt.Errorf("compact store %s: %w (stopped: restart to go on from what is on the disk)", s.path, err)
		s.broken.CompareAndSwap(nil, &err)
		return 0, err
	}
	info, err := s.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("compact store %s: %w", s.path, err)
	}
	freed = before.Bytes - info.Size()
	s.log.Info("the database is compacted", "path", s.path, "bytes", info.Size(), "freed", freed, "took", time.Since(began))
	return freed, nil
}

// copyInto a new file at path all that is in src.
func copyInto(path string, src *bolt.DB) error {
	dst, err := bolt.Open(path, 0o600, options(os.OpenFile))
	if err != nil {
		return err
	}
	dst.AllocSize = growBy
	err = bolt.Compact(dst, src, compactBytes)
	crash.At("compacting")
	for range 2 { // so that neither meta page is one that names a free list, or is older than what was copied
		if err == nil {
			err = dst.Update(func(*bolt.Tx) error { return nil })
		}
	}
	if e := dst.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = syncPath(path)
	}
	return err
}
