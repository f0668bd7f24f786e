package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
)

// faults is a component with one export for each way to go wrong.
const faultsWat = `(component
  (import "host" (func $host (param "n" u32) (result u32)))
  (core func $host' (canon lower (func $host)))
  (core module $m
    (import "" "host" (func $host (param i32) (result i32)))
    (memory (export "memory") 1)
    (func $deep (export "unreachable") unreachable)
    (func (export "outer") call $deep)
    (func (export "oob") (drop (i32.load (i32.const 2147483647))))
    (func (export "loop") (loop $l (br $l)))
    (func $r (export "recurse") (param i32) (result i32) (i32.add (call $r (local.get 0)) (i32.const 1)))
    (func (export "div") (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0)))
    (func (export "host") (param i32) (result i32) (call $host (local.get 0)))
    (func (export "hostloop") (loop $l (drop (call $host (i32.const 0))) (br $l)))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
  (core instance $i (instantiate $m (with "" (instance (export "host" (func $host'))))))
  (func (export "unreachable") (canon lift (core func $i "unreachable")))
  (func (export "outer") (canon lift (core func $i "outer")))
  (func (export "oob") (canon lift (core func $i "oob")))
  (func (export "loop") (canon lift (core func $i "loop")))
  (func (export "recurse") (param "n" u32) (result u32) (canon lift (core func $i "recurse")))
  (func (export "div") (param "n" u32) (result u32) (canon lift (core func $i "div")))
  (func (export "host") (param "n" u32) (result u32) (canon lift (core func $i "host")))
  (func (export "hostloop") (canon lift (core func $i "hostloop")))
  (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow"))))`

// faults starts an instance of it whose import is host.
func faults(t testing.TB, ctx context.Context, lim engine.Limits, host engine.HostFunc) func(name string, args ...engine.Val) (engine.Val, error) {
	t.Helper()
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, faultsWat)
	l := enginetest.Linker(t, e, map[string]engine.Interface{"": {Funcs: map[string]engine.HostFunc{"host": host}}})
	_, i := start(t, ctx, l, c, lim)
	return func(name string, args ...engine.Val) (engine.Val, error) { return i.Call(export(t, c, name), args...) }
}

func echoHost(_ *engine.Store, args []engine.Val) (engine.Val, error) { return args[0], nil }

func asTrap(t *testing.T, err error) *engine.Trap {
	t.Helper()
	var trap *engine.Trap
	if !errors.As(err, &trap) {
		t.Fatalf("error %v (%T) is not a trap", err, err)
	}
	return trap
}

