package store

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

var (
	bucketMeta      = []byte("meta")
	bucketData      = []byte("data")
	bucketBlobs     = []byte("blobs")
	bucketStaging   = []byte("staging")
	bucketTransfers = []byte("transfers")
	keySchema       = []byte("schema")
)

// migrations[i] takes a file from schema i to i+1, in one bbolt transaction with the new number. A new file is at 0.
var migrations = []func(*bolt.Tx) error{
	func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketData, bucketBlobs, bucketStaging, bucketTransfers} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	},
	func(tx *bolt.Tx) error { // the journal, from an unguessable salt
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		return mark{salt: binary.LittleEndian.Uint64(b[:]), id: tx.Bucket(bucketData).Sequence()}.put(tx)
	},
}

const (
	journalSchema = 2 // the first with a journal
	// The mapping is reserved up front, so that a growing file need not wait for its readers to be mapped again.
	initialMmap = 1 << 30
	// A file grows by this much beyond what it needs, without holding disk for it yet. bbolt's own 16 MiB suit servers.
	growBy      = 1 << 20
	keepDamaged = 3
)

// Open the database in dir (made with mode 0700), which one process at a time can hold. A new file is made through a
// temporary one, fsync and rename, because bbolt's first initialisation doesn't survive a power cut. A damaged file is set
// aside under store.damaged-<time>.db (the newest three are kept), logged and named by Recovered, and a new one is
// started. So is a damaged journal, as store.damaged-<time>.journal, after what it holds before the damage was taken over. Errors: ErrInUse, ErrNewer (the file is left alone), and those of the file system.
func Open(dir string, log *slog.Logger, now func() time.Time) (_ *Store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	path := storePath(dir)
	for _, p := range []string{path, journalPath(path)} {
		if err := removeLeftover(p); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	var aside string
	s, err := openFile(path, log, now())
	if errors.Is(err, ErrDamaged) {
		cause, stem := err, asideStem(dir, now()) // the journal first: without its database it is nothing
		if _, err = setAside(journalPath(path), stem, log, cause); err == nil || errors.Is(err, fs.ErrNotExist) {
			aside, err = setAside(path, stem, log, cause)
		}
		if err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Lstat(journalPath(path)); errors.Is(err, fs.ErrNotExist) { // before the database, which would miss it
			err = createJournal(journalPath(path))
		}
		if err == nil {
			err = create(path)
		}
		if err != nil {
			return nil, fmt.Errorf("create store %s: %w", path, err)
		}
		s, err = openFile(path, log, now())
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	if _, err := s.Compact(); err != nil {
		log.Warn("the database can't be compacted", "cause", err)
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	s.lock = lock
	if aside != "" {
		s.recovered = aside
	}
	go s.run()
	return s, nil
}

const lockName = "store.lock"

// lockDir takes the lock that goes with dir for as long as the file is open, and leaves our process id in it.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, fmt.Errorf("%w by %s, which holds %s: stop it, or choose another directory", ErrInUse, holder(f), path)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// holder of a lock file.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return "another process"
	}
	name := fmt.Sprintf("process %d", pid)
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
		name += " (" + strings.TrimSpace(string(comm)) + ")"
	}
	return name
}

func temporary(path string) string { return path + ".tmp" }

