package engine

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime/cgo"
	"runtime/debug"
)

// ResourceType numbers the host's resource types; the number is the type's identity in every interface that uses it.
type ResourceType uint32

// HostFunc handles one call of a guest into the host. Every borrow among args has been consumed already. An error traps
// the guest and comes back from Call inside a *Trap; so does a panic, as a *HostPanic. args are valid during the call only
// (their strings and bytes may be kept). It must return: runtime.Goexit (as by t.Fatal) in it ends the process.
type HostFunc func(s *Store, args []Val) (Val, error)

// Resource is a host-defined resource type; Drop runs when a guest drops an owned handle (not when a Store closes).
type Resource struct {
	Type ResourceType
	Drop func(s *Store, rep uint32)
}

// Interface is what a host gives under one import name; an empty name in Define is the root (world-level functions).
type Interface struct {
	Funcs     map[string]HostFunc // WIT names: "get", "[method]bucket.get", "[static]x.y", "[constructor]x"
	Resources map[string]Resource
}

// HostPanic is a panic of a host function, as the Err of a Trap.
type HostPanic struct {
	Value any
	Stack []byte
}

func (p *HostPanic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Unwrap gives the panic's value where it is an error.
func (p *HostPanic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// Linker holds what components may import. Safe for concurrent Instantiate once defined.
type Linker struct {
	engine *Engine
	ptr    *C.wasmtime_component_linker_t
	refs   refs // the owner's, and one for every Instantiate under way
	closed mark
}

// NewLinker makes an empty linker.
func (e *Engine) NewLinker() *Linker {
	e.retain("NewLinker")
	l := &Linker{engine: e, ptr: C.wasmtime_component_linker_new(e.ptr)}
	l.refs.init()
	watch(l, "linker", &l.closed)
	return l
}

// Close gives the linker up. Instances made with it keep what they import.
func (l *Linker) Close() {
	if l.closed.close() {
		l.release()
	}
}

func (l *Linker) release() {
	l.refs.release(func() {
		C.wasmtime_component_linker_delete(l.ptr)
		l.ptr = nil
		l.engine.release()
	})
}

func (l *Linker) use() error {
	if l.closed.Load() || !l.refs.retain() {
		return misuse("use of a closed linker")
	}
	poke()
	return nil
}

// Define an interface, once per name. A definition at one 0.2.x version serves every other.
func (l *Linker) Define(name string, def Interface) error {
	if err := l.define(name, def); err != nil {
		return fmt.Errorf("define %q: %w", name, err)
	}
	return nil
}

func (l *Linker) define(name string, def Interface) error {
	if err := l.use(); err != nil {
		return err
	}
	defer l.release()
	at := C.wasmtime_component_linker_root(l.ptr)
	defer C.wasmtime_component_linker_instance_delete(at)
	prefix := ""
	if name != "" {
		prefix = name + "#"
		var inner *C.wasmtime_component_linker_instance_t
		if err := takeError(C.wasmtime_component_linker_instance_add_instance(at, cstr(name), C.size_t(len(name)), &inner)); err != nil {
			return errors.New(err.oneLine())
		}
		defer C.wasmtime_component_linker_instance_delete(inner)
		at = inner
	}
	for n, r := range def.Resources {
		h := cgo.NewHandle(&hostDrop{prefix + n, r.Drop})
		if err := takeError(C.dunlin_add_resource(at, cstr(n), C.size_t(len(n)), C.uint32_t(r.Type), C.uintptr_t(h))); err != nil {
			return fmt.Errorf("resource %s: %s", n, err.oneLine())
		}
	}
	for n, f := range def.Funcs {
		if f == nil {
			return fmt.Errorf("function %s: it is nil", n)
		}
		h := cgo.NewHandle(&hostFunc{prefix + n, f})
		if err := takeError(C.dunlin_add_func(at, cstr(n), C.size_t(len(n)), C.uintptr_t(h))); err != nil {
			return fmt.Errorf("function %s: %s", n, err.oneLine())
		}
	}
	return nil
}

type hostFunc struct {
	name string
	call HostFunc
}

type hostDrop struct {
	name string
	drop func(*Store, uint32)
}

//export dunlinRelease
func dunlinRelease(h C.uintptr_t) { cgo.Handle(h).Delete() }

//export dunlinHostCall
func dunlinHostCall(store, fn C.uintptr_t, results C.size_t) C.bool {
	s, f := cgo.Handle(store).Value().(*Store), cgo.Handle(fn).Value().(*hostFunc)
	err := s.guard(func() error { return s.hostCall(f, results > 0) })
	if err != nil {
		s.hostErr, s.hostName = err, f.name
	}
	return err == nil
}

//export dunlinHostDrop
func dunlinHostDrop(store, fn C.uintptr_t, rep C.uint32_t) C.bool {
	s, d := cgo.Handle(store).Value().(*Store), cgo.Handle(fn).Value().(*hostDrop)
	if d.drop == nil {
		return true
	}
	err := s.guard(func() error { d.drop(s, uint32(rep)); return nil })
	if err != nil {
		s.hostErr, s.hostName = err, "drop of "+d.name
	}
	return err == nil
}

// guard turns a panic into an error: a panic must not unwind C's frames.
func (s *Store) guard(f func() error) (err error) {
	s.running.Add(1)
	defer func() {
		s.running.Add(-1)
		if p := recover(); p != nil {
			err = &HostPanic{p, debug.Stack()}
		}
	}()
	return f()
}

func (s *Store) hostCall(f *hostFunc, wantsResult bool) error {
	d := decoder{b: s.received()}
	args := s.args[:0]
	s.args = nil // a call inside this one takes a slice of its own
	for n := d.u32(); n > 0 && d.err == nil; n-- {
		args = append(args, d.val(0))
	}
	if d.err != nil {
		return d.err
	}
	v, err := f.call(s, args)
	clear(args)
	s.args = args
	s.hostName = f.name
	switch {
	case err != nil:
		return err
	case !wantsResult && v.kind != KindNone:
		return errors.New("it returned a value, but its type has no result")
	case !wantsResult:
		return nil
	case v.kind == KindNone:
		return errors.New("it returned no value, but its type has a result")
	}
	return s.send(func(b []byte) ([]byte, error) { return appendVal(b, v, 0) })
}