func TestTrapsAreTypedAndNameTheGuestsFrames(t *testing.T) {
	for name, want := range map[string]struct {
		code  engine.TrapCode
		text  string
		frame string
		args  []engine.Val
	}{
		"unreachable": {engine.TrapUnreachable, "unreachable", "m!deep", nil},
		"outer":       {engine.TrapUnreachable, "unreachable", "m!deep", nil},
		"oob":         {engine.TrapMemory, "out of bounds", "m!<wasm function", nil},
		"recurse":     {engine.TrapStack, "call stack exhausted", "m!r", []engine.Val{engine.U32(1)}},
		"div":         {engine.TrapOther, "divide by zero", "m!<wasm function", []engine.Val{engine.U32(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			call := faults(t, t.Context(), engine.Limits{}, echoHost)
			_, err := call(name, want.args...)
			trap := asTrap(t, err)
			if trap.Code != want.code || !strings.Contains(trap.Message, want.text) || strings.Contains(trap.Message, "\n") {
				t.Errorf("trap %d %q", trap.Code, trap.Message)
			}
			if len(trap.Backtrace) == 0 || !strings.HasPrefix(trap.Backtrace[0], want.frame) {
				t.Errorf("backtrace %q, want %s first", trap.Backtrace, want.frame)
			}
			if name == "outer" && len(trap.Backtrace) != 2 {
				t.Errorf("backtrace %q, want two frames", trap.Backtrace)
			}
			if _, err := call("host", engine.U32(1)); err == nil {
				t.Error("an instance was entered after a trap")
			}
		})
	}
}

func TestAnEndlessLoopIsInterruptedAndOthersGoOn(t *testing.T) {
	cause := errors.New("limit: 500ms")
	ctx, cancel := context.WithCancelCause(t.Context())
	started := make(chan struct{})
	call := faults(t, ctx, engine.Limits{}, func(*engine.Store, []engine.Val) (engine.Val, error) {
		select {
		case <-started:
		default:
			close(started)
		}
		return engine.U32(0), nil
	})
	// A neighbour that runs through the interruption, on the same engine, until the loop has ended.
	ended := make(chan struct{})
	neighbour := make(chan error, 1)
	other := faults(t, t.Context(), engine.Limits{}, func(*engine.Store, []engine.Val) (engine.Val, error) {
		select {
		case <-ended:
			return engine.Val{}, errDone
		default:
			return engine.U32(0), nil
		}
	})
	go func() { _, err := other("hostloop"); neighbour <- err }()
	go func() { <-started; cancel(cause) }()
	_, err := call("hostloop")
	if trap := asTrap(t, err); trap.Code != engine.TrapInterrupt || !errors.Is(err, cause) || len(trap.Backtrace) == 0 {
		t.Errorf("interrupted: %#v", trap)
	}
	close(ended)
	if err := <-neighbour; !errors.Is(err, errDone) {
		t.Errorf("the neighbour ended with %v", err)
	}
}

var errDone = errors.New("done")

func TestALoopWithoutHostCallsIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	call := faults(t, ctx, engine.Limits{}, echoHost)
	time.AfterFunc(20*time.Millisecond, func() { cancel(errDone) })
	_, err := call("loop")
	if trap := asTrap(t, err); trap.Code != engine.TrapInterrupt || !errors.Is(err, errDone) {
		t.Fatalf("%#v", trap)
	}
}

// A guest that is just looking at the epoch for a neighbour's sake when its own turn comes must not miss it. The debug build
// makes that moment long.
func TestGuestsThatAreInterruptedTogetherAllEnd(t *testing.T) {
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, faultsWat)
	started := make(chan struct{}, 1)
	l := enginetest.Linker(t, e, map[string]engine.Interface{"": {Funcs: map[string]engine.HostFunc{"host": func(s *engine.Store, _ []engine.Val) (engine.Val, error) {
		if first := s.Data().(*atomic.Bool); !first.Swap(true) {
			started <- struct{}{}
		}
		return engine.U32(0), nil
	}}}})
	loop := export(t, c, "hostloop")
	const guests = 8
	for round := range 20 {
		ctx, cancel := context.WithCancelCause(context.Background())
		ended := make(chan error, guests)
		for range guests {
			go func() {
				s := e.NewStore(ctx, engine.Limits{}, new(atomic.Bool))
				defer s.Close()
				i, err := l.Instantiate(s, c)
				if err == nil {
					_, err = i.Call(loop)
				}
				ended <- err
			}()
		}
		for range guests {
			<-started
		}
		cancel(errDone)
		for n := range guests {
			select {
			case err := <-ended:
				if trap := asTrap(t, err); trap.Code != engine.TrapInterrupt || !errors.Is(err, errDone) {
					t.Fatalf("%#v", trap)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("round %d: %d of %d guests run on", round, guests-n, guests)
			}
		}
	}
}

func TestAnEndedContextEntersNoGuest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ran := false
	call := faults(t, ctx, engine.Limits{}, func(_ *engine.Store, a []engine.Val) (engine.Val, error) { ran = true; return a[0], nil })
	cancel()
	_, err := call("host", engine.U32(1))
	if trap := asTrap(t, err); trap.Code != engine.TrapInterrupt || !errors.Is(err, context.Canceled) || ran {
		t.Fatalf("%#v, host ran: %v", trap, ran)
	}
}

