package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v44"
	"golang.org/x/sys/unix"
)

const tinyWat = `(component
  (core module $m (memory (export "m") 1) (func (export "f") (result i32) i32.const 7))
  (core instance $i (instantiate $m))
  (func (export "f") (result u32) (canon lift (core func $i "f"))))`

func tiny(t testing.TB, e *Engine) (*Component, *Export) {
	t.Helper()
	return compile(t, e, tinyWat)
}

func compile(t testing.TB, e *Engine, wat string) (*Component, *Export) {
	t.Helper()
	wasm, err := wasmtime.Wat2Wasm(wat)
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Compile(wasm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	x, ok := c.Export("f")
	if !ok {
		t.Fatal("no export")
	}
	return c, x
}

func newEngine(t testing.TB, slots int) *Engine {
	t.Helper()
	e, err := New(Config{Slots: slots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// event runs one whole store: instantiate, call, close.
func event(ctx context.Context, e *Engine, l *Linker, c *Component, x *Export) error {
	s := e.NewStore(ctx, Limits{}, nil)
	defer s.Close()
	i, err := l.Instantiate(s, c)
	if err != nil {
		return err
	}
	v, err := i.Call(x)
	if err == nil && v.Uint() != 7 {
		return fmt.Errorf("f gave %v", v)
	}
	return err
}

// rounds of each of many goroutines.
const rounds = 50 - 45*debugOne

func TestThePoolIsSizedToTheAddressSpace(t *testing.T) {
	fits := func(limit uint64) func(uint64) bool { return func(n uint64) bool { return n <= limit } }
	for _, c := range []struct {
		name   string
		want   int
		limit  uint64
		slots  int
		pooled bool
	}{
		{"47 bits", 0, 1 << 47, 32, true},
		{"39 bits", 0, 1 << 39, 32, true},
		{"200 GiB", 0, 200 << 30, 32, true},
		{"64 GiB", 0, 64 << 30, 13, true},
		{"fewer asked", 4, 1 << 39, 4, true},
		{"one asked", 1, 1 << 39, 1, true},
		{"8 GiB", 0, 8 << 30, demandedSlots, false},
		{"nothing", 0, 0, demandedSlots, false},
		{"nothing, few asked", 2, 0, 2, false},
	} {
		p := planPool(c.want, fits(c.limit))
		if p.slots != c.slots || p.pooled != c.pooled || p.pooled != (p.reservation == fullReservation) {
			t.Errorf("%s: %+v, want %d slots, pooled %v", c.name, p, c.slots, c.pooled)
		}
	}
}

func TestSlotsOutOfRangeAreRefused(t *testing.T) {
	for _, n := range []int{-1, maxSlots + 1} {
		if e, err := New(Config{Slots: n}); err == nil {
			e.Close()
			t.Errorf("%d slots were given", n)
		}
	}
}

// TestALimitedAddressSpaceStillRuns runs this test binary again under RLIMIT_AS, which stands for a kernel with few address bits.
func TestALimitedAddressSpaceStillRuns(t *testing.T) {
	if gib := os.Getenv("DUNLIN_TEST_AS_GIB"); gib != "" {
		inLimitedAddressSpace(t, gib)
		return
	}
	for gib, want := range map[string]string{"200": "slots=32 pooled=true", "64": "pooled=true", "6": "slots=8 pooled=false"} {
		t.Run(gib+" GiB", func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestALimitedAddressSpaceStillRuns$", "-test.v")
			cmd.Env = append(os.Environ(), "DUNLIN_TEST_AS_GIB="+gib)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				t.Fatalf("%v, want %s in\n%s", err, want, out)
			}
		})
	}
}

func inLimitedAddressSpace(t *testing.T, text string) {
	gib, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	lim := unix.Rlimit{Cur: gib << 30, Max: gib << 30}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &lim); err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, 0)
	fmt.Printf("slots=%d pooled=%v\n", e.Slots(), e.Pooled())
	c, x := tiny(t, e)
	l := e.NewLinker()
	defer l.Close()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range rounds {
				if err := event(t.Context(), e, l, c, x); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	out, err := c.Serialize()
	if err != nil || len(out) == 0 {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
}

func TestInstancesWaitForASlotRatherThanFail(t *testing.T) {
	e := newEngine(t, 0)
	c, x := tiny(t, e)
	l := e.NewLinker()
	defer l.Close()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range rounds {
				if err := event(t.Context(), e, l, c, x); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestWaitingForASlotEndsWithTheContext(t *testing.T) {
	e := newEngine(t, 1)
	c, x := tiny(t, e)
	l := e.NewLinker()
	defer l.Close()
	holder := e.NewStore(t.Context(), Limits{}, nil)
	if _, err := l.Instantiate(holder, c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("event is too late")
	waiting := make(chan error)
	go func() { waiting <- event(ctx, e, l, c, x) }()
	cancel(cause)
	err := <-waiting
	var trap *Trap
	if !errors.As(err, &trap) || trap.Code != TrapInterrupt || !errors.Is(err, cause) {
		t.Fatalf("%v", err)
	}
	// An event that ended before it got here says so, and blames no slot.
	if err := event(ctx, e, l, c, x); !errors.As(err, &trap) || trap.Code != TrapInterrupt || !errors.Is(err, cause) || strings.Contains(err.Error(), "slot") {
		t.Fatalf("%v", err)
	}
	holder.Close()
	if err := event(t.Context(), e, l, c, x); err != nil {
		t.Fatalf("after the slot came free: %v", err)
	}
}

// A component of several memories needs as many slots: found out once, then foreseen.
func TestAComponentOfManyMemoriesTakesAsManySlots(t *testing.T) {
	e := newEngine(t, 4)
	many, x := compile(t, e, `(component
	  (core module $mem (memory 1))
	  (core instance (instantiate $mem)) (core instance (instantiate $mem))
	  (core module $m (memory (export "m") 1) (func (export "f") (result i32) i32.const 7))
	  (core instance $i (instantiate $m))
	  (func (export "f") (result u32) (canon lift (core func $i "f"))))`)
	one, y := tiny(t, e)
	l := e.NewLinker()
	defer l.Close()
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			for range rounds {
				c, x := many, x
				if n%4 == 0 {
					c, x = one, y
				}
				if err := event(t.Context(), e, l, c, x); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if w := many.shape.Load().memories; w != 3 {
		t.Errorf("weight %d for 3 memories", w)
	}
	if w := one.shape.Load().memories; w != 1 {
		t.Errorf("weight %d for 1 memory", w)
	}
	if e.slots.free != 4 {
		t.Error("slots were lost")
	}

	over := newEngine(t, 2)
	c, x := compile(t, over, strings.ReplaceAll(tinyWat, "(core instance $i", "(core instance (instantiate $m)) (core instance (instantiate $m)) (core instance $i"))
	l2 := over.NewLinker()
	defer l2.Close()
	if err := event(t.Context(), over, l2, c, x); err == nil || !strings.Contains(err.Error(), "more linear memories than the 2") {
		t.Errorf("three memories in two slots: %v", err)
	}
}

func TestTwoEnginesLiveSideBySide(t *testing.T) {
	var ran atomic.Int32
	for range 2 {
		e := newEngine(t, 0)
		c, x := tiny(t, e)
		l := e.NewLinker()
		t.Cleanup(l.Close)
		if err := event(t.Context(), e, l, c, x); err != nil {
			t.Fatal(err)
		}
		ran.Add(1)
	}
	a, b := newEngine(t, 1), newEngine(t, 1)
	c, _ := tiny(t, a)
	l := b.NewLinker()
	defer l.Close()
	s := a.NewStore(t.Context(), Limits{}, nil)
	defer s.Close()
	if _, err := l.Instantiate(s, c); err == nil {
		t.Error("a linker of another engine was taken")
	}
}

// rss is the process's resident memory in bytes.
func rss(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

func TestTenThousandEventsLeaveNothingBehind(t *testing.T) {
	e := newEngine(t, 4)
	c, x := compile(t, e, `(component
	  (import "host" (instance $h
	    (export "r" (type $r (sub resource)))
	    (export "new" (func (result (own $r))))
	    (export "echo" (func (param "s" string) (param "b" (list u8)) (result string)))))
	  (alias export $h "r" (type $r))
	  (core func $new (canon lower (func $h "new")))
	  (core module $mem (memory (export "m") 2) (data (i32.const 16) "0123456789")
	    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096))
	  (core instance $mem (instantiate $mem))
	  (core func $echo (canon lower (func $h "echo") (memory $mem "m") (realloc (func $mem "realloc"))))
	  (core module $m
	    (import "" "new" (func $new (result i32)))
	    (import "" "echo" (func $echo (param i32 i32 i32 i32 i32)))
	    (func (export "f") (param i32) (result i32)
	      (drop (call $new))
	      (call $echo (i32.const 16) (i32.const 10) (i32.const 16) (i32.const 10) (i32.const 0))
	      (if (local.get 0) (then unreachable))
	      (i32.const 7)))
	  (core instance $i (instantiate $m (with "" (instance (export "new" (func $new)) (export "echo" (func $echo))))))
	  (func (export "f") (param "trap" bool) (result u32) (canon lift (core func $i "f"))))`)
	l := e.NewLinker()
	defer l.Close()
	if err := l.Define("host", Interface{
		Resources: map[string]Resource{"r": {Type: 1}},
		Funcs: map[string]HostFunc{
			"new":  func(*Store, []Val) (Val, error) { return Own(1, 1), nil },
			"echo": func(_ *Store, a []Val) (Val, error) { return String(a[0].Text() + string(a[1].Raw())), nil },
		},
	}); err != nil {
		t.Fatal(err)
	}
	run := func(n int) {
		for k := range n {
			ctx, cancel := context.WithCancel(t.Context())
			s := e.NewStore(ctx, Limits{}, nil)
			i, err := l.Instantiate(s, c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := i.Call(x, Bool(k%5 == 0)); (err != nil) != (k%5 == 0) {
				t.Fatal(err)
			}
			s.Close()
			cancel()
		}
	}
	events := 10_000
	if DebugBuild {
		events = 300 // each with many collections
	}
	run(events / 5)
	before := rss(t)
	run(events)
	if grown := rss(t) - before; grown > 8<<20 {
		t.Errorf("resident memory grew by %d KiB over %d events", grown>>10, events)
	}
	if n := e.Live(); n != 2 { // the component and the linker
		t.Errorf("%d things live, want 2", n)
	}
}
