package store

import (
	"errors"
	"testing"
	"time"
)

// follower commits key after place, and tells its own place.
func follower(t *testing.T, s *Store, after any, key string) (tx *Tx, place <-chan any) {
	t.Helper()
	placed := make(chan any, 1)
	tx = s.Begin("app").Durable(Batch)
	tx.Follow(after, func(p any) { placed <- p })
	must(t, tx.Set("default", key, []byte("1")))
	return tx, placed
}

func TestACommitComesToNothingWithTheOneThatItFollows(t *testing.T) {
	s := newStore(t)
	s.batchDelay = time.Hour
	set(t, s, "app", "read", "1")
	first, next := follower(t, s, nil, "first")
	_, _, err := first.Get("default", "read")
	must(t, err)
	set(t, s, "app", "read", "2") // what first has read is no more
	ends := make(chan error, 3)
	go func() { ends <- first.Commit(ctx) }()
	place := <-next
	for _, key := range []string{"second", "third"} {
		tx, next := follower(t, s, place, key)
		go func() { ends <- tx.Commit(ctx) }()
		place = <-next
	}
	until(func() bool { return s.waiting() == 3 })
	must(t, commitAs(s, Sync, "flush", "1"))
	var conflicts, early int
	for range 3 {
		switch err := <-ends; {
		case errors.Is(err, ErrConflict):
			conflicts++
		case errors.Is(err, ErrEarly):
			early++
		}
	}
	if conflicts != 1 || early != 2 {
		t.Errorf("%d conflicts, %d early: want 1 and 2", conflicts, early)
	}
	for _, key := range []string{"first", "second", "third"} {
		if v := get(t, s, "app", key); v != "(none)" {
			t.Errorf("%s is %q", key, v)
		}
	}
	s.batchDelay = 0
	tx, _ := follower(t, s, place, "later") // the place stays void
	if err := tx.Commit(ctx); !errors.Is(err, ErrEarly) {
		t.Errorf("behind a void place: %v", err)
	}
	for _, key := range []string{"first", "second", "third"} { // again, in order
		tx, next := follower(t, s, place, key)
		if key == "first" {
			tx, next = follower(t, s, nil, key)
		}
		must(t, tx.Commit(ctx))
		place = <-next
	}
}

func TestWhatFollowsAFailedWriteComesToNothing(t *testing.T) {
	s := newStore(t)
	broken := errors.New("input/output error")
	gateOf(s).fail.Store(&broken)
	first, next := follower(t, s, nil, "first")
	if err := first.Commit(ctx); !errors.Is(err, broken) {
		t.Fatalf("a failed write: %v", err)
	}
	gateOf(s).fail.Store(nil)
	second, _ := follower(t, s, <-next, "second")
	if err := second.Commit(ctx); !errors.Is(err, ErrEarly) {
		t.Errorf("behind a failed write: %v", err)
	}
}

func TestWhatFollowsATransactionThatOnlyReadFollowsWhatThatFollowed(t *testing.T) {
	s := newStore(t)
	s.batchDelay = time.Hour
	first, next := follower(t, s, nil, "first")
	ends := make(chan error, 2)
	go func() { ends <- first.Commit(ctx) }()
	place := <-next
	reader := s.Begin("app")
	_, _, err := reader.Get("default", "other")
	must(t, err)
	read := make(chan any, 1)
	reader.Follow(place, func(p any) { read <- p })
	must(t, reader.Commit(ctx))
	if got := <-read; got != place {
		t.Error("it has another place")
	}
	alone := s.Begin("app")
	alone.Follow(nil, func(p any) { read <- p })
	must(t, alone.Commit(ctx))
	last, _ := follower(t, s, <-read, "last")
	go func() { ends <- last.Commit(ctx) }()
	until(func() bool { return s.waiting() == 2 })
	must(t, commitAs(s, Sync, "flush", "1"))
	must(t, <-ends)
	must(t, <-ends)
}