func TestAHostThatGivesUpWaitingIsAnInterruption(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := faults(t, ctx, engine.Limits{}, func(s *engine.Store, _ []engine.Val) (engine.Val, error) {
		cancel()
		<-s.Context().Done()
		return engine.Val{}, fmt.Errorf("read body: %w", context.Cause(s.Context()))
	})("host", engine.U32(1))
	if trap := asTrap(t, err); trap.Code != engine.TrapInterrupt {
		t.Fatalf("%#v", trap)
	}
}

type denied struct{ what string }

func (d *denied) Error() string { return "denied: " + d.what }

func TestAHostErrorEndsTheGuestAndComesBackWhole(t *testing.T) {
	want := &denied{"outbound host"}
	_, err := faults(t, t.Context(), engine.Limits{}, func(*engine.Store, []engine.Val) (engine.Val, error) {
		return engine.Val{}, fmt.Errorf("connect: %w", want)
	})("host", engine.U32(1))
	var got *denied
	if trap := asTrap(t, err); trap.Code != engine.TrapHost || !errors.As(err, &got) || got != want || trap.Message != "host" || len(trap.Backtrace) == 0 {
		t.Fatalf("%#v", trap)
	}
}

func TestAHostPanicNeitherCrossesCNorEndsTheProcess(t *testing.T) {
	for name, value := range map[string]any{"error": errDone, "text": "boom", "nil pointer": nil} {
		t.Run(name, func(t *testing.T) {
			_, err := faults(t, t.Context(), engine.Limits{}, func(*engine.Store, []engine.Val) (engine.Val, error) {
				if value == nil {
					var p *engine.Extern
					return engine.String(p.Name), nil //nolint:govet // the fault is the test: wasmtime sees its signal first
				}
				panic(value)
			})("host", engine.U32(1))
			var p *engine.HostPanic
			if trap := asTrap(t, err); trap.Code != engine.TrapHost || !errors.As(err, &p) || !strings.Contains(string(p.Stack), "call_test.go") {
				t.Fatalf("%#v", trap)
			}
			if want, is := value.(error); is && !errors.Is(err, want) {
				t.Errorf("the panic's error is not in %v", err)
			}
		})
	}
}

func TestAWrongResultOfAHostFunctionIsAnError(t *testing.T) {
	for name, v := range map[string]engine.Val{
		"none":      {},
		"string":    engine.String("7"),
		"u64":       engine.U64(7),
		"bad UTF-8": engine.String("\xff"),
		"bad char":  engine.Char(0xD800),
		"record":    engine.Record(engine.Field{Name: "a", Val: engine.U8(1)}),
		"option":    engine.Some(engine.U32(1)),
		"resource":  engine.Own(1, 1),
		"borrow":    engine.Borrow(1, 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := faults(t, t.Context(), engine.Limits{}, func(*engine.Store, []engine.Val) (engine.Val, error) { return v, nil })("host", engine.U32(1))
			if trap := asTrap(t, err); !strings.Contains(trap.Error(), "host") {
				t.Fatalf("the error doesn't name the function: %v", err)
			}
		})
	}
}

