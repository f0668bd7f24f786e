package store

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"
)

var ctx = context.Background()

func TestReadsSeeOwnWritesAndNobodyElseDoesBeforeCommit(t *testing.T) {
	s := newStore(t)
	set(t, s, "app", "a", "old")
	tx := s.Begin("app")
	must(t, tx.Set("default", "a", []byte("new")))
	must(t, tx.Set("default", "b", nil))
	if v, ok, err := tx.Get("default", "a"); string(v) != "new" || !ok || err != nil {
		t.Errorf("own write: got %q, %v, %v", v, ok, err)
	}
	if v, ok, err := tx.Get("default", "b"); v == nil || len(v) != 0 || !ok || err != nil {
		t.Errorf("own empty value: got %q, %v, %v", v, ok, err)
	}
	must(t, tx.Delete("default", "a"))
	if _, ok, _ := tx.Get("default", "a"); ok {
		t.Error("own delete is not seen")
	}
	if got := get(t, s, "app", "a"); got != "old" {
		t.Errorf("another event sees %q before the commit", got)
	}
	must(t, tx.Commit(ctx))
	if a, b := get(t, s, "app", "a"), get(t, s, "app", "b"); a != "(none)" || b != "" {
		t.Errorf("after the commit: a is %q, b is %q", a, b)
	}
	if err := tx.Set("default", "a", nil); err == nil {
		t.Error("a write after Commit is accepted")
	}
}

func TestChangedReadConflicts(t *testing.T) {
	s := newStore(t)
	change := map[string]func(){
		"value":          func() { set(t, s, "app", "k", "2") },
		"value appeared": func() { set(t, s, "app", "new", "1") },
		"value gone": func() {
			tx := s.Begin("app")
			must(t, tx.Delete("default", "k"))
			must(t, tx.Commit(ctx))
		},
		"key listed appeared": func() { set(t, s, "app", "kk", "1") },
	}
	for name, f := range change {
		t.Run(name, func(t *testing.T) {
			must(t, s.DeleteApplication("app"))
			set(t, s, "app", "k", "1")
			for _, writes := range []bool{true, false} {
				tx := s.Begin("app")
				_, _, err := tx.Get("default", "k")
				must(t, err)
				_, _, err = tx.Get("default", "new")
				must(t, err)
				_, err = tx.Keys("default", "", 0)
				must(t, err)
				if stale, err := tx.Stale(); stale || err != nil {
					t.Fatalf("stale before any change: %v, %v", stale, err)
				}
				f()
				if stale, err := tx.Stale(); !stale || err != nil {
					t.Fatalf("stale after a change: %v, %v", stale, err)
				}
				if writes {
					must(t, tx.Set("default", "other", []byte("x")))
				}
				if err := tx.Commit(ctx); !errors.Is(err, ErrConflict) {
					t.Fatalf("commit: got %v, want ErrConflict", err)
				}
				if writes && get(t, s, "app", "other") != "(none)" {
					t.Fatal("a conflicting transaction wrote")
				}
				must(t, s.DeleteApplication("app"))
				set(t, s, "app", "k", "1")
			}
		})
	}
}

func TestUnchangedReadsAndForeignKeysDoNotConflict(t *testing.T) {
	s := newStore(t)
	for _, k := range []string{"a", "b", "c", "d"} {
		set(t, s, "app", k, "1")
	}
	tx := s.Begin("app")
	keys, err := tx.Keys("default", "a", 2)
	must(t, err)
	if want := []string{"b", "c"}; !slices.Equal(keys, want) {
		t.Fatalf("keys %q, want %q", keys, want)
	}
	_, _, err = tx.Get("default", "a")
	must(t, err)
	set(t, s, "app", "a", "2")
	set(t, s, "app", "a", "1")   // back to what was read
	set(t, s, "app", "d", "2")   // beyond the limit of the listing
	set(t, s, "app", "e", "2")   // likewise
	set(t, s, "app", "b", "2")   // listed, but its value was not read
	set(t, s, "other", "b2", "") // another application
	must(t, tx.Set("default", "z", nil))
	must(t, tx.Commit(ctx))
}

