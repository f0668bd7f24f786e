package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/journal"
)

// Examined is what the files of a store say while no process holds it.
type Examined struct {
	Bytes  int64    // of the database
	Schema uint32   // of the rows in it
	Frames int      // groups in the journal that the next Open takes over
	Aside  []string // damaged files that were set aside, oldest first
}

// Examine the store in dir and change nothing; no store is opened there meanwhile. Errors: ErrInUse, ErrNewer, ErrDamaged (Open
// would set the file aside), fs.ErrNotExist where there is no database, and those of the file system.
func Examine(dir string) (e Examined, err error) {
	path := storePath(dir)
	lock, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return e, fmt.Errorf("examine store: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return e, fmt.Errorf("examine store %s: %w by %s", dir, ErrInUse, holder(lock))
	}
	if e.Aside, err = filepath.Glob(filepath.Join(dir, "store.damaged-*")); err != nil {
		return e, err
	}
	err = e.look(path)
	if err != nil {
		err = fmt.Errorf("examine store %s: %w", path, err)
	}
	return e, err
}

func (e *Examined) look(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	e.Bytes = info.Size()
	if _, err := verifyFile(path); err != nil {
		return err
	}
	var m mark
	err = guard(func() error {
		o := options(os.OpenFile)
		o.ReadOnly = true
		db, err := bolt.Open(path, 0o600, o)
		if err != nil {
			return err
		}
		defer func() { _ = db.Close() }() // it was only read
		return db.View(func(tx *bolt.Tx) (err error) {
			if e.Schema, err = schemaOf(tx); err != nil {
				return err
			}
			if err := known(e.Schema); err != nil || e.Schema < journalSchema {
				return err
			}
			m, err = markOf(tx)
			return err
		})
	})
	if err != nil || e.Schema < journalSchema {
		return err
	}
	data, err := os.ReadFile(journalPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("the journal %s is missing", journalPath(path))
	}
	if err != nil {
		return err
	}
	found := journal.Scan(data, m.salt, m.seq)
	e.Frames = len(found.Frames)
	if found.Damage != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, found.Damage)
	}
	return nil
}

// known is an error where a newer program has written the rows.
func known(schema uint32) error {
	if schema > uint32(len(migrations)) {
		return fmt.Errorf("%w: schema %d, this program knows %d: install the version that wrote it, or a newer one", ErrNewer, schema, len(migrations))
	}
	return nil
}
