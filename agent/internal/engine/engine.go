// Package engine runs WebAssembly components on wasmtime. It holds all of the agent's cgo and no policy.
//
// An Engine compiles Components. A Linker says what they may import. A Store is one event's world: an Instance in it is
// called, and Store.Close ends all of it. Everything has an explicit Close; nothing is freed by the garbage collector.
// Build with -tags dunlindebug to make mistakes with lifetimes loud.
//
// wasmtime comes as the static library inside wasmtime-go, whose own API has no components. Values cross between Go and C
// as one flat buffer each way; Go pointers don't cross, callbacks carry handles.
package engine

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	_ "github.com/bytecodealliance/wasmtime-go/v44" // links the static library
)

// version of the library that wasmtime-go v44.0.0 holds.
const version = "44.0.0"

const (
	wasmStack     = 1 << 20   // bytes of native stack for guest code; threads have 8 MiB, 2 MiB under an unlimited ulimit -s
	keepResident  = 64 << 10  // bytes of a slot that are cleared rather than given back to the kernel
	tableElements = 100_000   // the largest table; StarlingMonkey's has about 20,000 elements
	defaultMemory = 128 << 20 // bytes, of a store without a limit of its own
)

// Config of an Engine.
type Config struct {
	Slots int // instances that may exist at once; 0: as many as fit the address space, at most 32
	// SourceLines keeps components' debug information (DWARF) with their code, so that a Trap's backtrace names source lines. It
	// costs memory, and compiled code that other engines don't load. Make such an engine before other goroutines use the environment.
	SourceLines bool
}

// Engine compiles and holds components. Safe for concurrent use.
type Engine struct {
	ptr    *C.wasm_engine_t
	plan   plan
	lines  bool   // SourceLines
	slots  *slots // one a linear memory
	refs   refs   // the owner's, and one for every component, linker and store
	closed mark
}

// creating keeps two engines from probing the same address space.
var creating sync.Mutex

// New reserves address space for as many instances as fit, up to cfg.Slots.
func New(cfg Config) (*Engine, error) {
	if cfg.Slots < 0 || cfg.Slots > maxSlots {
		return nil, fmt.Errorf("make engine: %d slots is not between 0 and %d", cfg.Slots, maxSlots)
	}
	keepLittle()
	creating.Lock()
	defer creating.Unlock()
	p := planPool(cfg.Slots, canReserve)
	c := C.dunlin_config{
		reservation: C.uint64_t(p.reservation), guard: C.uint64_t(p.guard),
		stack: wasmStack, table_elements: tableElements, keep_resident: keepResident,
		source_lines: C.bool(cfg.SourceLines),
	}
	if p.pooled {
		c.slots = C.uint32_t(p.slots)
	}
	e := &Engine{ptr: C.dunlin_engine_new(&c), plan: p, lines: cfg.SourceLines, slots: newSlots(p.slots)}
	if e.ptr == nil {
		return nil, fmt.Errorf("make engine: wasmtime refused the settings %+v", p)
	}
	e.refs.init()
	watch(e, "engine", &e.closed)
	return e, nil
}

// Close gives the engine up. What was made from it lives until its own Close.
func (e *Engine) Close() {
	if e.closed.close() {
		e.release()
	}
}

func (e *Engine) release() {
	e.refs.release(func() { C.wasm_engine_delete(e.ptr); e.ptr = nil })
}

// retain panics after Close: whoever makes something from a closed engine has lost track of it.
func (e *Engine) retain(what string) {
	if e.closed.Load() || !e.refs.retain() {
		panic("engine: " + what + " from a closed engine")
	}
	poke()
}

// Slots is how many linear memories can exist at once, and so how many instances of components with one memory.
func (e *Engine) Slots() int { return e.plan.slots }

// Pooled reports whether instances come from a reserved pool; not when the address space is too small for one.
func (e *Engine) Pooled() bool { return e.plan.pooled }

// CacheKey names everything that a compiled component depends on (library version, target, settings); safe in a file name.
func (e *Engine) CacheKey() string {
	key := fmt.Sprintf("wasmtime-%s-%s-%s-%x-%x", version, runtime.GOARCH, runtime.GOOS, e.plan.reservation, e.plan.guard)
	if e.lines {
		key += "-lines"
	}
	return key
}

// Live counts the components, linkers and stores that are not closed or still in use.
func (e *Engine) Live() int {
	n := int(e.refs.n.Load())
	if !e.closed.Load() {
		n--
	}
	return n
}

// mark says whether its owner was closed.
type mark struct {
	atomic.Bool
	leak leak
}

// close reports whether this was the first close.
func (m *mark) close() bool {
	m.leak.close()
	return !m.Swap(true)
}

// refs counts who uses something; the last to let go frees it.
type refs struct{ n atomic.Int64 }

func (r *refs) init() { r.n.Store(1) }

func (r *refs) retain() bool {
	for {
		n := r.n.Load()
		if n == 0 {
			return false
		}
		if r.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (r *refs) release(free func()) {
	if r.n.Add(-1) == 0 {
		free()
	}
}
