package host

import (
	"fmt"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// The host's resource types. A number is the type's identity in every interface that uses it: wasi:http's headers and
// trailers are fields, its io-error is wasi:io's error.
const (
	typError engine.ResourceType = iota + 1
	typPollable
	typInputStream
	typOutputStream
	typTerminalInput
	typTerminalOutput
	typDescriptor
	typDirectoryEntryStream
	typNetwork
	typResolveAddressStream
	typTCPSocket
	typUDPSocket
	typIncomingDatagramStream
	typOutgoingDatagramStream
	typFields
	typIncomingRequest
	typOutgoingRequest
	typRequestOptions
	typResponseOutparam
	typIncomingResponse
	typIncomingBody
	typFutureTrailers
	typOutgoingResponse
	typOutgoingBody
	typFutureIncomingResponse
	typBucketDraft
	typBucketDraft2
	typCas
	typMessagingClient
	typMessage
	typReplyOptions
	typSpinStore
	typSpinConnection
	typContainer
	typObjectNames
	typOutgoingValue
	typIncomingValue
)

// wasi is the version that WASI's interfaces are defined at, once: every other 0.2 version links to it.
const wasi = "@0.2.12"

// call is a host function's body: the arguments have the kinds that it was declared with.
type call func(g *Guest, a []engine.Val) (engine.Val, error)

// fn is a host function with the kinds of its parameters. The engine links a function by its name alone, so a
// guest may have declared other parameters than the text has.
type fn struct {
	call   call
	params []engine.Kind
}

func f(c call, params ...engine.Kind) fn { return fn{c, params} }

// resources are an interface's resource types: its own, and those that it uses of others, under the name that it has for them.
type resources = map[string]engine.ResourceType

// iface is one interface under the name that guests import.
type iface struct {
	name      string
	funcs     map[string]fn
	resources resources
	grant     grant // what the manifest must have for it; "" for nothing
}

// Short names for the kinds that functions take.
const (
	kHandle  = engine.KindHostResource
	kString  = engine.KindString
	kBytes   = engine.KindBytes
	kList    = engine.KindList
	kOption  = engine.KindOption
	kResult  = engine.KindResult
	kRecord  = engine.KindRecord
	kVariant = engine.KindVariant
	kEnum    = engine.KindEnum
	kFlags   = engine.KindFlags
	kBool    = engine.KindBool
	kU8      = engine.KindU8
	kU16     = engine.KindU16
	kU32     = engine.KindU32
	kU64     = engine.KindU64
	kS64     = engine.KindS64
)

// interfaces are all that a guest may import.
func interfaces() []*iface {
	all := [][]*iface{
		ioInterfaces(), clocksInterfaces(), randomInterfaces(), cliInterfaces(), filesystemInterfaces(), socketsInterfaces(),
		httpInterfaces(), keyvalueInterfaces(), blobstoreInterfaces(), messagingInterfaces(), configInterfaces(), loggingInterfaces(), spinInterfaces(),
	}
	var flat []*iface
	for _, part := range all {
		flat = append(flat, part...)
	}
	return flat
}

// define makes what the engine links.
func (i *iface) define() engine.Interface {
	def := engine.Interface{Funcs: make(map[string]engine.HostFunc, len(i.funcs)), Resources: make(map[string]engine.Resource, len(i.resources))}
	for name, fn := range i.funcs {
		def.Funcs[name] = adapt(fn)
	}
	for name, typ := range i.resources {
		def.Resources[name] = engine.Resource{Type: typ, Drop: dropHandle}
	}
	return def
}

// adapt a function to the engine, which names it in the trap that an error becomes.
func adapt(fn fn) engine.HostFunc {
	return func(s *engine.Store, args []engine.Val) (engine.Val, error) {
		return fn.invoke(s.Data().(*Guest), args)
	}
}

// invoke checks the arguments' kinds first.
func (fn fn) invoke(g *Guest, args []engine.Val) (engine.Val, error) {
	if len(args) != len(fn.params) {
		return none, fmt.Errorf("called with %d arguments, it has %d", len(args), len(fn.params))
	}
	for i, k := range fn.params {
		switch got := args[i].Kind(); {
		case got == k:
		case k == kBytes && got == kList && len(args[i].Elems()) == 0: // an empty list doesn't say of what
			args[i] = engine.Bytes(nil)
		default:
			return none, fmt.Errorf("argument %d has the wrong type", i+1)
		}
	}
	return fn.call(g, args)
}

// provided indexes the interfaces by exact name and, where they have a release version, by compatible name.
func provided(all []*iface) map[string]*iface {
	m := make(map[string]*iface, 2*len(all))
	for _, i := range all {
		m[i.name] = i
		if track := engine.Track(i.name); track != "" {
			m[track] = i
		}
	}
	return m
}

// pair splits a tuple of two.
func pair(v engine.Val) (a, b engine.Val, err error) {
	e := v.Elems()
	if len(e) != 2 {
		return a, b, fmt.Errorf("expected a tuple of two, got %d elements", len(e))
	}
	return e[0], e[1], nil
}

// Results that carry nothing, made once.
var (
	none    = engine.Val{}
	absent  = engine.Absent()
	okUnit  = engine.OK()
	errUnit = engine.Err()
)
