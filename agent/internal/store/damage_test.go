package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// content of a store of a few hundred pages, with everything in it that there can be.
type content struct {
	path    string
	raw     []byte
	journal []byte
	used    int // pages; behind them is only room to grow
	records map[string]string
	values  map[string]string
	blobs   map[string][]byte
	target  string
	blocks  [][]byte
	outbox  []string
}

func fill(t *testing.T, r *rand.Rand) *content {
	t.Helper()
	smallJournal(t)
	dir := t.TempDir()
	s := open(t, dir)
	c := &content{path: storePath(dir), records: map[string]string{}, values: map[string]string{}, blobs: map[string][]byte{}}
	changes := map[string][]byte{}
	for i := range 60 {
		k, v := fmt.Sprintf("area/%03d", i), strings.Repeat("r", r.IntN(500))
		changes[k], c.records[k] = []byte(v), v
	}
	must(t, s.Put(changes))
	for e := range 20 {
		tx := s.Begin("app")
		for i := range 30 {
			k, v := fmt.Sprintf("%d-%d", e, i), strings.Repeat("v", r.IntN(200))
			c.values[k] = v
			must(t, tx.Set("default", k, []byte(v)))
		}
		p := strings.Repeat("p", r.IntN(1000))
		c.outbox = append(c.outbox, p)
		must(t, tx.Publish("topic", []byte(p), 1, false))
		must(t, tx.Commit(ctx))
	}
	for _, n := range []int{0, 10, 5000, chunkSize + 100} {
		d, data := randomBlob(r, n)
		c.blobs[d] = data
		putBlob(t, s, d, data)
	}
	gone, data := randomBlob(r, 100000) // free pages in the middle
	putBlob(t, s, gone, data)
	must(t, s.DeleteBlob(gone))
	c.target, _ = randomBlob(r, 1)
	must(t, s.BeginTransfer(c.target, []byte("offer")))
	blocks := map[int][]byte{}
	for i := range 20 {
		_, b := randomBlob(r, 1000+r.IntN(4000))
		c.blocks = append(c.blocks, b)
		blocks[i] = b
	}
	must(t, s.PutBlocks(c.target, blocks))
	for range 2 { // both meta pages say the same
		must(t, s.update(func(*bolt.Tx) error { return nil }))
	}
	must(t, s.Close())
	var err error
	c.raw, err = os.ReadFile(c.path)
	must(t, err)
	c.journal, err = os.ReadFile(journalPath(c.path))
	must(t, err)
	m, _, err := readMetas(bytes.NewReader(c.raw), int64(len(c.raw)))
	must(t, err)
	c.used = int(m.pages)
	return c
}

// read everything. Anything that differs without an error is a wrong answer. With missing, rows may be absent: in a file
// that is damaged while it is open bbolt may pass over them.
func (c *content) read(s *Store, missing bool) (wrong []string, failed int) {
	report := func(what string, ok bool, got, want []byte, err error) {
		switch {
		case err != nil:
			failed++
		case !ok && missing:
		case !ok || !bytes.Equal(got, want):
			wrong = append(wrong, fmt.Sprintf("%s: %v, %d bytes of %d", what, ok, len(got), len(want)))
		}
	}
	for k, want := range c.records {
		v, ok, err := s.Get(k)
		report("record "+k, ok, v, []byte(want), err)
	}
	tx := s.Begin("app")
	for k, want := range c.values {
		v, ok, err := tx.Get("default", k)
		report("value "+k, ok, v, []byte(want), err)
	}
	keys, err := tx.Keys("default", "", 0)
	report("keys", len(keys) == len(c.values), nil, nil, err)
	for d, want := range c.blobs {
		v, ok, err := readBlobOnly(s, d)
		if !ok && err == nil { // a damaged name: the blob is fetched again
			failed++
			continue
		}
		report("blob "+d, ok, v, want, err)
	}
	var messages []Message
	for more := true; more; { // the good ones before a damaged one come first, then the error
		var part []Message
		part, err = s.Outbox(uint64(len(messages)), 1000)
		messages = append(messages, part...)
		more = err == nil && len(part) > 0
	}
	for i, m := range messages {
		if !missing || i < len(c.outbox) && m.ID == uint64(i+1) {
			report("message", true, m.Payload, []byte(c.outbox[i]), nil)
		}
	}
	report("outbox", len(messages) == len(c.outbox), nil, nil, err)
	rd, err := s.TransferReader(c.target, len(c.blocks))
	if err == nil {
		var got []byte
		got, err = io.ReadAll(rd)
		report("blocks", true, got, slices.Concat(c.blocks...), err)
	} else {
		report("blocks", errors.Is(err, ErrNoTransfer) && missing, nil, nil, err)
	}
	return wrong, failed
}

