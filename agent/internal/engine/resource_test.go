package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
)

// A guest that takes, uses, gives back and drops the host's buckets. other's "also" is the same type under another name.
const hostResourceWat = `(component
  (import "test:kv/store@0.1.0" (instance $kv
    (export "bucket" (type $b (sub resource)))
    (export "[constructor]bucket" (func (param "n" u32) (result (own $b))))
    (export "[method]bucket.size" (func (param "self" (borrow $b)) (result u32)))
    (export "pass" (func (param "b" (own $b)) (result (own $b))))
    (export "two" (func (param "l" (list (borrow $b))) (result u32)))))
  (alias export $kv "bucket" (type $b))
  (import "test:kv/other@0.1.0" (instance $other
    (alias outer 1 $b (type $b'))
    (export "also" (type $also (eq $b')))
    (export "size" (func (param "b" (borrow $also)) (result u32)))))
  (core func $new (canon lower (func $kv "[constructor]bucket")))
  (core func $size (canon lower (func $kv "[method]bucket.size")))
  (core func $pass (canon lower (func $kv "pass")))
  (core func $osize (canon lower (func $other "size")))
  (core func $drop (canon resource.drop $b))
  (core module $mem (memory (export "m") 1))
  (core instance $mem (instantiate $mem))
  (core func $two (canon lower (func $kv "two") (memory $mem "m")))
  (core module $m
    (import "" "new" (func $new (param i32) (result i32)))
    (import "" "size" (func $size (param i32) (result i32)))
    (import "" "osize" (func $osize (param i32) (result i32)))
    (import "" "pass" (func $pass (param i32) (result i32)))
    (import "" "two" (func $two (param i32 i32) (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (import "" "m" (memory 1))
    (func (export "round") (param i32) (result i32) (local $h i32) (local $n i32)
      (local.set $h (call $new (local.get 0)))
      (local.set $n (i32.add (call $size (local.get $h)) (call $osize (local.get $h))))
      (local.set $h (call $pass (local.get $h)))
      (i32.store (i32.const 0) (local.get $h)) (i32.store (i32.const 4) (local.get $h))
      (local.set $n (i32.add (local.get $n) (call $two (i32.const 0) (i32.const 2))))
      (call $drop (local.get $h))
      (local.get $n))
    (func (export "keep") (param i32) (result i32) (call $new (local.get 0)))
    (func (export "lend") (param i32) (result i32) (call $size (local.get 0)))
    (func (export "lend-and-return") (param i32) (result i32) (local $n i32)
      (local.set $n (call $size (local.get 0))) (call $drop (local.get 0)) (local.get $n))
    (func (export "take") (param i32) (call $drop (local.get 0))))
  (core instance $i (instantiate $m (with "" (instance
    (export "new" (func $new)) (export "size" (func $size)) (export "osize" (func $osize)) (export "pass" (func $pass))
    (export "two" (func $two)) (export "drop" (func $drop)) (export "m" (memory $mem "m"))))))
  (func (export "round") (param "n" u32) (result u32) (canon lift (core func $i "round")))
  (func (export "keep") (param "n" u32) (result (own $b)) (canon lift (core func $i "keep")))
  (func (export "lend") (param "b" (borrow $b)) (result u32) (canon lift (core func $i "lend-and-return")))
  (func (export "lend-forgotten") (param "b" (borrow $b)) (result u32) (canon lift (core func $i "lend")))
  (func (export "take") (param "b" (own $b)) (canon lift (core func $i "take"))))`

const bucketType engine.ResourceType = 7

// buckets is a host's table: rep to size.
type buckets struct {
	sizes   map[uint32]uint32
	dropped []uint32
}

func (b *buckets) size(v engine.Val) (engine.Val, error) {
	if ty, _ := v.Resource(); ty != bucketType || v.Kind() != engine.KindHostResource {
		return engine.Val{}, fmt.Errorf("got %v", v)
	}
	n, ok := b.sizes[v.Rep()]
	if !ok {
		return engine.Val{}, fmt.Errorf("no bucket %d", v.Rep())
	}
	return engine.U32(n), nil
}

