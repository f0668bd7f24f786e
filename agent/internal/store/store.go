// Package store is what survives a power cut: one bbolt file with blobs, transfers, records, the applications' keyvalue
// data and the outbox, and before it a journal for the small changes. Small rows carry a checksum and blobs a digest, so what the disk lost is an error and never a wrong
// answer.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/journal"
)

// Limits. A value over one of them is refused before anything is written, with an error that names the limit.
const (
	MaxBlob     = 64 << 20            // bytes of one blob
	MaxRecord   = 4 << 20             // bytes of one record
	MaxBlock    = 1 << 20             // bytes of one block of a transfer
	MaxName     = 255                 // bytes of the name of an application or of a keyvalue store
	MaxKey      = 1 << 10             // bytes of a keyvalue key or a record's key
	MaxValue    = 1 << 20             // bytes of a keyvalue value
	MaxTopic    = 65535               // bytes, MQTT's own limit
	MaxPayload  = 1 << 20             // bytes of a published payload
	MaxDeferred = MaxPayload + 64<<10 // bytes of a deferred request: a payload and its headers
	MaxTx       = 8 << 20             // bytes that one transaction writes and publishes
	MaxOutbox   = 64 << 20            // bytes that wait for the board's bus; beyond it the oldest messages are dropped and counted
	MaxUplinks  = 64 << 20            // bytes that wait for the fleet and for deferred hosts, where nothing else is said
)

// Errors that callers branch on.
var (
	// ErrConflict: something that the transaction read has changed since; run the event again.
	ErrConflict = errors.New("conflict with a concurrent event")
	// ErrDone: the event has taken effect before, so it has none now.
	ErrDone = errors.New("the event took effect already")
	// ErrDamaged: the disk gave back something else than was written. Opening the store again sets a damaged file aside.
	ErrDamaged = errors.New("damaged database")
	// ErrNewer: the file was written by a newer program. It is left untouched.
	ErrNewer = errors.New("written by a newer version")
	// ErrInUse: another process holds the store.
	ErrInUse = errors.New("in use")
	// ErrTooLarge: over one of the limits.
	ErrTooLarge = errors.New("too large")
	// ErrTxTooLarge: over MaxTx. It is ErrTooLarge too.
	ErrTxTooLarge = fmt.Errorf("transaction %w", ErrTooLarge)
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrNoTransfer: no transfer of that target was begun, or it has ended.
	ErrNoTransfer = errors.New("no such transfer")
)

// Store is the board's database. Safe for concurrent use.
type Store struct {
	path      string
	log       *slog.Logger
	lock      *os.File
	gate      sync.RWMutex // held by who uses db and file, and whole by who replaces them
	db        *bolt.DB
	file      *os.File // the one that db writes; closed directly when db can't be
	recovered string

	over        atomic.Pointer[overlay] // what the journal holds; the committer alone changes it, and what follows
	journal     *journal.Journal
	journalFile *os.File // nil: there was no room for one
	mark        mark
	notified    uint64            // the newest durable id that was told
	lazy        map[string][]byte // changes in the overlay that are in no journal yet
	lazyBytes   int
	lazyDue     time.Time // when they are written at the latest, and delivered rows removed; zero: nothing waits

	broken atomic.Pointer[error] // set when memory and disk may disagree; every call fails with it from then on

	mu        sync.Mutex
	closed    bool
	queue     []*job
	urgent    bool                // a job in the queue waits for no others
	batchDue  time.Time           // when the oldest that does has waited long enough
	pending   map[string][]*job   // jobs that are queued or being written, by the key they write, oldest first
	usage     usage               // of keyvalue stores, as of the last commit
	delivered map[uint64]struct{} // outbox rows to remove with a coming commit
	cuts      map[uint64]uint64   // the same of messages to the fleet: by lane, up to which id

	lanes       lanes
	uplinkDrops map[string]uint64  // messages to the fleet that were dropped since Open, by why
	said        map[drop]announced // of drops

	ruling  sync.Mutex // held while a group is written, and while the rules of messages to the fleet change; taken before mu
	expired Stamp      // when the committer looked for old ones

	wake    chan struct{} // one token: the queue or delivered has something new
	quit    chan struct{}
	stopped chan struct{}
	notify  chan struct{}

	outboxBytes atomic.Int64 // as of the last commit
	outboxLimit int64
	batchDelay  time.Duration
	lazyDelay   time.Duration
	durable     atomic.Uint64 // the newest outbox id that is on the disk
	damaged     int           // rows that didn't match their checksum at Open
	unreadable  [][]byte      // of those, the records and messages, until clean has dropped them
	misplaced   []Message     // to the fleet, among those to the board's bus, where they were before they had lanes; until prepare has moved them
	dropped     atomic.Uint64
	commits     atomic.Uint64
	stage       atomic.Uint64 // names the blobs that are being stored
}

// Recovered is the path of the damaged file that Open set aside, or "".
func (s *Store) Recovered() string { return s.recovered }

// Path of the database file.
func (s *Store) Path() string { return s.path }

// Stats are facts about the store for reports.
type Stats struct {
	Bytes   int64  // size of the file
	Free    int64  // bytes of it that hold nothing and are used again before it grows
	Outbox  int64  // bytes that wait in the outbox at the last commit
	Commits uint64 // syncs of the journal and commits of the database since Open
	Dropped uint64 // messages dropped from a full outbox since Open
	Schema  uint32 // of the rows
	Damaged int    // rows that didn't match their checksum at Open
}