func TestWriteSkewIsRefused(t *testing.T) {
	s := newStore(t)
	set(t, s, "app", "x", "1")
	set(t, s, "app", "y", "1")
	a, b := s.Begin("app"), s.Begin("app")
	for _, tx := range []*Tx{a, b} {
		for _, k := range []string{"x", "y"} {
			_, _, err := tx.Get("default", k)
			must(t, err)
		}
	}
	must(t, a.Set("default", "x", []byte("0")))
	must(t, b.Set("default", "y", []byte("0")))
	must(t, a.Commit(ctx))
	if err := b.Commit(ctx); !errors.Is(err, ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
}

func TestKeysMergeDiskWaitingAndOwn(t *testing.T) {
	s := newStore(t)
	r := seed(t)
	for range 200 {
		must(t, s.DeleteApplication("app"))
		want := map[string]bool{}
		base, own := s.Begin("app"), s.Begin("app")
		waiting := &job{writes: map[string][]byte{}}
		for range 12 {
			k := strconv.Itoa(r.IntN(20))
			must(t, base.Set("default", k, nil))
			want[k] = true
		}
		must(t, base.Commit(ctx))
		change := func(set, del func(k string)) {
			for range 6 {
				k := strconv.Itoa(r.IntN(20))
				if want[k] = r.IntN(2) == 0; want[k] {
					set(k)
				} else {
					del(k)
				}
			}
		}
		prefix := string(valuePrefix("app", "default"))
		change(func(k string) { waiting.writes[prefix+k] = []byte{} }, func(k string) { waiting.writes[prefix+k] = nil })
		s.mu.Lock()
		for k := range waiting.writes {
			s.pending[k] = append(s.pending[k], waiting)
		}
		s.mu.Unlock()
		change(func(k string) { must(t, own.Set("default", k, nil)) }, func(k string) { must(t, own.Delete("default", k)) })
		maps.DeleteFunc(want, func(_ string, there bool) bool { return !there })
		all := slices.Sorted(maps.Keys(want))
		limit := 1 + r.IntN(5)
		var got []string
		for after := ""; ; {
			part, err := own.Keys("default", after, limit)
			must(t, err)
			got = append(got, part...)
			if len(part) < limit {
				break
			}
			after = part[len(part)-1]
		}
		if !slices.Equal(got, all) {
			t.Fatalf("got %q, want %q", got, all)
		}
		s.mu.Lock()
		s.unpend(waiting)
		s.mu.Unlock()
	}
}

func TestApplicationsAndStoresAreApart(t *testing.T) {
	s := newStore(t)
	// Names that would meet if they were joined with a separator.
	for i, n := range [][3]string{{"a", "b", "c"}, {"a", "bc", "d"}, {"ab", "c", "d"}, {"a", "b", "\x00c"}, {"a\x01b", "c", "d"}} {
		tx := s.Begin(n[0])
		must(t, tx.Set(n[1], n[2], []byte(strconv.Itoa(i))))
		must(t, tx.Commit(ctx))
	}
	tx := s.Begin("a")
	keys, err := tx.Keys("b", "", 0)
	must(t, err)
	if want := []string{"\x00c", "c"}; !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
	must(t, s.DeleteApplication("a"))
	if v, ok, err := s.Begin("ab").Get("c", "d"); string(v) != "2" || !ok || err != nil {
		t.Errorf("another application's data: got %q, %v, %v", v, ok, err)
	}
	if keys, err := s.Begin("a").Keys("b", "", 0); len(keys) != 0 || err != nil {
		t.Errorf("deleted application: %q, %v", keys, err)
	}
}

// More than goes into one transaction, and on a small board into memory.
func TestAnApplicationWithManyRecordsIsDeletedWhole(t *testing.T) {
	s := newStore(t)
	for i := range 3 {
		for _, app := range []string{"app", "other"} {
			tx := s.Begin(app)
			for n := range deleteBatch {
				must(t, tx.Set("default", strconv.Itoa(i)+"/"+strconv.Itoa(n), []byte("x")))
			}
			must(t, tx.Commit(ctx))
		}
	}
	must(t, s.DeleteApplication("app"))
	must(t, s.DeleteApplication("app"))
	for app, want := range map[string]int{"app": 0, "other": 3 * deleteBatch} {
		n, after := 0, ""
		for {
			keys, err := s.Begin(app).Keys("default", after, 1000)
			must(t, err)
			if len(keys) == 0 {
				break
			}
			n, after = n+len(keys), keys[len(keys)-1]
		}
		if n != want {
			t.Errorf("%s has %d records, want %d", app, n, want)
		}
	}
}

func TestLimitsNameWhatIsTooLarge(t *testing.T) {
	s := newStore(t)
	tx := s.Begin("app")
	long := strings.Repeat("x", MaxKey+1)
	for name, err := range map[string]error{
		"key":     tx.Set("default", long, nil),
		"empty":   tx.Set("default", "", nil),
		"store":   tx.Set(strings.Repeat("s", MaxName+1), "k", nil),
		"value":   tx.Set("default", "k", make([]byte, MaxValue+1)),
		"payload": tx.Publish("t", make([]byte, MaxPayload+1), 0, false),
		"topic":   tx.Publish("", nil, 0, false),
		"QoS":     tx.Publish("t", nil, 3, false),
		"app":     s.Begin("").Set("default", "k", nil),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	var err error
	for i := 0; err == nil && i < 20; i++ {
		err = tx.Set("default", strconv.Itoa(i), make([]byte, MaxValue))
	}
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("the whole transaction: got %v, want ErrTooLarge", err)
	}
	must(t, tx.Commit(ctx))
	if err := s.Put(map[string][]byte{"noarea": nil}); err == nil {
		t.Error("record key without an area is accepted")
	}
	if err := s.Put(map[string][]byte{"a/b": make([]byte, MaxRecord+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("record: got %v, want ErrTooLarge", err)
	}
}

// hold keeps the committer waiting for the disk until the returned func is called. All that is queued in between makes up
// one group.
func hold(t testing.TB, s *Store) (release func()) {
	t.Helper()
	g := gateOf(s)
	g.Lock()
	blocker := make(chan error, 1)
	go func() { blocker <- s.do(ctx, &job{writes: map[string][]byte{"rtest/blocker": nil}}) }()
	until(func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.queue) == 0 && len(s.pending["rtest/blocker"]) == 1
	})
	return func() {
		g.Unlock()
		must(t, <-blocker)
	}
}

func until(f func() bool) {
	for !f() {
		runtime.Gosched()
	}
}

func (s *Store) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

func (s *Store) pendingOn(app, key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending[string(valuePrefix(app, "default"))+key])
}

