package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/journal"
)

// A commit of bbolt's writes each page that it touches, and those above them: some 30 KB for an event of 200 bytes. So a group is
// appended to the journal, which is one write and one fdatasync, and to the overlay, which is what readers see. When the
// journal is full, the overlay is folded into the database in one bbolt commit.

// journalSize was chosen by measurement: BenchmarkJournalSize. A variable for tests, which fold more often.
var journalSize int64 = 1 << 20

// direct: a group of so much of the journal goes straight to the database, because it would be written twice for little.
const direct = 4

var keyJournal = []byte("journal")

// mark is what the database knows of its journal, and of the outbox.
type mark struct {
	salt uint64 // of the journal's checksums
	seq  uint64 // the last frame that the database has, or that must not be believed
	id   uint64 // the newest outbox id
}

func (m mark) put(tx *bolt.Tx) error {
	v := binary.BigEndian.AppendUint64(nil, m.salt)
	v = binary.BigEndian.AppendUint64(v, m.seq)
	v = binary.BigEndian.AppendUint64(v, m.id)
	return tx.Bucket(bucketMeta).Put(keyJournal, seal(keyJournal, v))
}

func markOf(tx *bolt.Tx) (mark, error) {
	v, err := unseal(keyJournal, tx.Bucket(bucketMeta).Get(keyJournal))
	if err != nil {
		return mark{}, err
	}
	if len(v) != 24 {
		return mark{}, damaged("journal's mark of %d bytes", len(v))
	}
	return mark{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:]), binary.BigEndian.Uint64(v[16:])}, nil
}

// encodeChanges of a group: the newest outbox id (8 bytes), then for each row the lengths of key (2 bytes) and row (4 bytes;
// 0 deletes), key, row. Integers are little endian. Keys ascend.
func encodeChanges(id uint64, rows []row) []byte {
	out := binary.LittleEndian.AppendUint64(make([]byte, 0, changesSize(rows)), id)
	for _, r := range rows {
		out = binary.LittleEndian.AppendUint16(out, uint16(len(r.key)))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(r.value)))
		out = append(append(out, r.key...), r.value...)
	}
	return out
}

// changesSize is what encodeChanges needs, in bytes.
func changesSize(rows []row) int {
	n := 8
	for _, r := range rows {
		n += 6 + len(r.key) + len(r.value)
	}
	return n
}

func decodeChanges(b []byte) (id uint64, rows []row, err error) {
	if len(b) < 8 {
		return 0, nil, damaged("journal frame of %d bytes", len(b))
	}
	id, b = binary.LittleEndian.Uint64(b), b[8:]
	last := ""
	for len(b) > 0 {
		if len(b) < 6 {
			return 0, nil, damaged("journal frame is cut short")
		}
		k, v := int(binary.LittleEndian.Uint16(b)), int64(binary.LittleEndian.Uint32(b[2:]))
		b = b[6:]
		if int64(len(b)) < int64(k)+v {
			return 0, nil, damaged("journal frame is cut short")
		}
		r := row{key: string(b[:k])}
		if v > 0 {
			r.value = b[k : k+int(v) : k+int(v)]
		}
		if r.key <= last {
			return 0, nil, damaged("journal frame has row %q after %q", r.key, last)
		}
		last, b = r.key, b[k+int(v):]
		rows = append(rows, r)
	}
	return id, rows, nil
}

func sortedRows(changes map[string][]byte) []row {
	rows := make([]row, 0, len(changes))
	for _, k := range slices.Sorted(maps.Keys(changes)) {
		rows = append(rows, row{k, changes[k]})
	}
	return rows
}

// checkRow that bbolt takes it, before a group is promised that it will.
func checkRow(key string, value []byte) error {
	if key == "" || len(key) > bolt.MaxKeySize || int64(len(value)) > math.MaxInt32-4 {
		return fmt.Errorf("write row %.100q: %w: key of %d bytes, value of %d", key, ErrTooLarge, len(key), len(value))
	}
	return nil
}

// persist a group and what was postponed before it: append them to the journal and to what readers see, or write them to the
// database where they are too many. When the error isn't nil, the group is nowhere.
func (s *Store) persist(g *grouping) error {
	changes := maps.Clone(s.lazy)
	maps.Copy(changes, g.changed)
	if len(changes) == 0 {
		return nil
	}
	rows := sortedRows(changes)
	size := changesSize(rows)
	large := size > int(journalSize)/direct
	if (large || !s.journal.Fits(size)) && (s.over.Load() != nil || s.journal.Used() > 0) {
		if err := s.fold(); err != nil {
			return err
		}
	}
	if large || !s.journal.Fits(size) {
		if err := s.update(func(tx *bolt.Tx) error { return putRows(tx, rows, mark{s.mark.salt, s.mark.seq, g.id}) }); err != nil {
			return err
		}
		s.advance(g.id)
		return nil
	}
	s.mark.seq++
	crash.At("commit")
	err := s.journal.Append(s.mark.seq, encodeChanges(g.id, rows))
	crash.At("committed")
	if err != nil {
		err = fmt.Errorf("commit to store %s: %w", s.path, err)
		// Nobody knows whether the frame is on the disk. The database is told not to believe it. Where it can't be told, no commit
		// succeeds before it was.
		if e := s.fold(); e != nil {
			err = fmt.Errorf("%w; then %w", err, e)
		}
		return err
	}
	s.commits.Add(1)
	s.over.Store(s.over.Load().push(rows))
	s.advance(g.id)
	return nil
}