func TestWrongArgumentsAreAnErrorAndNotATrap(t *testing.T) {
	call := faults(t, t.Context(), engine.Limits{}, echoHost)
	for name, args := range map[string][]engine.Val{
		"none": nil, "two": {engine.U32(1), engine.U32(2)}, "kind": {engine.String("x")}, "bad UTF-8": {engine.String("\xff")}, "nothing": {{}},
	} {
		_, err := call("host", args...)
		var trap *engine.Trap
		if err == nil || errors.As(err, &trap) || !strings.HasPrefix(err.Error(), "call host: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if v, err := call("host", engine.U32(9)); err != nil || v.Uint() != 9 {
		t.Errorf("after them: %v, %v", v, err)
	}
}

func TestMemoryStopsAtItsLimit(t *testing.T) {
	call := faults(t, t.Context(), engine.Limits{Memory: 1 << 20}, echoHost)
	if v, err := call("grow", engine.U32(15)); err != nil || v.Int() != 1 {
		t.Fatalf("grow to the limit: %v, %v", v, err)
	}
	if v, err := call("grow", engine.U32(1)); err != nil || v.Int() != -1 {
		t.Fatalf("grow over the limit: %v, %v", v, err)
	}

	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, `(component (core module $m (memory 100)) (core instance (instantiate $m)))`)
	s := e.NewStore(t.Context(), engine.Limits{Memory: 1 << 20}, nil)
	defer s.Close()
	_, err := enginetest.Linker(t, e, nil).Instantiate(s, c)
	if trap := asTrap(t, err); trap.Code != engine.TrapMemory || !strings.Contains(trap.Message, "memory") {
		t.Fatalf("a memory that starts over the limit: %#v", trap)
	}
}

func TestAGuestThatTrapsInItsStartIsATrap(t *testing.T) {
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, `(component (core module $m (func $s unreachable) (start $s)) (core instance (instantiate $m)))`)
	s := e.NewStore(t.Context(), engine.Limits{}, nil)
	defer s.Close()
	_, err := enginetest.Linker(t, e, nil).Instantiate(s, c)
	if trap := asTrap(t, err); trap.Code != engine.TrapUnreachable {
		t.Fatalf("%#v", trap)
	}
}

func TestAMissingImportIsNamed(t *testing.T) {
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, faultsWat)
	s := e.NewStore(t.Context(), engine.Limits{}, nil)
	defer s.Close()
	_, err := enginetest.Linker(t, e, nil).Instantiate(s, c)
	var trap *engine.Trap
	if err == nil || errors.As(err, &trap) || !strings.Contains(err.Error(), "`host`") {
		t.Fatalf("%v", err)
	}
}

func TestAHostFunctionMayCallAnotherInstance(t *testing.T) {
	e := enginetest.Shared(t)
	add := enginetest.Compile(t, e, addWat)
	x := export(t, add, "add")
	plain := enginetest.Linker(t, e, nil)
	call := faults(t, t.Context(), engine.Limits{}, func(s *engine.Store, args []engine.Val) (engine.Val, error) {
		n := args[0]
		i, err := plain.Instantiate(s, add)
		if err != nil {
			return engine.Val{}, err
		}
		return i.Call(x, n, engine.U32(1))
	})
	if v, err := call("host", engine.U32(41)); err != nil || v.Uint() != 42 {
		t.Fatalf("%v, %v", v, err)
	}
}

func TestMisuseAfterCloseIsAnError(t *testing.T) {
	if engine.DebugBuild {
		t.Skip("this build panics instead")
	}
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, addWat)
	l := e.NewLinker()
	s := e.NewStore(t.Context(), engine.Limits{}, nil)
	i, err := l.Instantiate(s, c)
	if err != nil {
		t.Fatal(err)
	}
	x := export(t, c, "add")
	c.Close()
	l.Close()
	if v, err := i.Call(x, engine.U32(1), engine.U32(2)); err != nil || v.Uint() != 3 {
		t.Errorf("an instance must outlive its component's Close: %v, %v", v, err)
	}
	s2 := e.NewStore(t.Context(), engine.Limits{}, nil)
	defer s2.Close()
	if _, err := l.Instantiate(s2, c); err == nil {
		t.Error("a closed linker works")
	}
	l2 := enginetest.Linker(t, e, nil)
	if _, err := l2.Instantiate(s2, c); err == nil {
		t.Error("a closed component works")
	}
	if _, err := c.Serialize(); err == nil {
		t.Error("a closed component serialises")
	}
	s.Close()
	s.Close()
	if _, err := i.Call(x, engine.U32(1), engine.U32(2)); err == nil {
		t.Error("a closed store works")
	}
	if err := l.Define("x", engine.Interface{}); err == nil {
		t.Error("a closed linker takes definitions")
	}
}
