package engine

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
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
//
// wasmtime looks each import of a component up by its name and checks its type again at every instantiation. So a component gets
// a C linker of its own, made at its first instantiation, with the functions that it imports and nothing else, each under
// the very name: half of the time of an instantiation.
type Linker struct {
	engine *Engine
	refs   refs // the owner's, and one for every Instantiate under way
	closed mark

	mu      sync.Mutex
	defined map[string]*defined // by the interface's name
}

// defined is one interface, with what C needs to find its members.
type defined struct {
	funcs     map[string]*hostFunc
	resources map[string]*hostDrop
}

// NewLinker makes an empty linker.
func (e *Engine) NewLinker() *Linker {
	e.retain("NewLinker")
	l := &Linker{engine: e, defined: map[string]*defined{}}
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

func (l *Linker) release() { l.refs.release(l.engine.release) }

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
	prefix := ""
	if name != "" {
		prefix = name + "#"
	}
	d := &defined{make(map[string]*hostFunc, len(def.Funcs)), make(map[string]*hostDrop, len(def.Resources))}
	for n, r := range def.Resources {
		d.resources[n] = &hostDrop{prefix + n, r.Type, r.Drop}
	}
	for n, f := range def.Funcs {
		if f == nil {
			return fmt.Errorf("function %s: it is nil", n)
		}
		if _, ok := d.resources[n]; ok {
			return fmt.Errorf("function %s: a resource has that name", n)
		}
		d.funcs[n] = &hostFunc{prefix + n, f}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.defined[name]; ok {
		return errors.New("it is defined already")
	}
	l.defined[name] = d
	return nil
}

// find the definition for an import: of its name, else the newest one whose version is semver-compatible. The caller holds mu.
func (l *Linker) find(name string) *defined {
	if d, ok := l.defined[name]; ok {
		return d
	}
	best := ""
	for n := range l.defined {
		if Compatible(n, name) && (best == "" || newer(n, best)) {
			best = n
		}
	}
	return l.defined[best]
}

// linked is a component's own C linker.
type linked struct {
	by  *Linker
	ptr *C.wasmtime_component_linker_t
}

// link makes c's own linker. What c imports and is not defined is left out, for wasmtime to say so.
func (l *Linker) link(c *Component) (*C.wasmtime_component_linker_t, error) {
	if k := c.linked.Load(); k != nil && k.by == l {
		return k.ptr, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.linkers {
		if k.by == l {
			return k.ptr, nil
		}
	}
	k := &linked{l, C.wasmtime_component_linker_new(l.engine.ptr)}
	root := C.wasmtime_component_linker_root(k.ptr)
	err := l.fillRoot(root, c.imports)
	C.wasmtime_component_linker_instance_delete(root)
	if err != nil {
		C.wasmtime_component_linker_delete(k.ptr)
		return nil, err
	}
	c.linkers = append(c.linkers, k)
	c.linked.Store(k)
	return k.ptr, nil
}

func (l *Linker) fillRoot(root *C.wasmtime_component_linker_instance_t, imports []Extern) error {
	for _, x := range imports {
		if x.Kind != ExternInstance {
			continue
		}
		d := l.find(x.Name)
		if d == nil {
			continue
		}
		var at *C.wasmtime_component_linker_instance_t
		if err := takeError(C.wasmtime_component_linker_instance_add_instance(root, cstr(x.Name), C.size_t(len(x.Name)), &at)); err != nil {
			return fmt.Errorf("link %s: %s", x.Name, err.oneLine())
		}
		err := d.add(at, x.Items)
		C.wasmtime_component_linker_instance_delete(at)
		if err != nil {
			return fmt.Errorf("link %s: %w", x.Name, err)
		}
	}
	if d := l.defined[""]; d != nil {
		return d.add(root, imports)
	}
	return nil
}

// add what is wanted of an interface.
func (d *defined) add(at *C.wasmtime_component_linker_instance_t, wanted []Extern) error {
	for _, x := range wanted {
		name, size := cstr(x.Name), C.size_t(len(x.Name))
		var err *cError
		if r, ok := d.resources[x.Name]; ok && x.Kind != ExternFunc {
			err = takeError(C.dunlin_add_resource(at, name, size, C.uint32_t(r.typ), C.uintptr_t(hostDrops.add(r))))
		} else if f, ok := d.funcs[x.Name]; ok && x.Kind == ExternFunc {
			err = takeError(C.dunlin_add_func(at, name, size, C.uintptr_t(hostFuncs.add(f))))
		}
		if err != nil {
			return fmt.Errorf("%s: %s", x.Name, err.oneLine())
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
	typ  ResourceType
	drop func(*Store, uint32)
}

// What C holds handles to: one of a function or a destructor for each linker that it was added to.
var (
	stores    handles[Store]
	hostFuncs handles[hostFunc]
	hostDrops handles[hostDrop]
)

//export dunlinReleaseFunc
func dunlinReleaseFunc(h C.uintptr_t) { hostFuncs.drop(uintptr(h)) }

//export dunlinReleaseDrop
func dunlinReleaseDrop(h C.uintptr_t) { hostDrops.drop(uintptr(h)) }

//export dunlinHostCall
func dunlinHostCall(store, fn C.uintptr_t, results C.size_t) C.bool {
	s, f := stores.get(uintptr(store)), hostFuncs.get(uintptr(fn))
	err := s.hostCall(f, results > 0)
	if err != nil {
		s.hostErr, s.hostName = err, f.name
	}
	return err == nil
}

//export dunlinHostDrop
func dunlinHostDrop(store, fn C.uintptr_t, rep C.uint32_t) C.bool {
	s, d := stores.get(uintptr(store)), hostDrops.get(uintptr(fn))
	if d.drop == nil {
		return true
	}
	err := s.hostDrop(d, uint32(rep))
	if err != nil {
		s.hostErr, s.hostName = err, "drop of "+d.name
	}
	return err == nil
}

// guard turns a panic into an error: a panic must not unwind C's frames.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = &HostPanic{p, debug.Stack()}
	}
}

func (s *Store) hostDrop(d *hostDrop, rep uint32) (err error) {
	defer guard(&err)
	d.drop(s, rep)
	return nil
}

func (s *Store) hostCall(f *hostFunc, wantsResult bool) (err error) {
	defer guard(&err)
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