// advance after all that was applied became durable.
func (s *Store) advance(id uint64) {
	s.mark.id = id
	clear(s.lazy)
	s.lazyBytes = 0
	s.durable.Store(id)
}

// tell who waits for messages, once all that is known of them in memory is in place.
func (s *Store) tell() {
	if id := s.durable.Load(); s.notified != id {
		s.notified = id
		select {
		case s.notify <- struct{}{}:
		default:
		}
	}
}

// fold the overlay into the database, and begin the journal again.
func (s *Store) fold() error {
	rows := s.over.Load().all()
	err := s.update(func(tx *bolt.Tx) error {
		return putRows(tx, rows, s.mark)
	})
	if err != nil {
		return fmt.Errorf("fold journal: %w", err)
	}
	s.over.Store(nil)
	s.journal.Reset()
	s.advance(s.mark.id)
	return nil
}

func putRows(tx *bolt.Tx, rows []row, m mark) error {
	b := tx.Bucket(bucketData)
	if b == nil {
		return damaged("bucket %q is missing", bucketData)
	}
	for _, r := range rows { // sorted: bbolt walks each leaf once
		var err error
		if r.value == nil {
			err = b.Delete([]byte(r.key))
		} else {
			err = b.Put([]byte(r.key), r.value)
		}
		if err != nil {
			return fmt.Errorf("write row %q: %w", r.key, err)
		}
	}
	return m.put(tx)
}

// dataFile syncs what was written, and not the times in the inode.
type dataFile struct{ *os.File }

func (f dataFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync "+f.Name(), err)
		}
	}
}

func journalPath(path string) string { return strings.TrimSuffix(path, ".db") + ".journal" }

// createJournal writes a new file whole: with holes in it, the file system would write its own journal at each fdatasync.
func createJournal(path string) error {
	tmp := temporary(path)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, journalSize))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncPath(filepath.Dir(path))
	}
	return err
}

// openJournal takes what the journal holds into the database. known: the database has had a journal before.
func (s *Store) openJournal(known bool, now time.Time) error {
	if err := s.view(func(tx *bolt.Tx) (err error) { s.mark, err = markOf(tx); return err }); err != nil {
		return err
	}
	path := journalPath(s.path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if known {
			s.log.Error("the journal of the store is missing: what was committed since its last fold is lost", "path", path)
			s.skipIDs()
		}
		return s.newJournal(path)
	}
	if err != nil {
		return err
	}
	defer func() {
		if s.journalFile != f {
			f.Close()
		}
	}()
	data, err := io.ReadAll(io.LimitReader(f, journalSize+1))
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	found := journal.Scan(data, s.mark.salt, s.mark.seq)
	if found.Damage == nil && int64(len(data)) != journalSize {
		found.Damage = fmt.Errorf("%w: journal of %d bytes, want %d", ErrDamaged, len(data), journalSize)
	}
	for _, frame := range found.Frames {
		id, rows, err := decodeChanges(frame.Payload)
		if err != nil {
			found.Damage = err
			break
		}
		s.over.Store(s.over.Load().push(rows))
		s.mark.id = id
	}
	s.journal = journal.New(dataFile{f}, int64(len(data)), s.mark.salt)
	if found.Newest > s.mark.seq {
		s.mark.seq = found.Newest
		s.journal.Shut()
		if err := s.fold(); errors.Is(err, ErrDamaged) || err != nil && found.Damage != nil {
			return err
		} else if err != nil { // a full disk must not keep a board from starting; the next commit tries again
			s.log.Warn("take over the journal", "path", path, "error", err)
		}
	}
	if found.Damage == nil {
		s.journalFile = f
		return nil
	}
	aside, err := setAside(path, asideStem(filepath.Dir(path), now), s.log, found.Damage)
	if err != nil {
		return err
	}
	s.recovered = aside
	s.skipIDs()
	return s.newJournal(path)
}

// skipIDs that what is lost of the journal may have used: the fleet would take new messages under them for repeats. A journal has no room for
// so many.
func (s *Store) skipIDs() {
	s.mark.id += 1 << 20
	if err := s.update(func(tx *bolt.Tx) error { return s.mark.put(tx) }); err != nil { // a full disk must not keep a board from starting
		s.log.Warn("skip ids of messages that may have been used", "path", s.path, "error", err)
	}
}

// newJournal where there is none. A disk that has no room for it costs flash wear, and nothing else.
func (s *Store) newJournal(path string) error {
	s.journal = journal.New(nil, 0, s.mark.salt)
	if err := createJournal(path); err != nil {
		s.log.Warn("create journal", "path", path, "error", err)
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.journalFile, s.journal = f, journal.New(dataFile{f}, journalSize, s.mark.salt)
	return nil
}
