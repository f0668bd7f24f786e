package engine_test

import (
	"context"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
)

const addWat = `(component
  (core module $m (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
  (core instance $i (instantiate $m))
  (func (export "add") (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add"))))`

// start gives a store and an instance in it, closed with the test.
func start(t testing.TB, ctx context.Context, l *engine.Linker, c *engine.Component, lim engine.Limits) (*engine.Store, *engine.Instance) {
	t.Helper()
	s := enginetest.Shared(t).NewStore(ctx, lim, t)
	t.Cleanup(s.Close)
	i, err := l.Instantiate(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return s, i
}

func export(t testing.TB, c *engine.Component, path ...string) *engine.Export {
	t.Helper()
	x, ok := c.Export(path...)
	if !ok {
		t.Fatalf("no export %q", path)
	}
	return x
}

func TestAComponentCompilesAndItsExportIsCalled(t *testing.T) {
	e := enginetest.Shared(t)
	c := enginetest.Compile(t, e, addWat)
	_, i := start(t, t.Context(), enginetest.Linker(t, e, nil), c, engine.Limits{})
	v, err := i.Call(export(t, c, "add"), engine.U32(2), engine.U32(40))
	if err != nil || v.Uint() != 42 {
		t.Fatalf("add(2, 40) = %v, %v", v, err)
	}
}
