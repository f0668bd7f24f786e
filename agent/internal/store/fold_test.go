package store

import (
	"testing"
	"time"
)

// The group is in the journal, and a power cut would not undo it: whoever was told that it failed would do it again.
func TestACommitWhoseRoomCanNotBeMadeHasHappened(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, send(s, "app", "t", "shed", Stamp{}))
	wait := func(queued, pending int) { // jobs, and rows that they and those in the group write
		t.Helper()
		for {
			s.mu.Lock()
			there := len(s.queue) == queued && len(s.pending) == pending
			s.mu.Unlock()
			if there {
				return
			}
			if t.Context().Err() != nil {
				t.Fatal("nothing is queued")
			}
			<-time.After(time.Millisecond)
		}
	}
	set := func(key string) chan error {
		done := make(chan error, 1)
		tx := s.Begin("app")
		must(t, tx.Set("default", key, []byte("1")))
		go func() { done <- tx.Commit(ctx) }()
		return done
	}
	s.ruling.Lock() // what comes after this one goes into one group
	first := set("first")
	wait(0, 1)
	shed := make(chan error, 1)
	go func() { _, err := s.ShedOutbox(High, 1); shed <- err }()
	wait(1, 1)
	event := set("event")
	wait(2, 2)
	must(t, s.file.Close()) // no write to the database succeeds any more
	s.ruling.Unlock()
	must(t, <-first)
	if err := <-event; err != nil {
		t.Errorf("the event is told that it failed: %v", err)
	}
	if err := <-shed; err != nil {
		t.Errorf("what was shed is told that it failed: %v", err)
	}
	if v, ok, err := s.Begin("app").Get("default", "event"); err != nil || !ok || string(v) != "1" {
		t.Errorf("it reads %q, %v, %v", v, ok, err)
	}
}
