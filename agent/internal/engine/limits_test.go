package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bytecodealliance/wasmtime-go/v44"
)

// greedy is a component of so many instances of a module, each of which grows its own memory and tables until they are refused. f
// gives the bytes that it got in the end.
func greedy(instances, tables int) string {
	var b strings.Builder
	b.WriteString(`(component (core module $m (memory 1)`)
	for n := range tables {
		fmt.Fprintf(&b, "(table $t%d 3 funcref)", n)
	}
	b.WriteString(`(func (export "fill") (param $sum i32) (result i32)
	    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))`)
	for n := range tables {
		fmt.Fprintf(&b, `(loop $more%[1]d (br_if $more%[1]d (i32.ne (table.grow $t%[1]d (ref.null func) (i32.const 1)) (i32.const -1))))`, n)
	}
	b.WriteString(`(local.get $sum) (i32.add (i32.mul (memory.size) (i32.const 65536)))`)
	for n := range tables {
		fmt.Fprintf(&b, `(i32.add (i32.mul (table.size $t%d) (i32.const 8)))`, n)
	}
	b.WriteString("))\n")
	chain := "(i32.const 0)"
	imports, with := "", ""
	for n := range instances {
		fmt.Fprintf(&b, "(core instance $i%d (instantiate $m))\n", n)
		imports += fmt.Sprintf(`(import "i%[1]d" "fill" (func $fill%[1]d (param i32) (result i32)))`, n)
		with += fmt.Sprintf(` (with "i%[1]d" (instance $i%[1]d))`, n)
		chain += fmt.Sprintf("(call $fill%d)", n)
	}
	fmt.Fprintf(&b, `(core module $all %s (func (export "f") (result i32) %s)) (core instance $all (instantiate $all%s))
	  (func (export "f") (result u32) (canon lift (core func $all "f"))))`, imports, chain, with)
	return b.String()
}

func TestMemoriesAndTablesTogetherStayWithinTheLimit(t *testing.T) {
	e := newEngine(t, 8)
	l := e.NewLinker()
	defer l.Close()
	for _, limit := range []uint64{1 << 20, 3 << 20, 32 << 20} {
		for _, c := range []struct {
			instances, tables int
			least             uint64 // of 64 parts
		}{{1, 0, 64}, {1, 1, 60}, {1, 2, 60}, {2, 0, 64}, {3, 1, 56}, {8, 8, 32}} {
			comp, x := compile(t, e, greedy(c.instances, c.tables))
			s := e.NewStore(t.Context(), Limits{Memory: limit}, nil)
			i, err := l.Instantiate(s, comp)
			if err != nil {
				t.Fatalf("%+v in %d: %v", c, limit, err)
			}
			v, err := i.Call(x)
			s.Close()
			if got := v.Uint(); err != nil || got > limit || got < limit/64*c.least {
				t.Errorf("%+v in %d: %d bytes, %v", c, limit, got, err)
			}
		}
	}
}

// As the adapters of Go's and JS's components do: a second module uses the memory and the table of the first.
func TestASharedMemoryIsCountedOnce(t *testing.T) {
	e := newEngine(t, 2)
	l := e.NewLinker()
	defer l.Close()
	c, x := compile(t, e, `(component
	  (core module $main (memory (export "m") 1))
	  (core module $adapter (import "main" "m" (memory 1))
	    (func (export "f") (result i32) (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size)))
	  (core instance $main (instantiate $main))
	  (core instance $adapter (instantiate $adapter (with "main" (instance $main))))
	  (func (export "f") (result u32) (canon lift (core func $adapter "f"))))`)
	s := e.NewStore(t.Context(), Limits{Memory: 1 << 20}, nil)
	defer s.Close()
	i, err := l.Instantiate(s, c)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := i.Call(x); err != nil || v.Uint() != 16 {
		t.Errorf("%v pages, %v; want all 16", v, err)
	}
}

func TestWhatStartsOverTheLimitIsRefused(t *testing.T) {
	e := newEngine(t, 8)
	l := e.NewLinker()
	defer l.Close()
	for _, m := range []string{
		"(memory 65536)", "(memory 17)", "(memory 16) (table 8 funcref)", "(memory 1) (table 100000 funcref) (table 100000 funcref)", "(table 100000 funcref)",
	} {
		c, _ := compile(t, e, `(component (core module $m (func (export "f")) `+m+`) (core instance $i (instantiate $m)) (func (export "f") (canon lift (core func $i "f"))))`)
		limit := uint64(1 << 20)
		if m == "(table 100000 funcref)" {
			limit = 64 << 10
		}
		s := e.NewStore(t.Context(), Limits{Memory: limit}, nil)
		_, err := l.Instantiate(s, c)
		var trap *Trap
		if !errors.As(err, &trap) || trap.Code != TrapMemory {
			t.Errorf("%s: %v", m, err)
		}
		s.Close()
	}
	wasm, err := wasmtime.Wat2Wasm(`(component (core module $m (table 4000000000 funcref)) (core instance (instantiate $m)))`)
	if err != nil {
		t.Fatal(err)
	}
	var bad *CompileError
	if _, err := e.Compile(wasm); !errors.As(err, &bad) || bad.Reason != Oversized || !strings.Contains(err.Error(), "memory limit") {
		t.Errorf("a table of four billion: %v", err)
	}
}