func (b *buckets) linker(t testing.TB) *engine.Linker {
	size := func(_ *engine.Store, a []engine.Val) (engine.Val, error) {
		if a[0].IsSet() {
			return engine.Val{}, errors.New("a borrow came as owned")
		}
		return b.size(a[0])
	}
	res := engine.Resource{Type: bucketType, Drop: func(_ *engine.Store, rep uint32) {
		b.dropped = append(b.dropped, rep)
		delete(b.sizes, rep)
	}}
	return enginetest.Linker(t, enginetest.Shared(t), map[string]engine.Interface{
		"test:kv/store@0.1.2": {
			Resources: map[string]engine.Resource{"bucket": res},
			Funcs: map[string]engine.HostFunc{
				"[constructor]bucket": func(_ *engine.Store, a []engine.Val) (engine.Val, error) {
					rep := uint32(len(b.sizes) + 100)
					b.sizes[rep] = uint32(a[0].Uint())
					return engine.Own(bucketType, rep), nil
				},
				"[method]bucket.size": size,
				"pass": func(_ *engine.Store, a []engine.Val) (engine.Val, error) {
					if !a[0].IsSet() {
						return engine.Val{}, errors.New("an own came as borrowed")
					}
					return a[0], nil
				},
				"two": func(_ *engine.Store, a []engine.Val) (engine.Val, error) {
					sum := uint32(0)
					for _, v := range a[0].Elems() {
						n, err := b.size(v)
						if err != nil {
							return n, err
						}
						sum += uint32(n.Uint())
					}
					return engine.U32(sum), nil
				},
			},
		},
		"test:kv/other@0.1.0": {
			Resources: map[string]engine.Resource{"also": res},
			Funcs:     map[string]engine.HostFunc{"size": size},
		},
	})
}

func TestAGuestUsesAndDropsTheHostsResources(t *testing.T) {
	b := &buckets{sizes: map[uint32]uint32{}}
	c := enginetest.Compile(t, enginetest.Shared(t), hostResourceWat)
	_, i := start(t, t.Context(), b.linker(t), c, engine.Limits{})
	for n := range 50 {
		v, err := i.Call(export(t, c, "round"), engine.U32(5))
		if err != nil || v.Uint() != 20 {
			t.Fatalf("round %d: %v, %v", n, v, err)
		}
	}
	if len(b.dropped) != 50 || len(b.sizes) != 0 {
		t.Fatalf("%d drops, %d left", len(b.dropped), len(b.sizes))
	}
}

func TestTheHostLendsAndGivesItsResourcesToAGuest(t *testing.T) {
	b := &buckets{sizes: map[uint32]uint32{1: 11, 2: 22}}
	c := enginetest.Compile(t, enginetest.Shared(t), hostResourceWat)
	_, i := start(t, t.Context(), b.linker(t), c, engine.Limits{})
	for range 1000 {
		if v, err := i.Call(export(t, c, "lend"), engine.Borrow(bucketType, 1)); err != nil || v.Uint() != 11 {
			t.Fatalf("lend: %v, %v", v, err)
		}
	}
	if _, err := i.Call(export(t, c, "take"), engine.Own(bucketType, 2)); err != nil {
		t.Fatal(err)
	}
	if len(b.dropped) != 1 || b.dropped[0] != 2 {
		t.Fatalf("dropped %v", b.dropped)
	}
	v, err := i.Call(export(t, c, "keep"), engine.U32(5))
	if ty, _ := v.Resource(); err != nil || ty != bucketType || !v.IsSet() || b.sizes[v.Rep()] != 5 {
		t.Fatalf("keep: %v, %v", v, err)
	}
	if _, err := i.Call(export(t, c, "lend"), engine.Borrow(9, 1)); err == nil {
		t.Error("a resource of another type was taken")
	}
	if _, err := i.Call(export(t, c, "take"), engine.Borrow(bucketType, 1)); err == nil || !strings.Contains(err.Error(), "takes ownership") {
		t.Errorf("a borrow given away: %v", err)
	}
	b.sizes[3] = 33
	_, err = i.Call(export(t, c, "lend-forgotten"), engine.Borrow(bucketType, 3))
	if trap := asTrap(t, err); !strings.Contains(trap.Message, "borrow handles still remain") {
		t.Errorf("a guest that keeps a borrow: %#v", trap)
	}
}

func TestCloseRunsNoDestructor(t *testing.T) {
	b := &buckets{sizes: map[uint32]uint32{}}
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, hostResourceWat)
	s := e.NewStore(t.Context(), engine.Limits{}, nil)
	i, err := b.linker(t).Instantiate(s, c)
	if err != nil {
		t.Fatal(err)
	}
	b.sizes[1] = 1
	if _, err := i.Call(export(t, c, "keep"), engine.U32(5)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if len(b.dropped) != 0 {
		t.Fatalf("dropped %v: the host sweeps its own table", b.dropped)
	}
}

