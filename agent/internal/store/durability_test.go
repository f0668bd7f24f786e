package store

import (
	"fmt"
	"testing"
	"time"
)

func commitAs(s *Store, d Durability, key, value string) error {
	tx := s.Begin("app").Durable(d)
	if err := tx.Set("default", key, []byte(value)); err != nil {
		return err
	}
	if err := tx.Publish("topic", []byte(value), 1, true); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func TestABatchWaitsForOthersAndSharesTheirWrite(t *testing.T) {
	s := newStore(t)
	s.batchDelay = time.Hour
	done := make(chan error, 10)
	for i := range 5 {
		go func() { done <- commitAs(s, Batch, fmt.Sprint(i), "1") }()
	}
	until(func() bool { return s.waiting() == 5 })
	if n := gateOf(s).syncs.Load(); n != 0 || len(done) != 0 {
		t.Fatalf("%d syncs, %d ended: nobody waits", n, len(done))
	}
	if got := get(t, s, "app", "3"); got != "1" {
		t.Errorf("a waiting write reads as %q", got)
	}
	must(t, commitAs(s, Sync, "sync", "1"))
	for range 5 {
		must(t, <-done)
	}
	if n := gateOf(s).syncs.Load(); n != 1 {
		t.Errorf("%d syncs for one batch", n)
	}
	again := open(t, copyStore(t, s))
	for i := range 5 {
		if got := get(t, again, "app", fmt.Sprint(i)); got != "1" {
			t.Errorf("after a power cut: %d is %q", i, got)
		}
	}
	for range batchJobs { // so many wait for nobody else
		go func() { done <- commitAs(s, Batch, "k", "1") }()
	}
	for range batchJobs {
		must(t, <-done)
	}
	s.batchDelay = 0 // it is over at once
	must(t, commitAs(s, Batch, "alone", "1"))
	if got := get(t, open(t, copyStore(t, s)), "app", "alone"); got != "1" {
		t.Errorf("after a power cut: a batch that was acknowledged is %q", got)
	}
}

func TestWhatIsInMemoryOnlyIsSeenAndGoesWithThePowerUntilTheNextWrite(t *testing.T) {
	s := newStore(t)
	s.lazyDelay = time.Hour
	for i := range 3 {
		must(t, commitAs(s, Memory, "k", fmt.Sprint(i)))
	}
	if n := gateOf(s).syncs.Load(); n != 0 {
		t.Errorf("%d syncs", n)
	}
	if got := get(t, s, "app", "k"); got != "2" {
		t.Errorf("others see %q", got)
	}
	if got := payloads(t, s, 0, 9); got != "" {
		t.Errorf("messages %q left before what they tell about is on the disk", got)
	}
	if got := get(t, open(t, copyStore(t, s)), "app", "k"); got != "(none)" {
		t.Errorf("after a power cut: %q", got)
	}
	// An event that saw it takes it along.
	tx := s.Begin("app")
	v, _, err := tx.Get("default", "k")
	must(t, err)
	must(t, tx.Set("default", "copy", v))
	must(t, tx.Commit(ctx))
	again := open(t, copyStore(t, s))
	if k, copied := get(t, again, "app", "k"), get(t, again, "app", "copy"); k != "2" || copied != "2" {
		t.Errorf("after a power cut: k is %q, its copy %q", k, copied)
	}
	if got := payloads(t, s, 0, 9); got != "012" {
		t.Errorf("messages %q", got)
	}
	if n := gateOf(s).syncs.Load(); n != 1 {
		t.Errorf("%d syncs", n)
	}
}

func TestWhatIsInMemoryOnlyIsWrittenAfterItsDelayWhenItIsMuchAndAtTheEnd(t *testing.T) {
	s := newStore(t)
	s.lazyDelay = 0
	must(t, commitAs(s, Memory, "k", "1"))
	<-s.Notify() // its message may leave
	if got := get(t, open(t, copyStore(t, s)), "app", "k"); got != "1" {
		t.Errorf("after a power cut: %q", got)
	}
	s = open(t, t.TempDir())
	s.lazyDelay = time.Hour
	for i := range 5 {
		must(t, commitAs(s, Memory, fmt.Sprint(i), string(make([]byte, maxLazy/4))))
	}
	if s.commits.Load() == 0 {
		t.Error("nothing was written of more than may wait")
	}
	must(t, commitAs(s, Memory, "last", "1"))
	must(t, s.Close())
	if got := get(t, open(t, copyStore(t, s)), "app", "last"); got != "1" {
		t.Errorf("after the end: %q", got)
	}
}

// Memory, and what is written with it, fails for nobody when the disk does: it waits for the next write.
func TestAFailedWriteLeavesWhatIsInMemoryThere(t *testing.T) {
	s := newStore(t)
	s.lazyDelay = time.Hour
	must(t, commitAs(s, Memory, "k", "1"))
	broken := fmt.Errorf("input/output error")
	gateOf(s).fail.Store(&broken)
	if err := commitAs(s, Sync, "s", "1"); err == nil {
		t.Error("a failed write is no error")
	}
	gateOf(s).fail.Store(nil)
	if k, failed := get(t, s, "app", "k"), get(t, s, "app", "s"); k != "1" || failed != "(none)" {
		t.Errorf("k is %q, what failed %q", k, failed)
	}
	must(t, commitAs(s, Sync, "t", "1"))
	if k := get(t, open(t, copyStore(t, s)), "app", "k"); k != "1" {
		t.Errorf("after a power cut: k is %q", k)
	}
}

func TestDurabilitiesAreReadByTheirNames(t *testing.T) {
	for _, d := range []Durability{Sync, Batch, Memory} {
		if got, err := ParseDurability(d.String()); got != d || err != nil {
			t.Errorf("%v: %v, %v", d, got, err)
		}
	}
	if d, err := ParseDurability(""); d != Sync || err != nil {
		t.Errorf("the default is %v, %v", d, err)
	}
	if _, err := ParseDurability("safe"); err == nil {
		t.Error("another name is accepted")
	}
}

// A due time that nothing is left for would wake the committer again and again.
func TestWhatAnotherGroupTookAlongWakesNobody(t *testing.T) {
	s := newStore(t)
	tx := s.Begin("app")
	must(t, tx.Publish("a", nil, 1, false))
	must(t, tx.Publish("uplink:a", nil, 1, false))
	must(t, tx.Commit(ctx))
	m, err := s.Outbox(0, 1)
	must(t, err)
	must(t, s.Delivered(m[0].ID))
	must(t, s.DeliveredUplinks(map[uint64]uint64{s.Lanes()[0].ID: 1 << 60}))
	set(t, s, "app", "k", "v")
	if w, next := s.take(time.Now().Add(time.Hour), false, false); w.flush || !next.IsZero() {
		t.Errorf("flush %v, and looks again at %s", w.flush, next)
	}
}
