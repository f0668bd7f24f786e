package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func TestANewStoreIsPrivateAndLeavesNoTemporaryFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "state")
	s := open(t, dir)
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, s.Path(): 0o600, journalPath(s.Path()): 0o600, filepath.Join(dir, "store.lock"): 0o600} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 3 {
		t.Errorf("the directory holds %v, want the store, its journal and its lock", entries)
	}
}

func TestAnInterruptedCreationStartsAgain(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(temporary(storePath(dir)), []byte("half a meta page"), 0o600))
	s := open(t, dir)
	if s.Recovered() != "" {
		t.Errorf("recovered %q: nothing was lost", s.Recovered())
	}
	if _, err := os.Stat(temporary(s.Path())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

func TestANewerStoreIsRefusedAndLeftAlone(t *testing.T) {
	newerSchema := func(t *testing.T, path string) {
		db, err := bolt.Open(path, 0o600, options(os.OpenFile))
		must(t, err)
		must(t, db.Update(func(tx *bolt.Tx) error {
			v := binary.BigEndian.AppendUint32(nil, 99)
			return tx.Bucket(bucketMeta).Put(keySchema, seal(keySchema, v))
		}))
		must(t, db.Close())
	}
	newerFormat := func(t *testing.T, path string) { // of bbolt's own
		raw, err := os.ReadFile(path)
		must(t, err)
		for i := range 2 {
			m := raw[i*pageSize+pageHeader:]
			binary.NativeEndian.PutUint32(m[4:], 3)
			binary.NativeEndian.PutUint64(m[56:], fnvOf(m[:56]))
		}
		must(t, os.WriteFile(path, raw, 0o600))
	}
	for name, make := range map[string]func(*testing.T, string){"schema": newerSchema, "bbolt format": newerFormat} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, open(t, dir).Close())
			make(t, storePath(dir))
			before, err := os.ReadFile(storePath(dir))
			must(t, err)
			_, err = Open(dir, quiet, atTestTime)
			if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("got %v, want ErrNewer with the path", err)
			}
			t.Log(err)
			if _, err := Examine(dir); !errors.Is(err, ErrNewer) {
				t.Errorf("examined: %v", err)
			}
			if after, err := os.ReadFile(storePath(dir)); !bytes.Equal(before, after) || err != nil {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func TestATornMetaPageCostsNothingAndIsRewritten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, s.Put(map[string][]byte{"a/b": []byte("1")}))
	must(t, s.Close())
	f, err := os.OpenFile(storePath(dir), os.O_RDWR, 0)
	must(t, err)
	m, _, err := readMetas(f, 1<<30)
	must(t, err)
	older := int64(m.txid+1) % 2 // what the next commit was about to write
	_, err = f.WriteAt(make([]byte, 512), older*pageSize)
	must(t, err)
	must(t, f.Close())
	s = open(t, dir)
	if v, _, err := s.Get("a/b"); string(v) != "1" || err != nil || s.Recovered() != "" {
		t.Errorf("got %q, %v, recovered %q", v, err, s.Recovered())
	}
	if torn, err := verifyFile(storePath(dir)); torn || err != nil {
		t.Errorf("torn: %v, %v", torn, err)
	}
	mustCheck(t, s)
}

func TestAFailedWriteIsAnErrorAndTheStoreGoesOn(t *testing.T) {
	s := newStore(t)
	must(t, s.Put(map[string][]byte{"a/b": []byte("1")}))
	// The kernel refuses each write: the files behind the descriptors can only be read.
	ro, err := os.Open(s.Path())
	must(t, err)
	var keep []int
	for _, f := range []*os.File{s.file, s.journalFile} {
		fd, err := unix.Dup(int(f.Fd()))
		must(t, err)
		keep = append(keep, fd)
		must(t, unix.Dup3(int(ro.Fd()), int(f.Fd()), unix.O_CLOEXEC))
	}
	err = s.Put(map[string][]byte{"a/b": []byte("2")})
	if err == nil || !strings.Contains(err.Error(), s.Path()) {
		t.Errorf("got %v, want an error that names %s", err, s.Path())
	}
	t.Log(err)
	if v, _, err := s.Get("a/b"); string(v) != "1" || err != nil {
		t.Errorf("after a failed write: got %q, %v", v, err)
	}
	for i, f := range []*os.File{s.file, s.journalFile} {
		must(t, unix.Dup3(keep[i], int(f.Fd()), unix.O_CLOEXEC))
		must(t, unix.Close(keep[i]))
	}
	must(t, unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	must(t, ro.Close())
	must(t, s.Put(map[string][]byte{"a/b": []byte("3")}))
}

func TestRecordsChangeTogetherAndSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, s.Put(map[string][]byte{"trust/state": []byte("1"), "trust/root": {}, "install/a": []byte("x")}))
	must(t, s.Put(map[string][]byte{"trust/state": []byte("2"), "install/a": nil, "install/gone": nil}))
	must(t, s.Put(nil))
	must(t, s.Close())
	s = open(t, dir)
	if v, ok, err := s.Get("trust/root"); v == nil || len(v) != 0 || !ok || err != nil {
		t.Errorf("empty record: got %q, %v, %v", v, ok, err)
	}
	all, err := s.List("")
	if len(all) != 2 || string(all["trust/state"]) != "2" || err != nil {
		t.Errorf("records %q, %v", all, err)
	}
	if some, err := s.List("install/"); len(some) != 0 || err != nil {
		t.Errorf("deleted record: %q, %v", some, err)
	}
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.Close())
	must(t, s.Close())
	_, _, err := s.Get("a/b")
	for _, err := range []error{err, s.Put(map[string][]byte{"a/b": nil}), s.Delivered(1), s.EndTransfer("x"), s.Check(ctx)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
}

