package host

import (
	"context"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
)

var allInterfaces = provided(interfaces())

// direct calls host functions as a guest would, with no wasm between.
type direct struct {
	*Guest
	t *testing.T
}

func newDirect(t *testing.T, ctx context.Context, env *Env) direct {
	g := newGuest(ctx, defaultClient(), Limits{}, env)
	t.Cleanup(g.end)
	return direct{g, t}
}

// try a function: "wasi:io/poll poll".
func (d direct) try(name string, args ...engine.Val) (engine.Val, error) {
	d.t.Helper()
	face, function, _ := strings.Cut(name, " ")
	if !strings.Contains(face, "@") {
		face += wasi
	}
	i, ok := allInterfaces[face]
	if !ok {
		d.t.Fatalf("no interface %s", face)
	}
	fn, ok := i.funcs[function]
	if !ok {
		d.t.Fatalf("no function %s", name)
	}
	return fn.invoke(d.Guest, args)
}

// call a function that must not trap.
func (d direct) call(name string, args ...engine.Val) engine.Val {
	d.t.Helper()
	v, err := d.try(name, args...)
	if err != nil {
		d.t.Fatalf("%s: %v", name, err)
	}
	return v
}

// ok calls a function that must give an ok result, and gives its payload.
func (d direct) ok(name string, args ...engine.Val) engine.Val {
	d.t.Helper()
	v := d.call(name, args...)
	if !v.IsSet() {
		d.t.Fatalf("%s: %v", name, v.Payload())
	}
	return v.Payload()
}

// fails calls a function that must give an error result of that case.
func (d direct) fails(with, name string, args ...engine.Val) {
	d.t.Helper()
	if v := d.call(name, args...); v.IsSet() || v.Payload().Text() != with {
		d.t.Errorf("%s: got %v %v, want error %s", name, v.IsSet(), v.Payload(), with)
	}
}

// traps calls a function that must trap with a text.
func (d direct) traps(text, name string, args ...engine.Val) {
	d.t.Helper()
	if v, err := d.try(name, args...); err == nil || !strings.Contains(err.Error(), text) {
		d.t.Errorf("%s: got %v, %v, want a trap with %q", name, v, err, text)
	}
}

func str(s string) engine.Val      { return engine.String(s) }
func bin(s string) engine.Val      { return engine.Bytes([]byte(s)) }
func number(n int) engine.Val      { return engine.U64(uint64(n)) }
func some(v engine.Val) engine.Val { return engine.Some(v) }
