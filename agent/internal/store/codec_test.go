package store

import (
	"bytes"
	"errors"
	"hash/fnv"
	"testing"
	"time"
)

func fnvOf(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func FuzzRow(f *testing.F) {
	f.Add([]byte("ra/b"), seal([]byte("ra/b"), []byte("value")))
	f.Add([]byte("ra/b"), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, key, row []byte) {
		v, err := unseal(key, row)
		if err != nil {
			if v != nil || !errors.Is(err, ErrDamaged) {
				t.Fatalf("got %q with %v", v, err)
			}
		} else if again := seal(key, v); !bytes.Equal(again, row) {
			t.Fatalf("%x reads as %x, which is written as %x", row, v, again)
		}
		if v, err := unseal(key, seal(key, row)); err != nil || !bytes.Equal(v, row) {
			t.Fatalf("%x comes back as %x, %v", row, v, err)
		}
	})
}

func FuzzValueKey(f *testing.F) {
	f.Add(append(valuePrefix("app", "default"), "key"...))
	f.Add([]byte("k\x01a\x00x"))
	f.Fuzz(func(t *testing.T, k []byte) {
		app, store, key, err := parseValueKey(k)
		if err != nil {
			if app+store+key != "" {
				t.Fatalf("got %q %q %q with %v", app, store, key, err)
			}
			return
		}
		if again := append(valuePrefix(app, store), key...); !bytes.Equal(again, k) {
			t.Fatalf("%x is written as %x", k, again)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(uint64(2), encodeMessage(Message{Application: "app", Topic: "a/b", Payload: []byte("x"), Sequence: 9, Stamp: Stamp{time.UnixMilli(5), 2, [16]byte{1}, time.Second}}))
	f.Add(uint64(1), encodeMessage(Message{Application: "app", Topic: "a/b", Payload: []byte("x"), QoS: 2, Retain: true}))
	f.Add(uint64(2), []byte{3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, id uint64, value []byte) {
		m, err := decodeMessage(id, value)
		if err != nil {
			if m.Topic != "" || m.Payload != nil {
				t.Fatalf("got %+v with %v", m, err)
			}
			return
		}
		if again := encodeMessage(m); m.ID != id || !bytes.Equal(again, value) {
			t.Fatalf("%x is written as %x", value, again)
		}
	})
}

// A meta page and a leaf, both arbitrary but for checksum: verify must never panic or loop.
func FuzzVerify(f *testing.F) {
	f.Add([]byte("x"), []byte("y"))
	f.Fuzz(func(t *testing.T, first, rest []byte) {
		file := make([]byte, 6*pageSize)
		copy(file[pageHeader:], first)
		m := file[pageHeader:]
		copy(m, []byte{0xED, 0xDA, 0x0C, 0xED, boltVersion, 0, 0, 0, 0, 0x10, 0, 0})
		file[8] = flagMeta
		for i := range 8 {
			m[32+i] = 0xff // no free list
		}
		sum := fnvOf(m[:56])
		for i := range 8 {
			m[56+i] = byte(sum >> (8 * i))
		}
		copy(file[2*pageSize:], rest)
		_, err := verify(bytes.NewReader(file), int64(len(file)))
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
	})
}

func TestAMessageKeepsTheTimeAtWhichItWasPublished(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	stamp := Stamp{At: time.UnixMilli(1_800_000_000_123), Clock: 2, Boot: [16]byte{7}, Up: 5 * time.Second}
	tx := s.Begin("app").Stamp(func() Stamp { return stamp })
	must(t, tx.Publish("uplink:a", []byte("x"), 1, false))
	must(t, tx.Commit(ctx))
	must(t, s.Close())
	s = open(t, dir)
	m, _, err := s.Uplinks(s.Lanes()[0].ID, 0, 1, 1)
	if err != nil || len(m) != 1 || m[0].Stamp != stamp || m[0].Sequence != 1 || string(m[0].Payload) != "x" {
		t.Errorf("%+v, %v", m, err)
	}
}
