package store

import (
	"bytes"
	"log/slog"
	"os"
	"testing"
	"time"
)

// One record's damage must not end the agent at every start: what it said is fetched again, and the rest is there.
func TestADamagedRecordOrMessageIsDroppedAtOpenAndTheRestStays(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(map[string][]byte{"install/a": []byte("the-damaged-record"), "install/b": []byte("sound")}); err != nil {
		t.Fatal(err)
	}
	tx := s.Begin("a")
	for _, payload := range []string{"the-damaged-message", "sound"} {
		if err := tx.Publish("t", []byte(payload), 1, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := s.Path()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, mark := range []string{"the-damaged-record", "the-damaged-message"} {
		if !bytes.Contains(b, []byte(mark)) {
			t.Fatalf("the file has no %q", mark)
		}
		b = bytes.ReplaceAll(b, []byte(mark), bytes.Replace([]byte(mark), []byte("m"), []byte("M"), 1))
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start finds nothing wrong any more
		s, err = Open(dir, slog.New(slog.DiscardHandler), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if s.Recovered() != "" {
			t.Errorf("the whole database was set aside as %s", s.Recovered())
		}
		records, err := s.List("install/")
		if err != nil || len(records) != 1 || string(records["install/b"]) != "sound" {
			t.Errorf("records %q, %v", records, err)
		}
		messages, err := s.Outbox(0, 10)
		if err != nil || len(messages) != 1 || string(messages[0].Payload) != "sound" {
			t.Errorf("messages %v, %v", messages, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
