package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"dunlin.dev/dunlin/agent/internal/journal"
)

// copyStore as it lies on the disk now, as a power cut right after the last sync would leave it.
func copyStore(t testing.TB, s *Store) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, p := range []string{s.Path(), journalPath(s.Path())} {
		b, err := os.ReadFile(p)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, filepath.Base(p)), b, 0o600))
	}
	return dir
}

func TestALoneEventIsOneWriteOfASectorAndNoCommitOfTheDatabase(t *testing.T) {
	s := newStore(t)
	g := gateOf(s)
	before, err := os.ReadFile(s.Path())
	must(t, err)
	for i := range 10 {
		set(t, s, "app", fmt.Sprint(i), strings.Repeat("x", 200))
	}
	after, err := os.ReadFile(s.Path())
	must(t, err)
	if g.syncs.Load() != 10 || s.journal.Used() != 10*journal.SectorSize || !bytes.Equal(before, after) {
		t.Errorf("%d syncs, %d bytes of the journal, database unchanged: %v", g.syncs.Load(), s.journal.Used(), bytes.Equal(before, after))
	}
	again := open(t, copyStore(t, s))
	for i := range 10 {
		if got := get(t, again, "app", fmt.Sprint(i)); len(got) != 200 {
			t.Errorf("after a power cut: %d is %q", i, got)
		}
	}
	mustCheck(t, again)
}

// Folds, large groups, messages and deletions over many rounds and power cuts, against a map.
func TestWhatIsFoldedIsWhatWasCommitted(t *testing.T) {
	smallJournal(t)
	s := open(t, t.TempDir())
	r := seed(t)
	model := map[string]string{}
	newest, folds := uint64(0), 0
	for round := range 600 {
		tx := s.Begin("app")
		for range 1 + r.IntN(4) {
			k := strconv.Itoa(r.IntN(50))
			if r.IntN(4) == 0 {
				must(t, tx.Delete("default", k))
				delete(model, k)
				continue
			}
			v := strings.Repeat(strconv.Itoa(round%10), r.IntN(800))
			if r.IntN(40) == 0 {
				v = strings.Repeat("L", 20_000+r.IntN(80_000)) // straight to the database, some of it larger than the journal
			}
			must(t, tx.Set("default", k, []byte(v)))
			model[k] = v
		}
		must(t, tx.Publish("topic", []byte(strconv.Itoa(round)), 1, false))
		used := s.journal.Used()
		must(t, tx.Commit(ctx))
		if s.journal.Used() < used {
			folds++
		}
		messages, err := s.Outbox(0, 10)
		must(t, err)
		if n := len(messages); n == 0 || messages[n-1].ID <= newest {
			t.Fatalf("round %d: message ids do not grow: %v", round, messages)
		} else {
			newest = messages[n-1].ID
		}
		for _, m := range messages {
			must(t, s.Delivered(m.ID))
		}
		if round%40 == 39 {
			dir := copyStore(t, s)
			if r.IntN(2) == 0 {
				must(t, s.Close())
				dir = copyStore(t, s)
			}
			s = open(t, dir)
			mustCheck(t, s)
			messages, err := s.Outbox(0, 10) // a message that was delivered may be there again, under its id
			must(t, err)
			for _, m := range messages {
				must(t, s.Delivered(m.ID))
			}
		}
		for range 5 {
			k := strconv.Itoa(r.IntN(50))
			want, ok := model[k]
			if !ok {
				want = "(none)"
			}
			if got := get(t, s, "app", k); got != want {
				t.Fatalf("round %d: %s has %d bytes, want %d", round, k, len(got), len(want))
			}
		}
		keys, err := s.Begin("app").Keys("default", "", 0)
		must(t, err)
		if len(keys) != len(model) {
			t.Fatalf("round %d: %d keys, want %d", round, len(keys), len(model))
		}
	}
	if got, want := fmt.Sprint(s.usage), fmt.Sprint(counted(t, s)); got != want {
		t.Errorf("counted %s, there are %s", got, want)
	}
	if folds < 5 {
		t.Errorf("%d folds: the test shows too little", folds)
	}
}

func TestSerialisableOverFolds(t *testing.T) {
	before := journalSize
	journalSize = 8 << 10
	t.Cleanup(func() { journalSize = before })
	history(t, true)
}

// The bytes are on the disk, and the sync says that they aren't: what is told to have failed never comes back.
func TestAGroupWhoseSyncFailedIsNowhereAlsoAfterAPowerCut(t *testing.T) {
	s := newStore(t)
	set(t, s, "app", "a", "1")
	broken := errors.New("input/output error")
	gateOf(s).fail.Store(&broken)
	tx := s.Begin("app")
	must(t, tx.Set("default", "a", []byte("2")))
	if err := tx.Commit(ctx); !errors.Is(err, broken) || !strings.Contains(err.Error(), s.Path()) {
		t.Errorf("got %v, want the disk's error and the path", err)
	}
	if got := get(t, open(t, copyStore(t, s)), "app", "a"); got != "1" {
		t.Errorf("after a power cut: a is %q", got)
	}
	gateOf(s).fail.Store(nil)
	set(t, s, "app", "b", "3")
	again := open(t, copyStore(t, s))
	for _, s := range []*Store{s, again} {
		if a, b := get(t, s, "app", "a"), get(t, s, "app", "b"); a != "1" || b != "3" {
			t.Errorf("a is %q, b is %q", a, b)
		}
	}
}

