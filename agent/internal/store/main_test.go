package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/journal"
)

// roles that the test binary plays as a process of its own, by the variable that names its directory: the one that is killed, or that
// holds the lock, and the one whose calls are recorded.
var roles = map[string]func(dir string){"STORE_TEST_VICTIM": victim}

func TestMain(m *testing.M) {
	for name, play := range roles {
		if dir := os.Getenv(name); dir != "" {
			play(dir)
		}
	}
	os.Exit(m.Run())
}

var quiet = slog.New(slog.DiscardHandler)

func atTestTime() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, quiet, atTestTime)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{File: dataFile{s.journalFile}}
	s.journal = journal.New(g, journalSize, s.mark.salt) // Open left it empty
	gates.Store(s, g)
	t.Cleanup(func() { _ = s.Close(); gates.Delete(s) })
	return s
}

// smallJournal is folded often.
func smallJournal(t testing.TB) {
	before := journalSize
	journalSize = 64 << 10
	t.Cleanup(func() { journalSize = before })
}

// gate stands between a store and its journal's file.
type gate struct {
	journal.File
	sync.Mutex // held: no sync ends
	fail       atomic.Pointer[error]
	syncs      atomic.Int64
	blocks     atomic.Int64 // of 4 KiB, which is what a disk writes
	bytes      atomic.Int64
	delay      time.Duration
}

var gates sync.Map // of *gate, by *Store

func gateOf(s *Store) *gate {
	g, _ := gates.Load(s)
	return g.(*gate)
}

func (g *gate) WriteAt(p []byte, off int64) (int, error) {
	g.bytes.Add(int64(len(p)))
	g.blocks.Add((off+int64(len(p))+4095)/4096 - off/4096)
	return g.File.WriteAt(p, off)
}

func (g *gate) Sync() error {
	g.Lock()
	defer g.Unlock()
	g.syncs.Add(1)
	if g.delay > 0 {
		<-time.After(g.delay)
	}
	if err := g.File.Sync(); err != nil {
		return err
	}
	if e := g.fail.Load(); e != nil {
		return *e // after the bytes reached the disk, which is the worse half
	}
	return nil
}

// newStore is checked when the test ends.
func newStore(t testing.TB) *Store {
	t.Helper()
	s := open(t, t.TempDir())
	t.Cleanup(func() { mustCheck(t, s) })
	return s
}

func mustCheck(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Check(context.Background()); err != nil {
		t.Error(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seed(t testing.TB) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if v := os.Getenv("STORE_TEST_SEED"); v != "" {
		_, err := fmt.Sscan(v, &n)
		must(t, err)
	}
	t.Logf("STORE_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

func randomBlob(r *rand.Rand, n int) (digest string, data []byte) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], r.Uint64())
	data = make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data)
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data)), data
}

func putBlob(t testing.TB, s *Store, digest string, data []byte) {
	t.Helper()
	must(t, s.PutBlob(digest, int64(len(data)), bytes.NewReader(data)))
}

func set(t testing.TB, s *Store, app, key, value string) {
	t.Helper()
	tx := s.Begin(app)
	must(t, tx.Set("default", key, []byte(value)))
	must(t, tx.Commit(context.Background()))
}

func get(t testing.TB, s *Store, app, key string) string {
	t.Helper()
	v, ok, err := s.Begin(app).Get("default", key)
	must(t, err)
	if !ok {
		return "(none)"
	}
	return string(v)
}