func removeLeftover(path string) error {
	if err := os.Remove(temporary(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func create(path string) error {
	tmp := temporary(path)
	db, err := bolt.Open(tmp, 0o600, options(os.OpenFile))
	if err != nil {
		return err
	}
	db.AllocSize = growBy
	err = db.Update(func(tx *bolt.Tx) error { return migrate(tx, 0) })
	if err == nil {
		// A second commit, so that neither meta page is bbolt's first one, which names a free list.
		err = db.Update(func(*bolt.Tx) error { return nil })
	}
	if e := db.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = syncPath(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncPath(filepath.Dir(path))
	}
	if err == nil {
		err = syncPath(filepath.Dir(filepath.Dir(path))) // dir itself may be new
	}
	return err
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// options of every bbolt file. The free list stays in memory: on disk it would be written again in each commit (24 KB after
// a 12 MB component was dropped), and it is found at open by the walk that verify makes anyway.
func options(open func(string, int, os.FileMode) (*os.File, error)) *bolt.Options {
	return &bolt.Options{
		Timeout:         time.Second,
		PageSize:        pageSize,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: initialMmap,
		OpenFile:        open,
	}
}

// openFile verifies and opens an existing file, and brings it to the newest schema.
func openFile(path string, log *slog.Logger, now time.Time) (*Store, error) {
	torn, err := verifyFile(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path:        path,
		log:         log,
		pending:     map[string][]*job{},
		delivered:   map[uint64]struct{}{},
		cuts:        map[uint64]uint64{},
		lanes:       newLanes(),
		uplinkDrops: map[string]uint64{},
		said:        map[drop]announced{},
		usage:       usage{},
		wake:        make(chan struct{}, 1),
		quit:        make(chan struct{}),
		stopped:     make(chan struct{}),
		notify:      make(chan struct{}, 1),
		lazy:        map[string][]byte{},
		outboxLimit: MaxOutbox,
		batchDelay:  BatchDelay,
		lazyDelay:   MemoryDelay,
	}
	if err := guard(s.openBolt); err != nil {
		return nil, err
	}
	if err := s.prepare(torn, now); err != nil {
		_ = s.db.Close() // err matters, and is on its way
		return nil, err
	}
	return s, nil
}

// openBolt opens the file at path, which is sound.
func (s *Store) openBolt() error {
	db, err := bolt.Open(s.path, 0o600, options(func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		s.file = f
		return f, err
	}))
	if err != nil {
		return err
	}
	db.AllocSize = growBy
	s.db = db
	return nil
}

func verifyFile(path string) (torn bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return verify(f, info.Size())
}

// prepare a file whose pages are sound: schema, what an interrupted run left, and the facts held in memory.
func (s *Store) prepare(torn bool, now time.Time) error {
	var version uint32
	err := s.view(func(tx *bolt.Tx) (err error) { version, err = schemaOf(tx); return err })
	if err != nil {
		return err
	}
	if err := known(version); err != nil {
		return err
	}
	if version < uint32(len(migrations)) {
		if err := s.update(func(tx *bolt.Tx) error { return migrate(tx, version) }); err != nil {
			return fmt.Errorf("migrate from schema %d: %w", version, err)
		}
	}
	if err := s.openJournal(version >= journalSchema, now); err != nil {
		return err
	}
	if err := s.clean(torn); errors.Is(err, ErrDamaged) {
		return err
	} else if err != nil {
		s.log.Warn("clean up after an interrupted run", "error", err) // a full disk must not keep a board from starting
	}
	err = s.view(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketData, bucketBlobs, bucketStaging, bucketTransfers} {
			if tx.Bucket(name) == nil {
				return damaged("bucket %q is missing", name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.durable.Store(s.mark.id)
	s.notified = s.mark.id
	err = s.read(s.surveyRows)
	if err != nil || len(s.unreadable)+len(s.misplaced) == 0 {
		return err
	}
	changed := map[string][]byte{}
	for _, k := range s.unreadable {
		changed[string(k)] = nil
	}
	for _, m := range s.misplaced {
		key := uplinkKey(laneID(m.Application, m.Topic), m.ID)
		value := seal(key, encodeMessage(m))
		changed[string(outboxKey(m.ID))], changed[string(key)] = nil, value
		if err := s.surveyUplink(key, value); err != nil {
			return err
		}
	}
	s.unreadable, s.misplaced = nil, nil
	return s.persist(&grouping{changed: changed, id: s.mark.id})
}

// surveyRows reads all rows once. A damaged one is logged: losing one value is better than setting everything aside. A
// keyvalue row stays an error for the handler that reads it. A record or a message is dropped, because its reader could only
// stop: what a record said is fetched from the fleet again. Only here it shows when the damage is in a key, which nobody
// would ask for any more.
func (s *Store) surveyRows(t table) error {
	return t.scan(nil, nil, func(k, row []byte) (bool, error) {
		if _, err := unseal(k, row); err != nil {
			s.damaged++
			s.log.Error("row of the store is damaged", "path", s.path, "error", err)
			if k[0] == kindRecord || k[0] == kindOutbox || k[0] == kindUplink || k[0] == kindStream {
				s.unreadable = append(s.unreadable, bytes.Clone(k))
				return true, nil
			}
		}
		switch k[0] {
		case kindOutbox:
			if m, err := readMessage(k, row); err == nil && isUplink(m.Topic) {
				s.misplaced = append(s.misplaced, m)
				return true, nil
			}
			s.outboxBytes.Add(int64(len(row)))
		case kindUplink, kindStream:
			if err := s.surveyUplink(k, row); err != nil {
				s.damaged++
				s.log.Error("row of the store is damaged", "path", s.path, "error", err)
				s.unreadable = append(s.unreadable, bytes.Clone(k))
			}
		}
		s.usage.row(k, row, 1)
		return true, nil
	})
}

// clean up what an interrupted run left: a meta page that a power cut tore, which the next commit rewrites, and blobs that
// were being stored.
func (s *Store) clean(torn bool) error {
	if torn {
		if err := s.update(func(*bolt.Tx) error { return nil }); err != nil {
			return err
		}
	}
	return s.dropStaging()
}

func schemaOf(tx *bolt.Tx) (uint32, error) {
	b := tx.Bucket(bucketMeta)
	if b == nil {
		return 0, damaged("bucket %q is missing", bucketMeta)
	}
	v, err := unseal(keySchema, b.Get(keySchema))
	if err != nil {
		return 0, err
	}
	if len(v) != 4 {
		return 0, damaged("schema number of %d bytes", len(v))
	}
	return binary.BigEndian.Uint32(v), nil
}

func migrate(tx *bolt.Tx, from uint32) error {
	for _, m := range migrations[from:] {
		if err := m(tx); err != nil {
			return err
		}
	}
	v := binary.BigEndian.AppendUint32(nil, uint32(len(migrations)))
	return tx.Bucket(bucketMeta).Put(keySchema, seal(keySchema, v))
}

// asideStem is what damaged files are called but for their extension: one that is free, for a board without a clock damages several
// "at the same time".
func asideStem(dir string, now time.Time) string {
	first := filepath.Join(dir, "store.damaged-"+now.UTC().Format("20060102T150405Z"))
	stem := first
	for i := 2; ; i++ {
		taken, err := filepath.Glob(stem + ".*")
		if len(taken) == 0 || err != nil {
			return stem
		}
		stem = fmt.Sprintf("%s-%d", first, i)
	}
}

// setAside renames a damaged file and gives its new path.
func setAside(path, stem string, log *slog.Logger, cause error) (string, error) {
	aside := stem + filepath.Ext(path)
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("set damaged file aside: %w (damage: %w)", err, cause)
	}
	if err := syncPath(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("set damaged file aside: %w", err)
	}
	log.Warn("store was damaged: set aside, starting a new one", "path", path, "aside", aside, "cause", cause)
	return aside, dropOldDamaged(aside, log)
}

// dropOldDamaged keeps a few damaged files, or a failing card would fill up with them.
func dropOldDamaged(newest string, log *slog.Logger) error {
	all, err := filepath.Glob(filepath.Join(filepath.Dir(newest), "store.damaged-*"+filepath.Ext(newest)))
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(p string) bool { return p == newest })
	slices.Sort(all)
	for len(all) > keepDamaged-1 {
		if err := os.Remove(all[0]); err != nil {
			return fmt.Errorf("drop old damaged store: %w", err)
		}
		log.Info("dropped an old damaged store", "path", all[0])
		all = all[1:]
	}
	return nil
}