const spinWat = `(component
  (import "pause" (func $pause))
  (core func $pause (canon lower (func $pause)))
  (core module $m (import "" "pause" (func $pause))
    (func (export "f") (loop $l (br $l)))
    (func (export "g") (loop $l (call $pause) (br $l))))
  (core instance $i (instantiate $m (with "" (instance (export "pause" (func $pause))))))
  (func (export "f") (canon lift (core func $i "f")))
  (func (export "g") (canon lift (core func $i "g"))))`

// The guest that waits is there for longer than its limit: until three others, one after the other, have used up theirs.
func TestProcessorTimeIsCountedAndWaitingIsNot(t *testing.T) {
	const limit = 50 * time.Millisecond
	e := newEngine(t, 2)
	l := e.NewLinker()
	defer l.Close()
	tick := make(chan struct{})
	if err := l.Define("", Interface{Funcs: map[string]HostFunc{"pause": func(s *Store, _ []Val) (Val, error) {
		select {
		case <-tick:
			return Val{}, nil
		case <-s.Context().Done():
			return Val{}, s.Context().Err()
		}
	}}}); err != nil {
		t.Fatal(err)
	}
	c, spin := compile(t, e, spinWat)
	pause, _ := c.Export("g")
	over := errors.New("over")
	run := func(ctx context.Context, x *Export) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		s := e.NewStore(ctx, Limits{CPU: limit, OverCPU: func() { cancel(over) }}, nil)
		defer s.Close()
		i, err := l.Instantiate(s, c)
		if err != nil {
			return err
		}
		_, err = i.Call(x)
		return err
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancelCause(t.Context())
	done := errors.New("waited long enough")
	all.Go(func() {
		if err := run(ctx, pause); !errors.Is(err, done) {
			t.Errorf("a guest that waits: %v", err)
		}
	})
	for range 3 {
		tick <- struct{}{}
		var trap *Trap
		if err := run(t.Context(), spin); !errors.As(err, &trap) || trap.Code != TrapInterrupt || !errors.Is(err, over) {
			t.Errorf("a guest that computes: %v", err)
		}
		tick <- struct{}{}
	}
	cancel(done)
	all.Wait()
}

func TestAShareFindsItsSlot(t *testing.T) {
	e := newEngine(t, 4)
	hog, other, third := e.NewShare(), e.NewShare(), e.NewShare()
	take := func(s *Share, n int64) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so it is had at once, or not
		return e.slots.acquire(ctx, s, n)
	}
	got := 0
	for take(hog, 1) == nil {
		got++
	}
	if got != 2 {
		t.Errorf("one share took %d of 4 slots, with 2 others that hold none", got)
	}
	for _, s := range []*Share{other, third} {
		if err := take(s, 1); err != nil {
			t.Errorf("a first slot: %v", err)
		}
	}
	if take(other, 1) == nil || take(nil, 1) == nil {
		t.Error("a fifth slot was given")
	}
	// What comes free goes to who has none first; others wait, and get it once it is nobody's due.
	e.slots.release(other, 1)
	if take(hog, 1) == nil {
		t.Error("the slot that is kept was given away")
	}
	other.Close()
	if err := take(hog, 1); err != nil {
		t.Errorf("the slot that is kept for nobody any more: %v", err)
	}
	e.slots.release(hog, 3)
	e.slots.release(third, 1)
	hog.Close()
	third.Close()
	if e.slots.free != 4 || e.slots.idle != 0 || len(e.slots.waiting) != 0 {
		t.Errorf("left behind: %+v", e.slots)
	}
}

// A component of three memories beside one that takes every slot that comes free.
func TestAFirstClaimIsNotPassedByOthers(t *testing.T) {
	e := newEngine(t, 4)
	hog, wide := e.NewShare(), e.NewShare()
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		must(e.slots.acquire(t.Context(), hog, 1))
	}
	waiting := func(n int) {
		for {
			e.slots.mu.Lock()
			there := len(e.slots.waiting)
			e.slots.mu.Unlock()
			if there == n {
				return
			}
			runtime.Gosched()
		}
	}
	var all sync.WaitGroup
	order := make(chan string, 8)
	all.Go(func() { must(e.slots.acquire(t.Context(), wide, 3)); order <- "wide" })
	waiting(1)
	for n := range 4 {
		all.Go(func() { must(e.slots.acquire(t.Context(), hog, 1)); order <- "hog" })
		waiting(n + 2)
	}
	for range 2 {
		e.slots.release(hog, 1)
	}
	if first := <-order; first != "wide" {
		t.Errorf("%s was served first", first)
	}
	e.slots.release(wide, 3)
	for range 2 {
		<-order
	}
	for range 2 {
		e.slots.release(hog, 1)
		<-order
	}
	all.Wait()
}
