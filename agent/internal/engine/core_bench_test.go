package engine

import (
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v44"
)

// BenchmarkCoreMemory is a sketch of a canonical ABI of our own: what bytes64KiB of BenchmarkCall does, over a core module whose
// memory Go copies into and out of.
func BenchmarkCoreMemory(b *testing.B) {
	wasm, err := wasmtime.Wat2Wasm(`(module
	  (import "" "h" (func $h (param i32 i32)))
	  (memory (export "m") 32)
	  (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536)
	  (func (export "in") (param i32 i32))
	  (func (export "through") (param i32 i32) (call $h (local.get 0) (local.get 1))))`)
	if err != nil {
		b.Fatal(err)
	}
	store := wasmtime.NewStore(wasmtime.NewEngine())
	module, err := wasmtime.NewModule(store.Engine, wasm)
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 64<<10)
	var got []byte
	var memory *wasmtime.Memory
	host := wasmtime.WrapFunc(store, func(at, n int32) {
		got = append(got[:0], memory.UnsafeData(store)[at:at+n]...)
	})
	instance, err := wasmtime.NewInstance(store, module, []wasmtime.AsExtern{host})
	if err != nil {
		b.Fatal(err)
	}
	memory = instance.GetExport(store, "m").Memory()
	realloc := instance.GetFunc(store, "realloc")
	for _, name := range []string{"in", "through"} {
		f := instance.GetFunc(store, name)
		b.Run("bytes64KiB/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				at, err := realloc.Call(store, 0, 0, 1, len(payload))
				if err != nil {
					b.Fatal(err)
				}
				copy(memory.UnsafeData(store)[at.(int32):], payload)
				if _, err := f.Call(store, at, len(payload)); err != nil {
					b.Fatal(err)
				}
			}
			if name == "through" && len(got) != len(payload) {
				b.Errorf("the host got %d bytes, want %d", len(got), len(payload))
			}
		})
	}
}
