// Package enginetest helps other packages' tests to run components on a real engine.
package enginetest

import (
	"sync"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v44"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// Wat gives the binary of a component or module in text form.
func Wat(t testing.TB, text string) []byte {
	t.Helper()
	wasm, err := wasmtime.Wat2Wasm(text)
	if err != nil {
		t.Fatalf("read wat: %v", err)
	}
	return wasm
}

var shared = sync.OnceValues(func() (*engine.Engine, error) { return engine.New(engine.Config{}) })

// Shared is one engine for all tests of a process, which is never closed: making one per test would be most of their time.
func Shared(t testing.TB) *engine.Engine {
	t.Helper()
	e, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Compile a component in text form, closed with the test.
func Compile(t testing.TB, e *engine.Engine, text string) *engine.Component {
	t.Helper()
	c, err := e.Compile(Wat(t, text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Linker with the given interfaces, closed with the test.
func Linker(t testing.TB, e *engine.Engine, defs map[string]engine.Interface) *engine.Linker {
	t.Helper()
	l := e.NewLinker()
	t.Cleanup(l.Close)
	for name, def := range defs {
		if err := l.Define(name, def); err != nil {
			t.Fatal(err)
		}
	}
	return l
}
