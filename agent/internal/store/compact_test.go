package store

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// compactAlways lowers what is worth it.
func compactAlways(t *testing.T) {
	before := worth
	worth = 1 << 20
	t.Cleanup(func() { worth = before })
}

// compactAnyway: also where it isn't worth it.
func compactAnyway(s *Store) error {
	before, err := s.Stats()
	if err == nil {
		_, err = s.replace(before)
	}
	return err
}

func TestAFileThatMostlyHoldsNothingIsCompactedWithAllThatItHolds(t *testing.T) {
	compactAlways(t)
	dir := t.TempDir()
	s := open(t, dir)
	r := seed(t)
	kept, data := randomBlob(r, 300_000)
	putBlob(t, s, kept, data)
	gone, more := randomBlob(r, 8_000_000)
	putBlob(t, s, gone, more)
	for i := range 50 {
		tx := s.Begin("app")
		must(t, tx.Set("default", fmt.Sprint(i), []byte(strings.Repeat("v", i))))
		must(t, tx.Publish("topic", []byte(fmt.Sprint(i)), 1, false))
		must(t, tx.Publish("uplink:topic", []byte(fmt.Sprint(i)), 1, false))
		must(t, tx.Commit(ctx))
	}
	target, _ := randomBlob(r, 1)
	must(t, s.BeginTransfer(target, []byte("offer")))
	must(t, s.PutBlocks(target, map[int][]byte{3: []byte("block")}))
	if freed, err := s.Compact(); freed != 0 || err != nil {
		t.Fatalf("compacted a full file: %d, %v", freed, err)
	}
	must(t, s.DeleteBlob(gone))
	before, err := os.Stat(s.Path())
	must(t, err)

	// Others read and commit meanwhile, and lose nothing.
	var others sync.WaitGroup
	for i := range 4 {
		others.Go(func() {
			for n := range 50 {
				tx := s.Begin("other")
				if err := tx.Set("default", fmt.Sprintf("%d-%d", i, n), []byte("x")); err != nil {
					t.Error(err)
				}
				if err := tx.Commit(ctx); err != nil {
					t.Error(err)
				}
				if _, _, err := s.Blob(kept); err != nil {
					t.Error(err)
				}
			}
		})
	}
	freed, err := s.Compact()
	must(t, err)
	others.Wait()
	after, err := os.Stat(s.Path())
	must(t, err)
	if freed < 7_000_000 || after.Size() > before.Size()-freed {
		t.Errorf("freed %d: %d bytes, were %d", freed, after.Size(), before.Size())
	}
	check := func(s *Store) {
		t.Helper()
		must(t, s.Check(ctx))
		for i := range 50 {
			if got := get(t, s, "app", fmt.Sprint(i)); got != strings.Repeat("v", i) {
				t.Errorf("%d is %q", i, got)
			}
		}
		for i := range 4 {
			for n := range 50 {
				if got := get(t, s, "other", fmt.Sprintf("%d-%d", i, n)); got != "x" {
					t.Errorf("%d-%d is %q", i, n, got)
				}
			}
		}
		if b, ok, err := s.Blob(kept); !ok || err != nil || string(b) != string(data) {
			t.Errorf("the blob: %v, %v", ok, err)
		}
		if m, err := s.Outbox(0, 100); len(m) != 50 || err != nil {
			t.Errorf("%d messages, %v", len(m), err)
		}
		if n := s.UplinkStats().Messages; n != 50 {
			t.Errorf("%d messages to the fleet", n)
		}
		if x, ok, err := s.Transfer(target); !ok || err != nil || len(x.Have) != 1 {
			t.Errorf("the transfer: %+v, %v, %v", x, ok, err)
		}
	}
	check(s)
	check(open(t, copyStore(t, s))) // after a power cut
	must(t, s.Close())
	check(open(t, dir))
}

func TestAFileIsCompactedWhenItIsOpened(t *testing.T) {
	compactAlways(t)
	dir := t.TempDir()
	s := open(t, dir)
	r := seed(t)
	digest, data := randomBlob(r, 8_000_000)
	putBlob(t, s, digest, data)
	must(t, s.DeleteBlob(digest))
	set(t, s, "app", "k", "v")
	must(t, s.Close())
	before, err := os.Stat(storePath(dir))
	must(t, err)
	s = open(t, dir)
	after, err := os.Stat(storePath(dir))
	must(t, err)
	if after.Size() > before.Size()/2 || get(t, s, "app", "k") != "v" {
		t.Errorf("%d bytes, were %d; k is %q", after.Size(), before.Size(), get(t, s, "app", "k"))
	}
	if _, err := os.Stat(storePath(dir) + ".tmp"); err == nil {
		t.Error("the new file's name is left over")
	}
}