func TestCloseFinishesWhatIsQueued(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	release := hold(t, s)
	done := make(chan error, 1)
	go func() { done <- s.Put(map[string][]byte{"a/b": []byte("1")}) }()
	until(func() bool { return s.waiting() == 1 })
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	release()
	must(t, <-done)
	must(t, <-closed)
	if v, ok, err := open(t, dir).Get("a/b"); !ok || err != nil {
		t.Errorf("got %q, %v, %v", v, ok, err)
	}
}

func publish(t testing.TB, s *Store, payloads ...string) {
	t.Helper()
	tx := s.Begin("app")
	for _, p := range payloads {
		must(t, tx.Publish("topic", []byte(p), 1, true))
	}
	must(t, tx.Commit(ctx))
}

func payloads(t testing.TB, s *Store, after uint64, n int) (all string) {
	t.Helper()
	messages, err := s.Outbox(after, n)
	must(t, err)
	for _, m := range messages {
		if m.Topic != "topic" || m.QoS != 1 || !m.Retain || m.Application != "app" {
			t.Errorf("message %+v", m)
		}
		all += string(m.Payload)
	}
	return all
}

func TestTheOutboxKeepsMessagesInOrderUntilDelivered(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	publish(t, s, "a", "b")
	select {
	case <-s.Notify():
	default:
		t.Error("no notice of a message that is committed")
	}
	publish(t, s, "c")
	if got := payloads(t, s, 0, 9); got != "abc" {
		t.Errorf("outbox %q", got)
	}
	if got := payloads(t, s, 1, 1); got != "b" {
		t.Errorf("after 1: %q", got)
	}
	must(t, s.Delivered(1, 3, 77))
	if got := payloads(t, s, 0, 9); got != "b" {
		t.Errorf("delivered messages are given again: %q", got)
	}
	must(t, s.Close()) // removes them for good
	s = open(t, dir)
	if got := payloads(t, s, 0, 9); got != "b" {
		t.Errorf("after reopening: %q", got)
	}
	must(t, s.Delivered(2))
	before := s.commits.Load()
	publish(t, s, "d")
	if n := s.commits.Load() - before; n != 1 {
		t.Errorf("%d commits: the removal did not share the next one", n)
	}
	messages, err := s.Outbox(0, 9)
	must(t, err)
	if len(messages) != 1 || messages[0].ID != 4 {
		t.Errorf("ids are given twice: %+v", messages)
	}
	mustCheck(t, s)
}

func TestAFullOutboxDropsTheOldestAndCounts(t *testing.T) {
	s := newStore(t)
	s.outboxLimit = 100 // two or three rows
	sent := []string{"a", "b", "c", "d", "e", "f", "g"}
	for _, p := range sent {
		publish(t, s, p+strings.Repeat(".", 20))
	}
	st, err := s.Stats()
	must(t, err)
	got := strings.ReplaceAll(payloads(t, s, 0, 9), ".", "")
	if !strings.HasSuffix(strings.Join(sent, ""), got) || len(got) == 0 || len(got)+int(st.Dropped) != 7 || st.Outbox > 100 {
		t.Errorf("outbox %q, %+v", got, st)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	s := newStore(t)
	must(t, s.Put(map[string][]byte{"a/b": nil, "a/c": {}}))
	c, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Check(c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestApplicationDataSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	set(t, s, "app", "k", "v")
	must(t, s.Close())
	if got := get(t, open(t, dir), "app", "k"); got != "v" {
		t.Errorf("got %q", got)
	}
}