// Stats of the store.
func (s *Store) Stats() (Stats, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return Stats{}, fmt.Errorf("stat store: %w", err)
	}
	s.gate.RLock()
	b := s.db.Stats()
	s.gate.RUnlock()
	return Stats{
		Bytes:   info.Size(),
		Free:    int64(b.FreePageN+b.PendingPageN) * pageSize,
		Outbox:  s.outboxBytes.Load(),
		Commits: s.commits.Load(),
		Dropped: s.dropped.Load(),
		Schema:  uint32(len(migrations)),
		Damaged: s.damaged,
	}, nil
}

// Close ends what is queued (commits are finished, not dropped), then closes and unlocks the file.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.quit)
	<-s.stopped
	var err error
	if s.broken.Load() != nil {
		err = s.file.Close() // bbolt's own locks may be held for ever
	} else {
		s.gate.Lock()
		err = s.db.Close()
		s.gate.Unlock()
	}
	if s.journalFile != nil {
		if e := s.journalFile.Close(); err == nil {
			err = e
		}
	}
	if e := s.lock.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

// guard runs f and turns a panic or a fault on a page of the mapped file into ErrDamaged. bbolt trusts its pages: it asserts,
// indexes and dereferences what it finds there.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}

func (s *Store) usable() error {
	if p := s.broken.Load(); p != nil {
		return *p
	}
	return nil
}

// wrap names the database in an error that came out of it.
func (s *Store) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return fmt.Errorf("store %s: %w", s.path, ErrClosed)
	case errors.Is(err, ErrDamaged):
		return fmt.Errorf("store %s: %w", s.path, err)
	}
	return err
}

func (s *Store) view(f func(*bolt.Tx) error) error {
	if err := s.usable(); err != nil {
		return err
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	return s.wrap(guard(func() error { return s.db.View(f) }))
}

// update runs f in a bbolt transaction of its own. It doesn't use bbolt's Update: that reloads the free list in a goroutine
// where a damaged page can't be caught.
func (s *Store) update(f func(*bolt.Tx) error) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	tx, err := s.begin()
	if err != nil {
		return err
	}
	if err := guard(func() error { return f(tx) }); err != nil {
		_ = tx.Rollback()
		return s.wrap(err)
	}
	return s.commit(tx)
}

func (s *Store) begin() (tx *bolt.Tx, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	err = guard(func() (err error) { tx, err = s.db.Begin(true); return err })
	return tx, s.wrap(err)
}

// commit makes tx durable. When it fails with the meta page already rewritten, readers would see what may not be on the
// disk: the store stops there, and the next Open reads what really is.
func (s *Store) commit(tx *bolt.Tx) error {
	id := tx.ID()
	crash.At("commit")
	err := guard(tx.Commit)
	crash.At("committed")
	if err == nil {
		s.commits.Add(1)
		return nil
	}
	_ = tx.Rollback() // already over, except after a panic
	seen := -1
	verr := guard(func() error { return s.db.View(func(r *bolt.Tx) error { seen = r.ID(); return nil }) })
	err = fmt.Errorf("commit to store %s: %w", s.path, err)
	if errors.Is(err, ErrDamaged) || verr != nil || seen >= id {
		err = fmt.Errorf("%w (stopped: restart to go on from what is on the disk)", err)
		s.broken.CompareAndSwap(nil, &err)
	}
	return err
}

// Check everything: bbolt's page structure, each row's checksum, each blob's digest. Commits wait while the structure is
// walked; blobs are read one at a time.
func (s *Store) Check(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.checkPages(ctx); err != nil {
		return fmt.Errorf("check store: %w", s.wrap(err))
	}
	blobs, err := s.Blobs()
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	for _, d := range blobs {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("check store: %w", err)
		}
		err := s.view(func(tx *bolt.Tx) error { _, _, err := readBlob(tx, d); return err })
		if err != nil {
			return fmt.Errorf("check store: %w", err)
		}
	}
	return nil
}

func (s *Store) checkPages(ctx context.Context) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	tx, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return guard(func() error { return s.checkStructure(ctx, tx) })
}

func (s *Store) checkStructure(ctx context.Context, tx *bolt.Tx) error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if _, err := verify(s.file, info.Size()); err != nil {
		return err
	}
	var all []error
	for err := range tx.Check() { // drained to its end: it is a goroutine of bbolt's
		all = append(all, err)
	}
	if len(all) > 0 {
		return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(all...))
	}
	t, err := tableOf(tx, s.over.Load()) // no fold can come between: it would need a transaction as this one is
	if err != nil {
		return err
	}
	if err := t.check(ctx); err != nil {
		return err
	}
	return checkTransfers(ctx, tx)
}

func (t table) check(ctx context.Context) error {
	return t.scan(nil, nil, func(k, row []byte) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		_, err := unseal(k, row)
		if err != nil {
			return false, err
		}
		switch k[0] {
		case kindRecord:
		case kindValue:
			_, _, _, err = parseValueKey(k)
		case kindOutbox:
			_, err = readMessage(k, row)
		case kindUplink:
			_, err = readUplink(k, row)
		case kindStream:
			_, _, err = readStream(k, row)
		default:
			err = fmt.Errorf("%w: row %q of an unknown kind", ErrDamaged, k)
		}
		return true, err
	})
}

func checkTransfers(ctx context.Context, tx *bolt.Tx) error {
	return tx.Bucket(bucketTransfers).ForEachBucket(func(target []byte) error {
		b := tx.Bucket(bucketTransfers).Bucket(target)
		if _, err := unseal(keyMeta, b.Get(keyMeta)); err != nil {
			return fmt.Errorf("transfer of %s: %w", target, err)
		}
		return b.ForEachBucket(func(index []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := unseal(index, b.Bucket(index).Get(keyBytes)); err != nil {
				return fmt.Errorf("transfer of %s: block %x: %w", target, index, err)
			}
			return nil
		})
	})
}

func storePath(dir string) string { return filepath.Join(dir, "store.db") }
