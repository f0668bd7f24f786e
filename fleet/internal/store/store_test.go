package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
	"go.etcd.io/bbolt"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestDatabaseIsPrivateAndHalfMadeOnesAreMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	if err := os.WriteFile(path+".new", []byte("a power cut was here"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the half-made file is still there")
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "another fleet server") {
		t.Errorf("a second server: %v", err)
	}
}

func TestFilesThatAreNoFleetDatabaseAreRefused(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "foreign.db")
	db, err := bbolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	s, err := Open(newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.PutServer(map[string][]byte{"format": {Format + 1}}), s.Close()); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{foreign, newer, text} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("open %s: %v; want an error that names it", path, err)
		}
	}
}

func TestNewestMetadataIsByVersionAndOldOnesGo(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	if _, err := s.Metadata(trust.Timestamp, 0); !errors.Is(err, ErrNotFound) {
		t.Fatalf("of an empty store: %v", err)
	}
	for v := int64(1); v <= 300; v += 13 {
		p := Publication{Metadata: []Metadata{
			{Role: trust.Timestamp, Version: v, Bytes: []byte{byte(v)}}, {Role: trust.Root, Version: v, Bytes: []byte{byte(v)}}, {Role: trust.Targets, Version: v, Bytes: []byte{byte(v)}},
		}}
		if err := s.Publish(p); err != nil {
			t.Fatal(err)
		}
		for _, role := range []trust.Role{trust.Root, trust.Targets, trust.Timestamp} {
			if m, err := s.Metadata(role, 0); err != nil || m.Version != v || m.Bytes[0] != byte(v) {
				t.Fatalf("newest %s: version %d, %v; want %d", role, m.Version, err, v)
			}
		}
	}
	if _, err := s.Metadata(trust.Snapshot, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("a role without files, between others: %v", err)
	}
	for version, there := range map[int64]bool{1: false, 300 - 13*kept: false, 300 - 13*(kept-1): true} {
		if _, err := s.Metadata(trust.Timestamp, version); (err == nil) != there {
			t.Errorf("timestamp %d: %v, want it there: %v", version, err, there)
		}
	}
	if _, err := s.Metadata(trust.Root, 1); err != nil {
		t.Errorf("the first root is gone: %v", err)
	}
}

func TestOffersAreBounded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	const room = 5
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketOffers).SetSequence(maxOffers - room) })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 * room {
		id := wire.Sum(number(uint64(i)))
		for range 2 { // the same again counts once
			if err := s.PutOffer(id, Offer{BlockBytes: i}); err != nil {
				t.Fatal(err)
			}
		}
		if o, err := s.Offer(id); i < room && (err != nil || o.BlockBytes != i) {
			t.Fatalf("offer %d: %+v, %v", i, o, err)
		}
	}
	n := 0
	err = s.db.View(func(tx *bbolt.Tx) error {
		n = tx.Bucket(bucketOffers).Stats().KeyN
		return nil
	})
	if err != nil || n != room {
		t.Errorf("%d offers, %v; there was room for %d", n, err, room)
	}
}
