package engine

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// CompileError says why bytes can't become a component.
type CompileError struct {
	Reason CompileReason
	Err    error // wasmtime's own words
}

// CompileReason sorts compile errors by what the user can do.
type CompileReason uint8

// The reasons of a CompileError.
const (
	Malformed   CompileReason = iota // not valid wasm: truncated, bits flipped
	CoreModule                       // a core module, not a component
	NeedsWASIp3                      // async component model (WASI 0.3)
	Oversized                        // larger from its start than any limit allows
)

func (e *CompileError) Error() string {
	switch e.Reason {
	case CoreModule:
		return "this is a core WebAssembly module, not a component: wrap it with `wasm-tools component new`"
	case NeedsWASIp3:
		return "it needs the async component model (WASI 0.3), which this engine doesn't have; " +
			"build it for WASI 0.2: " + e.Err.Error()
	case Oversized:
		return "it starts larger than any memory limit allows: " + e.Err.Error()
	}
	return "not a valid WebAssembly component: " + e.Err.Error()
}

func (e *CompileError) Unwrap() error { return e.Err }

// Component is compiled code. Safe for concurrent use.
type Component struct {
	engine           *Engine
	ptr              *C.wasmtime_component_t
	imports, exports []Extern
	refs             refs // the owner's, and one for every instance
	closed           mark

	mu      sync.Mutex
	found   map[string]*Export // by full name
	linkers []*linked          // one for each Linker that it was instantiated with
	linked  atomic.Pointer[linked]
	shape   atomic.Pointer[shape] // of an instance, as far as known
}

// Export is a looked-up exported function of one component; it lives as long as the component.
type Export struct {
	component *Component
	name      string
	index     *C.wasmtime_component_export_index_t
	result    bool
}

// String is the function's full name, "wasi:http/incoming-handler@0.2.3#handle".
func (x *Export) String() string { return x.name }

var (
	wasmMagic       = []byte("\x00asm")
	coreHeader      = []byte("\x00asm\x01\x00\x00\x00")
	componentHeader = []byte("\x00asm\x0d\x00\x01\x00")
)

// Compile a component from wasm bytes. Errors are a *CompileError.
func (e *Engine) Compile(wasm []byte) (*Component, error) {
	switch {
	case bytes.HasPrefix(wasm, coreHeader):
		return nil, &CompileError{CoreModule, errors.New("a core module's header")}
	case !bytes.HasPrefix(wasm, wasmMagic):
		return nil, &CompileError{Malformed, fmt.Errorf("it starts with %.8q", wasm[:min(8, len(wasm))])}
	case !bytes.HasPrefix(wasm, componentHeader):
		return nil, &CompileError{Malformed, fmt.Errorf("unknown version or truncated header %x", wasm[:min(8, len(wasm))])}
	}
	e.retain("Compile")
	var ptr *C.wasmtime_component_t
	err := takeError(C.wasmtime_component_new(e.ptr, (*C.uint8_t)(&wasm[0]), C.size_t(len(wasm)), &ptr))
	if err == nil {
		return e.newComponent(ptr), nil
	}
	e.release()
	reason := Malformed
	if strings.Contains(err.text, "component model async") || strings.Contains(err.text, "error-context") {
		reason = NeedsWASIp3
	} else if strings.Contains(err.text, "does not fit in pooling allocator requirements") {
		reason = Oversized
	}
	return nil, &CompileError{reason, errors.New(err.oneLine())}
}

// Load a compiled component that Serialize gave, mapped from the file, which must not change while the component lives. The
// file is native code: only its own writer may be trusted with it. Another engine's, or a damaged one, is an error.
func (e *Engine) Load(path string) (*Component, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, fmt.Errorf("load component %q: no such file", path)
	}
	e.retain("Load")
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var ptr *C.wasmtime_component_t
	if err := takeError(C.wasmtime_component_deserialize_file(e.ptr, name, &ptr)); err != nil {
		e.release()
		return nil, fmt.Errorf("load component %s: %s", path, err.oneLine())
	}
	return e.newComponent(ptr), nil
}

func (e *Engine) newComponent(ptr *C.wasmtime_component_t) *Component {
	c := &Component{engine: e, ptr: ptr, found: map[string]*Export{}}
	c.imports, c.exports = reflectExterns(c, true), reflectExterns(c, false)
	c.shape.Store(&shape{memories: 1})
	c.refs.init()
	watch(c, "component", &c.closed)
	return c
}

// Close gives the component up. Its instances live until their stores close.
func (c *Component) Close() {
	if c.closed.close() {
		c.release()
	}
}

func (c *Component) release() {
	c.refs.release(func() {
		for _, x := range c.found {
			C.wasmtime_component_export_index_delete(x.index)
		}
		for _, k := range c.linkers {
			C.wasmtime_component_linker_delete(k.ptr)
		}
		c.linked.Store(nil)
		C.wasmtime_component_delete(c.ptr)
		c.found, c.linkers, c.ptr = nil, nil, nil
		c.engine.release()
	})
}

// use keeps the component alive until the release that must follow.
func (c *Component) use() error {
	if c.closed.Load() || !c.refs.retain() {
		return misuse("use of a closed component")
	}
	poke()
	return nil
}

// Serialize gives the compiled code for a file that Load can map.
func (c *Component) Serialize() ([]byte, error) {
	if err := c.use(); err != nil {
		return nil, fmt.Errorf("serialize component: %w", err)
	}
	defer c.release()
	var out C.wasm_byte_vec_t
	if err := takeError(C.wasmtime_component_serialize(c.ptr, &out)); err != nil {
		return nil, fmt.Errorf("serialize component: %s", err.oneLine())
	}
	defer C.wasm_byte_vec_delete(&out)
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(out.data)), out.size)), nil
}

// Imports are what the component needs from a linker.
func (c *Component) Imports() []Extern { return c.imports }

// Exports are what the component gives.
func (c *Component) Exports() []Extern { return c.exports }

// Export finds an exported function: by its name, or by an interface's name and its own. A version in an interface's
// name matches any semver-compatible version that the component exports.
func (c *Component) Export(path ...string) (*Export, bool) {
	if len(path) == 0 {
		return nil, false
	}
	names := make([]string, 0, len(path))
	items, item := c.exports, Extern{}
	for _, want := range path {
		var ok bool
		if item, ok = match(items, want); !ok {
			return nil, false
		}
		names, items = append(names, item.Name), item.Items
	}
	if item.Kind != ExternFunc || c.use() != nil {
		return nil, false
	}
	defer c.release()
	full := strings.Join(names, "#")
	c.mu.Lock()
	defer c.mu.Unlock()
	if x, ok := c.found[full]; ok {
		return x, true
	}
	var parent, index *C.wasmtime_component_export_index_t
	for _, name := range names {
		index = C.wasmtime_component_get_export_index(c.ptr, parent, cstr(name), C.size_t(len(name)))
		runtime.KeepAlive(name)
		if parent != nil {
			C.wasmtime_component_export_index_delete(parent)
		}
		if parent = index; index == nil {
			return nil, false
		}
	}
	x := &Export{component: c, name: full, index: index, result: item.result}
	c.found[full] = x
	return x, true
}

// cstr lends a string's bytes to one C call that takes a length; the callee copies them.
func cstr(s string) *C.char { return (*C.char)(unsafe.Pointer(unsafe.StringData(s))) }