// Each sector in turn: what was committed before it is there, what comes after it isn't made up, and the journal is kept.
func TestADamagedJournalIsKeptAndCostsNothingBeforeTheDamage(t *testing.T) {
	smallJournal(t)
	s := open(t, t.TempDir())
	set(t, s, "app", "folded", "1")
	must(t, s.Close())
	s = open(t, filepath.Dir(s.Path()))
	const events = 12
	for i := range events {
		set(t, s, "app", fmt.Sprint(i), strings.Repeat("x", 300*(i%4)))
	}
	used := s.journal.Used()
	from := copyStore(t, s)
	db, err := os.ReadFile(storePath(from))
	must(t, err)
	raw, err := os.ReadFile(journalPath(storePath(from)))
	must(t, err)
	r := seed(t)
	for _, size := range []int{0, 700, used / 2, used, len(raw) - 1} {
		checkDamagedJournal(t, db, raw[:size], events)
	}
	for sector := 0; sector < used/journal.SectorSize; sector++ {
		for name, damage := range damages {
			b := bytes.Clone(raw)
			damage(r, b[sector*journal.SectorSize:][:journal.SectorSize], append(bytes.Clone(db), raw...))
			if name != "torn" && !bytes.Equal(b, raw) { // a sector is longer than what that one leaves
				checkDamagedJournal(t, db, b, events)
			}
		}
	}
}

func checkDamagedJournal(t *testing.T, db, raw []byte, events int) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(storePath(dir), db, 0o600))
	must(t, os.WriteFile(journalPath(storePath(dir)), raw, 0o600))
	s, err := Open(dir, quiet, atTestTime)
	must(t, err)
	n := 0
	for ; n < events && get(t, s, "app", fmt.Sprint(n)) == strings.Repeat("x", 300*(n%4)); n++ {
	}
	keys, err := s.Begin("app").Keys("default", "", 0)
	must(t, err)
	if len(keys) != n+1 || get(t, s, "app", "folded") != "1" {
		t.Errorf("%d events are there, and the keys are %q", n, keys)
	}
	last := len(raw) == int(journalSize) && n == events-1 // a last frame that is gone to the last byte was never there
	if s.Recovered() == "" {
		if n < events && !last {
			t.Errorf("%d of %d events, and nobody is told", n, events)
		}
	} else if kept, err := os.ReadFile(s.Recovered()); err != nil || !bytes.Equal(kept, raw) {
		t.Errorf("the damaged journal is not kept: %v", err)
	}
	mustCheck(t, s)
	must(t, s.Put(map[string][]byte{"a/b": []byte("1")}))
	must(t, s.Close())
	s, err = Open(dir, quiet, atTestTime)
	must(t, err)
	if s.Recovered() != "" {
		t.Errorf("damage is told twice")
	}
	must(t, s.Close())
}

// Frames of another database don't get into this one, and a database without its journal starts.
func TestAJournalBelongsToItsDatabase(t *testing.T) {
	one, two := open(t, t.TempDir()), open(t, t.TempDir())
	set(t, one, "app", "k", "1")
	set(t, two, "app", "k", "2")
	dir := copyStore(t, one)
	raw, err := os.ReadFile(journalPath(two.Path()))
	must(t, err)
	must(t, os.WriteFile(journalPath(storePath(dir)), raw, 0o600))
	s := open(t, dir)
	if got := get(t, s, "app", "k"); got != "(none)" || s.Recovered() == "" {
		t.Errorf("k is %q, recovered %q", got, s.Recovered())
	}
	dir = copyStore(t, one)
	must(t, os.Remove(journalPath(storePath(dir))))
	s = open(t, dir)
	set(t, s, "app", "k", "3")
	if got := get(t, open(t, copyStore(t, s)), "app", "k"); got != "3" {
		t.Errorf("k is %q", got)
	}
}

// A file of the schema before journals goes on, with its rows and the numbers of its messages.
func TestADatabaseFromBeforeTheJournalOpens(t *testing.T) {
	dir := t.TempDir()
	db, err := bolt.Open(storePath(dir), 0o600, options(os.OpenFile))
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		must(t, migrations[0](tx))
		must(t, tx.Bucket(bucketMeta).Put(keySchema, seal(keySchema, []byte{0, 0, 0, 1})))
		key := recordKey("a/b")
		must(t, tx.Bucket(bucketData).SetSequence(41))
		return tx.Bucket(bucketData).Put(key, seal(key, []byte("old")))
	}))
	must(t, db.Update(func(*bolt.Tx) error { return nil }))
	must(t, db.Close())
	s := open(t, dir)
	if v, _, err := s.Get("a/b"); string(v) != "old" || err != nil || s.Recovered() != "" {
		t.Errorf("got %q, %v, recovered %q", v, err, s.Recovered())
	}
	publish(t, s, "m")
	if m, err := s.Outbox(0, 1); err != nil || len(m) != 1 || m[0].ID != 42 {
		t.Errorf("messages %v, %v", m, err)
	}
	mustCheck(t, s)
}
