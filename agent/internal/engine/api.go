// Package engine runs WebAssembly components on wasmtime. It holds all of the agent's cgo and no policy.
package engine

import "context"

// SKELETON: the exported API that other packages are being written against. The engine's author replaces each panic.

// Config of an Engine.
type Config struct {
	Slots int // instances that may exist at once; 0: as many as fit the address space, at most 32
}

// Engine compiles and holds components. Safe for concurrent use.
type Engine struct{}

func New(cfg Config) (*Engine, error) { panic("skeleton") }
func (e *Engine) Close()              { panic("skeleton") }

// CacheKey names everything that a compiled component depends on (library version, target, settings); safe in a file name.
func (e *Engine) CacheKey() string { panic("skeleton") }

// Compile a component from wasm bytes. Errors are a *CompileError.
func (e *Engine) Compile(wasm []byte) (*Component, error) { panic("skeleton") }

// Load a compiled component that Serialize gave, mapped from the file.
func (e *Engine) Load(path string) (*Component, error) { panic("skeleton") }

// CompileError says why bytes can't become a component.
type CompileError struct {
	Reason CompileReason
	Err    error
}

// CompileReason sorts compile errors by what the user can do.
type CompileReason uint8

const (
	Malformed     CompileReason = iota // not valid wasm: truncated, bits flipped
	CoreModule                         // a core module, not a component
	NeedsWASIp3                        // async component model (WASI 0.3)
)

func (e *CompileError) Error() string { panic("skeleton") }
func (e *CompileError) Unwrap() error { return e.Err }

// Component is compiled code.
type Component struct{}

func (c *Component) Close()                     { panic("skeleton") }
func (c *Component) Serialize() ([]byte, error) { panic("skeleton") }
func (c *Component) Imports() []Extern          { panic("skeleton") }
func (c *Component) Exports() []Extern          { panic("skeleton") }

// Export finds an exported function: by its name, or by an interface's name and its own. A version in an interface's
// name matches any semver-compatible version that the component exports.
func (c *Component) Export(path ...string) (*Export, bool) { panic("skeleton") }

// Extern is one import or export. Items are an instance's members.
type Extern struct {
	Name  string // "wasi:keyvalue/store@0.2.0-draft", or "get"
	Kind  ExternKind
	Items []Extern
}

type ExternKind uint8

const (
	ExternFunc ExternKind = iota
	ExternInstance
	ExternResource
	ExternType
	ExternModule
	ExternComponent
)

// Export is a looked-up exported function of one component.
type Export struct{}

// ResourceType numbers the host's resource types; the number is the type's identity in every interface that uses it.
type ResourceType uint32

// HostFunc handles one call of a guest into the host. Every borrow among args has been consumed already. An error traps
// the guest and comes back from Call inside a *Trap. args are valid during the call only (their strings and bytes may be kept).
type HostFunc func(s *Store, args []Val) (Val, error)

// Linker holds what components may import. Safe for concurrent Instantiate once defined.
type Linker struct{}

func (e *Engine) NewLinker() *Linker { panic("skeleton") }
func (l *Linker) Close()             { panic("skeleton") }

// Define an interface, once per name.
func (l *Linker) Define(name string, def Interface) error { panic("skeleton") }

// Interface is what a host gives under one import name; an empty name in Define is the root (world-level functions).
type Interface struct {
	Funcs     map[string]HostFunc // WIT names: "get", "[method]bucket.get", "[static]x.y", "[constructor]x"
	Resources map[string]Resource
}

// Resource is a host-defined resource type; Drop runs when a guest drops an owned handle (not when a Store closes).
type Resource struct {
	Type ResourceType
	Drop func(s *Store, rep uint32)
}

// Limits of one store. Zero fields mean the engine's defaults.
type Limits struct {
	Memory uint64 // bytes, each linear memory
	Tables uint32 // elements, each table
}

// Store is one event's world: instances, memories, resources. Not safe for concurrent use; Close ends it.
type Store struct{}

// NewStore makes a store. When ctx ends, guest code running in it is interrupted (Trap with code TrapInterrupt and the ctx's cause).
func (e *Engine) NewStore(ctx context.Context, l Limits, data any) *Store { panic("skeleton") }
func (s *Store) Close()                                                  { panic("skeleton") }
func (s *Store) Data() any                                               { panic("skeleton") }
func (s *Store) Context() context.Context                                { panic("skeleton") }

// Instance of a component in a store.
type Instance struct{}

func (l *Linker) Instantiate(s *Store, c *Component) (*Instance, error) { panic("skeleton") }

// Call an exported function. A trap is a *Trap.
func (i *Instance) Call(x *Export, args ...Val) (Val, error) { panic("skeleton") }

// Trap is how guest code ended other than by returning.
type Trap struct {
	Code      TrapCode
	Message   string   // wasmtime's one-line reason
	Backtrace []string // the guest's frames, innermost first
	Err       error    // the host function's error, or the ctx's cause for TrapInterrupt
}

type TrapCode uint8

const (
	TrapOther TrapCode = iota
	TrapUnreachable
	TrapInterrupt
	TrapMemory // memory limit or out of bounds
	TrapStack
	TrapHost // a host function returned an error or panicked
)

func (t *Trap) Error() string { panic("skeleton") }
func (t *Trap) Unwrap() error { return t.Err }