func TestAPanicInADestructorIsATrap(t *testing.T) {
	e := enginetest.Shared(t)
	b := &buckets{sizes: map[uint32]uint32{}}
	c := enginetest.Compile(t, e, hostResourceWat)
	l := b.linker(t)
	s, i := start(t, t.Context(), l, c, engine.Limits{})
	_ = s
	b.sizes = nil // the destructor of an unknown bucket is fine, the constructor panics: assignment to a nil map
	_, err := i.Call(export(t, c, "round"), engine.U32(5))
	var p *engine.HostPanic
	if trap := asTrap(t, err); trap.Code != engine.TrapHost || !errors.As(err, &p) || !strings.Contains(trap.Message, "[constructor]bucket") {
		t.Fatalf("%#v", trap)
	}
}

// A guest with a resource type of its own, whose destructor counts.
const guestResourceWat = `(component
  (core module $counts
    (global $dropped (mut i32) (i32.const 0))
    (func (export "dtor") (param i32)
      (if (i32.eq (local.get 0) (i32.const 666)) (then unreachable))
      (global.set $dropped (i32.add (global.get $dropped) (i32.const 1))))
    (func (export "dropped") (result i32) (global.get $dropped)))
  (core instance $counts (instantiate $counts))
  (type $r' (resource (rep i32) (dtor (func $counts "dtor"))))
  (core func $new (canon resource.new $r'))
  (core func $rep (canon resource.rep $r'))
  (core func $drop (canon resource.drop $r'))
  (core module $m
    (import "" "new" (func $new (param i32) (result i32)))
    (import "" "rep" (func $rep (param i32) (result i32)))
    (import "" "drop" (func $drop (param i32)))
    (func (export "make") (param i32) (result i32) (call $new (local.get 0)))
    (func (export "look") (param i32) (result i32) (local.get 0))
    (func (export "eat") (param i32) (result i32) (local $n i32)
      (local.set $n (call $rep (local.get 0))) (call $drop (local.get 0)) (local.get $n)))
  (core instance $i (instantiate $m (with "" (instance
    (export "new" (func $new)) (export "rep" (func $rep)) (export "drop" (func $drop))))))
  (export $r "thing" (type $r'))
  (func (export "make") (param "n" u32) (result (own $r)) (canon lift (core func $i "make")))
  (func (export "look") (param "r" (borrow $r)) (result u32) (canon lift (core func $i "look")))
  (func (export "eat") (param "r" (own $r)) (result u32) (canon lift (core func $i "eat")))
  (func (export "dropped") (result u32) (canon lift (core func $counts "dropped"))))`

func TestTheHostHoldsAndDropsAGuestsResources(t *testing.T) {
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, guestResourceWat)
	s, i := start(t, t.Context(), enginetest.Linker(t, e, nil), c, engine.Limits{})
	call := func(name string, args ...engine.Val) engine.Val {
		t.Helper()
		v, err := i.Call(export(t, c, name), args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return v
	}
	a, b := call("make", engine.U32(41)), call("make", engine.U32(42))
	if a.Kind() != engine.KindGuestResource || !a.IsSet() {
		t.Fatalf("make gives %v", a)
	}
	if n := call("look", a).Uint() + call("look", b).Uint() + call("look", a).Uint(); n != 124 {
		t.Fatalf("looks add up to %d", n)
	}
	if n := call("eat", b).Uint(); n != 42 {
		t.Fatalf("eat gives %d", n)
	}
	if err := s.Drop(a); err != nil {
		t.Fatal(err)
	}
	if n := call("dropped").Uint(); n != 2 {
		t.Fatalf("%d destructors ran, want 2", n)
	}
	for _, gone := range []engine.Val{a, b} {
		if _, err := i.Call(export(t, c, "look"), gone); err == nil {
			t.Error("a resource that is gone was looked at")
		}
		if err := s.Drop(gone); err == nil {
			t.Error("a resource that is gone was dropped again")
		}
	}
	if err := s.Drop(engine.U32(1)); err == nil {
		t.Error("a number was dropped")
	}
	for range 100 { // what isn't dropped goes with the store
		call("make", engine.U32(1))
	}
	bad := call("make", engine.U32(666))
	if trap := asTrap(t, s.Drop(bad)); trap.Code != engine.TrapUnreachable {
		t.Errorf("a destructor that traps: %#v", trap)
	}
}

func TestAResourceOfAnotherStoreIsRefused(t *testing.T) {
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, guestResourceWat)
	l := enginetest.Linker(t, e, nil)
	_, i := start(t, t.Context(), l, c, engine.Limits{})
	_, j := start(t, t.Context(), l, c, engine.Limits{})
	v, err := i.Call(export(t, c, "make"), engine.U32(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Call(export(t, c, "look"), v); err == nil {
		t.Fatal("it was taken")
	}
}