// readBlobOnly is Blob without its repair, which would change the file that the test goes on with.
func readBlobOnly(s *Store, d string) (data []byte, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) { data, ok, err = readBlob(tx, d); return err })
	return data, ok, err
}

// damages of one page. Each changes b in place; the rest of the file is there to take from.
var damages = map[string]func(r *rand.Rand, b, file []byte){
	"a bit":    func(r *rand.Rand, b, _ []byte) { b[r.IntN(len(b))] ^= 1 << r.IntN(8) },
	"the head": func(r *rand.Rand, b, _ []byte) { b[r.IntN(48)] ^= byte(1 + r.IntN(255)) },
	"ten bytes": func(r *rand.Rand, b, _ []byte) {
		for range 10 {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
	},
	"zeroes":    func(_ *rand.Rand, b, _ []byte) { clear(b) },
	"torn":      func(_ *rand.Rand, b, _ []byte) { clear(b[512:]) },
	"misplaced": func(r *rand.Rand, b, file []byte) { copy(b, file[r.IntN(50)*pageSize:][:pageSize]) },
}

func TestADamagedPageIsAnErrorOrSetAsideNeverAWrongAnswer(t *testing.T) {
	r := seed(t)
	c := fill(t, r)
	aside, failed, fine := 0, 0, 0
	dir := t.TempDir()
	path := storePath(dir)
	step := 1
	if testing.Short() {
		step = 7
	}
	for page := r.IntN(step); page < c.used; page += step {
		for name, damage := range damages {
			must(t, os.WriteFile(path, c.raw, 0o600)) // opening drops what nobody could read
			must(t, os.WriteFile(journalPath(path), c.journal, 0o600))
			b := bytes.Clone(c.raw[page*pageSize:][:pageSize])
			damage(r, b, c.raw)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			if page < 2 { // opening repairs a meta page
				_, err = f.WriteAt(c.raw[:2*pageSize], 0)
				must(t, err)
			}
			_, err = f.WriteAt(b, int64(page*pageSize))
			must(t, err)
			must(t, f.Close())
			s, err := openFile(path, quiet, atTestTime())
			if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewer) {
				aside++
				continue
			}
			if err != nil {
				t.Fatalf("page %d, %s: %v", page, name, err)
			}
			wrong, n := c.read(s, s.damaged > 0) // a row with a damaged key is absent, and was reported
			if n > 0 || s.damaged > 0 {
				failed++
			} else {
				fine++
			}
			if len(wrong) > 0 {
				t.Errorf("page %d, %s: wrong without an error: %s", page, name, wrong)
			}
			must(t, s.db.Close())
			must(t, s.journalFile.Close())
		}
	}
	t.Logf("%d pages: %d set aside, %d errors when read, %d without effect", c.used, aside, failed, fine)
	if aside == 0 || failed == 0 || fine == 0 {
		t.Error("the damage does not reach every outcome: the test shows too little")
	}
}