func TestEventsOnOneKeyShareACommit(t *testing.T) {
	s := newStore(t)
	release := hold(t, s)
	before := s.commits.Load()
	var wg sync.WaitGroup
	const n = 100
	for i := range n { // each reads what the one before it left waiting
		tx := s.Begin("app")
		v, _, err := tx.Get("default", "count")
		must(t, err)
		c, _ := strconv.Atoi(string(v))
		must(t, tx.Set("default", "count", []byte(strconv.Itoa(c+1))))
		wg.Go(func() {
			if err := tx.Commit(ctx); err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		})
		until(func() bool { return s.pendingOn("app", "count") == i+1 })
	}
	release()
	wg.Wait()
	if got := get(t, s, "app", "count"); got != strconv.Itoa(n) {
		t.Errorf("count is %s, want %d", got, n)
	}
	if got := s.commits.Load() - before; got > 2 {
		t.Errorf("%d commits for %d events, want at most 2", got, n)
	}
}

func TestAReaderDoesNotEndBeforeWhatItSawIsDurable(t *testing.T) {
	s := newStore(t)
	release := hold(t, s)
	w := s.Begin("app")
	must(t, w.Set("default", "k", []byte("v")))
	written, read := make(chan error, 1), make(chan error, 1)
	go func() { written <- w.Commit(ctx) }()
	until(func() bool { return s.pendingOn("app", "k") > 0 })
	r := s.Begin("app")
	v, _, err := r.Get("default", "k")
	must(t, err)
	if string(v) != "v" {
		t.Fatalf("the waiting write is not visible: %q", v)
	}
	go func() { read <- r.Commit(ctx) }()
	select {
	case err := <-read:
		t.Fatalf("the reader ended first: %v", err)
	case err := <-written:
		t.Fatalf("the writer ended while the disk was held: %v", err)
	default:
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.settle(ended, r); !errors.Is(err, context.Canceled) {
		t.Fatalf("a reader of a waiting write: got %v, want it to wait", err)
	}
	release()
	must(t, <-written)
	must(t, <-read)
}

func TestOneFailingTransactionFailsNoNeighbour(t *testing.T) {
	s := newStore(t)
	set(t, s, "app", "read", "1")
	stale := s.Begin("app")
	_, _, err := stale.Get("default", "read")
	must(t, err)
	must(t, stale.Set("default", "stale", nil))
	set(t, s, "app", "read", "2")

	release := hold(t, s)
	results := map[string]chan error{}
	start := func(name string, f func() error) {
		c := make(chan error, 1)
		results[name] = c
		n := s.waiting()
		go func() { c <- f() }()
		until(func() bool { return s.waiting() > n })
	}
	start("first", func() error { return s.Put(map[string][]byte{"a/first": nil, "a/x": []byte("1")}) })
	start("stale", func() error { return stale.Commit(ctx) })
	// bbolt itself refuses the second row, after the first was written.
	start("half", func() error {
		return s.do(ctx, &job{writes: map[string][]byte{"rhalf/a": []byte("1"), "rhalf/b" + strings.Repeat("x", bolt.MaxKeySize): []byte("1")}})
	})
	start("last", func() error { return s.Put(map[string][]byte{"a/last": []byte("1")}) })
	release()
	must(t, <-results["first"])
	must(t, <-results["last"])
	if err := <-results["stale"]; !errors.Is(err, ErrConflict) {
		t.Errorf("stale: got %v, want ErrConflict", err)
	}
	if err := <-results["half"]; err == nil {
		t.Error("half: accepted")
	}
	if v, err := s.List(""); len(v) != 2 || err != nil {
		t.Errorf("records %q, %v: want a/x and a/last alone", v, err)
	}
}

func TestAFailedCommitFailsItsWholeGroupAndWhoReadIt(t *testing.T) {
	s := newStore(t)
	set(t, s, "app", "k", "old")
	release := hold(t, s)
	w := s.Begin("app")
	must(t, w.Set("default", "k", []byte("new")))
	must(t, w.Set("default", "big", make([]byte, MaxValue)))
	var errs [2]chan error
	for i := range errs {
		errs[i] = make(chan error, 1)
	}
	go func() { errs[0] <- w.Commit(ctx) }()
	until(func() bool { return s.pendingOn("app", "k") > 0 })
	neighbour := s.Begin("app")
	must(t, neighbour.Set("default", "n", []byte("1")))
	go func() { errs[1] <- neighbour.Commit(ctx) }()
	until(func() bool { return s.pendingOn("app", "n") > 0 })
	reader := s.Begin("app")
	if v, _, _ := reader.Get("default", "k"); string(v) != "new" {
		t.Fatalf("reader sees %q", v)
	}
	s.db.MaxSize = 1 // the disk is full
	release()
	for i := range errs {
		if err := <-errs[i]; err == nil {
			t.Errorf("commit %d on a full disk succeeded", i)
		} else {
			t.Log(err)
		}
	}
	s.db.MaxSize = 0
	if err := reader.Commit(ctx); !errors.Is(err, ErrConflict) {
		t.Errorf("the reader of an undone write: got %v, want ErrConflict", err)
	}
	if got := get(t, s, "app", "k"); got != "old" {
		t.Errorf("k is %q after a failed commit", got)
	}
	set(t, s, "app", "k", "newer") // the store goes on
}

func TestAWithdrawnCommitLeavesNothing(t *testing.T) {
	s := newStore(t)
	release := hold(t, s)
	c, cancel := context.WithCancel(ctx)
	tx := s.Begin("app")
	must(t, tx.Set("default", "k", []byte("1")))
	done := make(chan error, 1)
	go func() { done <- tx.Commit(c) }()
	until(func() bool { return s.pendingOn("app", "k") > 0 })
	reader := s.Begin("app")
	if v, _, err := reader.Get("default", "k"); string(v) != "1" || err != nil {
		t.Fatalf("got %q, %v", v, err)
	}
	must(t, reader.Set("default", "r", nil))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	release()
	if err := reader.Commit(ctx); !errors.Is(err, ErrConflict) {
		t.Errorf("who read the withdrawn write: got %v, want ErrConflict", err)
	}
	if got := get(t, s, "app", "k"); got != "(none)" {
		t.Errorf("k is %q", got)
	}
	if err := s.Begin("app").Commit(c); err != nil {
		t.Errorf("an empty transaction: %v", err)
	}
}