func TestATruncatedFileIsSetAside(t *testing.T) {
	c := fill(t, seed(t))
	path := storePath(t.TempDir())
	for pages := range c.used + 3 {
		for _, size := range []int{pages * pageSize, pages*pageSize + 700} {
			must(t, os.WriteFile(path, c.raw[:size], 0o600))
			must(t, os.WriteFile(journalPath(path), c.journal, 0o600))
			s, err := openFile(path, quiet, atTestTime())
			if pages < c.used {
				if !errors.Is(err, ErrDamaged) {
					t.Fatalf("%d bytes: got %v, want ErrDamaged", size, err)
				}
				continue
			}
			must(t, err)
			if wrong, n := c.read(s, false); n > 0 || len(wrong) > 0 {
				t.Fatalf("%d bytes: %d errors, wrong: %s", size, n, wrong)
			}
			must(t, s.db.Close())
			must(t, s.journalFile.Close())
		}
	}
}

// The file changes under an open store, as a failing card does it when the kernel reads a page again.
func TestDamageUnderAnOpenStoreIsAnErrorNotACrash(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7)) // fixed: a page that points at its own ancestor would overflow the stack, which nobody can catch
	c := fill(t, r)
	s := open(t, filepath.Dir(c.path))
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	failures := 0
	for page := 2; page < c.used; page++ {
		for _, name := range []string{"a bit", "the head", "zeroes", "torn", "ten bytes"} {
			b := bytes.Clone(c.raw[page*pageSize:][:pageSize])
			damages[name](r, b, c.raw)
			_, err := f.WriteAt(b, int64(page*pageSize))
			must(t, err)
			wrong, failed := c.read(s, true)
			if len(wrong) > 0 {
				t.Errorf("page %d, %s: wrong without an error: %s", page, name, wrong)
			}
			failures += failed
			_, err = f.WriteAt(c.raw[page*pageSize:][:pageSize], int64(page*pageSize))
			must(t, err)
		}
	}
	if failures == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d reads failed", failures)
	if wrong, n := c.read(s, false); len(wrong) > 0 || n > 0 {
		t.Errorf("after the damage was undone: %d errors, wrong: %s", n, wrong)
	}
	// The file is cut short: pages beyond its end fault.
	must(t, f.Truncate(8*pageSize))
	_, failed := c.read(s, true)
	if failed == 0 {
		t.Error("reading beyond the end of the file is no error")
	}
	err = s.Put(map[string][]byte{"a/b": []byte("c")})
	if err == nil || !strings.Contains(err.Error(), c.path) {
		t.Errorf("writing: got %v, want an error that names %s", err, c.path)
	}
	t.Log(err)
	must(t, f.Truncate(int64(len(c.raw)))) // or Close would fault
}

func TestADamagedStoreIsSetAsideAndKept(t *testing.T) {
	dir := t.TempDir()
	for i, raw := range []string{"", "garbage", strings.Repeat("x", 100000), strings.Repeat("\x00", 100000), "again"} {
		must(t, os.WriteFile(storePath(dir), []byte(raw), 0o600))
		s, err := Open(dir, quiet, atTestTime)
		must(t, err)
		want := filepath.Join(dir, "store.damaged-20260304T050607Z.db")
		if i > 0 && i < 3 {
			want = filepath.Join(dir, fmt.Sprintf("store.damaged-20260304T050607Z-%d.db", i+1))
		}
		if i < 3 && s.Recovered() != want {
			t.Errorf("%d: recovered %q, want %q", i, s.Recovered(), want)
		}
		if got, err := os.ReadFile(s.Recovered()); string(got) != raw || err != nil {
			t.Errorf("%d: the damaged file is not kept as it was: %v", i, err)
		}
		must(t, s.Put(map[string][]byte{"a/b": []byte("1")}))
		must(t, s.Close())
	}
	kept, err := filepath.Glob(filepath.Join(dir, "store.damaged-*.db"))
	must(t, err)
	journals, err := filepath.Glob(filepath.Join(dir, "store.damaged-*.journal"))
	must(t, err)
	if len(kept) != keepDamaged || len(journals) != keepDamaged {
		t.Errorf("kept %q and %q, want %d of each", kept, journals, keepDamaged)
	}
	s := open(t, dir)
	if v, ok, err := s.Get("a/b"); s.Recovered() != "" || !ok || string(v) != "1" || err != nil {
		t.Errorf("a sound store: recovered %q, got %q, %v, %v", s.Recovered(), v, ok, err)
	}
}
