package engine

import (
	"fmt"
	"math"
)

// Kind says which type of the component model a Val holds.
type Kind uint8

// The kinds of Val. Bytes is list<u8>, which crosses the boundary in bulk and never element by element; an empty list has no
// element to tell its type by, and arrives as KindList whatever its type, with Raw and Elems both empty.
const (
	KindNone Kind = iota
	KindBool
	KindS8
	KindU8
	KindS16
	KindU16
	KindS32
	KindU32
	KindS64
	KindU64
	KindF32
	KindF64
	KindChar
	KindString
	KindBytes
	KindList
	KindRecord
	KindTuple
	KindVariant
	KindEnum
	KindOption
	KindResult
	KindFlags
	KindHostResource
	KindGuestResource
)

// Val is one value of the component model. The zero Val is "no value": the result of a function that has none.
type Val struct {
	kind  Kind
	set   bool     // bool: the value; option: some; result: ok; resource: owned
	num   uint64   // integers, float bits, char, resource type<<32|rep, index of a guest's resource
	str   string   // string, variant case, enum case
	raw   []byte   // list<u8>
	elems []Val    // list, tuple, record values, and the payload of variant, option and result
	names []string // record field names, flags that are set
}

// Kind of the value.
func (v Val) Kind() Kind { return v.kind }

// Bool makes a bool.
func Bool(b bool) Val { return Val{kind: KindBool, set: b} }

// S8 makes an s8.
func S8(n int8) Val { return Val{kind: KindS8, num: uint64(n)} }

// U8 makes a u8.
func U8(n uint8) Val { return Val{kind: KindU8, num: uint64(n)} }

// S16 makes an s16.
func S16(n int16) Val { return Val{kind: KindS16, num: uint64(n)} }

// U16 makes a u16.
func U16(n uint16) Val { return Val{kind: KindU16, num: uint64(n)} }

// S32 makes an s32.
func S32(n int32) Val { return Val{kind: KindS32, num: uint64(n)} }

// U32 makes a u32.
func U32(n uint32) Val { return Val{kind: KindU32, num: uint64(n)} }

// S64 makes an s64.
func S64(n int64) Val { return Val{kind: KindS64, num: uint64(n)} }

// U64 makes a u64.
func U64(n uint64) Val { return Val{kind: KindU64, num: n} }

// F32 makes an f32.
func F32(f float32) Val { return Val{kind: KindF32, num: uint64(math.Float32bits(f))} }

// F64 makes an f64.
func F64(f float64) Val { return Val{kind: KindF64, num: math.Float64bits(f)} }

// Char makes a char; it must be a Unicode scalar value, or the call that it is part of fails.
func Char(r rune) Val { return Val{kind: KindChar, num: uint64(uint32(r))} }

// String makes a string; it must be valid UTF-8, or the call that it is part of fails.
func String(s string) Val { return Val{kind: KindString, str: s} }

// Bytes makes a list<u8>; b is not copied until the call.
func Bytes(b []byte) Val { return Val{kind: KindBytes, raw: b} }

// List makes a list; its elements are of one kind. Bytes is the cheaper way to a list<u8>.
func List(v ...Val) Val { return Val{kind: KindList, elems: v} }

// Tuple makes a tuple.
func Tuple(v ...Val) Val { return Val{kind: KindTuple, elems: v} }

// Field is one field of a record.
type Field struct {
	Name string
	Val  Val
}

// Record makes a record; the fields stand in the order of the WIT text.
func Record(fields ...Field) Val {
	v := Val{kind: KindRecord, names: make([]string, len(fields)), elems: make([]Val, len(fields))}
	for i, f := range fields {
		v.names[i], v.elems[i] = f.Name, f.Val
	}
	return v
}

// Variant makes a case of a variant, with a payload or none.
func Variant(name string, payload ...Val) Val {
	return Val{kind: KindVariant, str: name, elems: payload}
}

// Enum makes a case of an enum.
func Enum(name string) Val { return Val{kind: KindEnum, str: name} }

// Flags makes a set of flags.
func Flags(names ...string) Val { return Val{kind: KindFlags, names: names} }

// Some makes an option that holds v.
func Some(v Val) Val { return Val{kind: KindOption, set: true, elems: []Val{v}} }

// Absent makes an empty option.
func Absent() Val { return Val{kind: KindOption} }

// OK makes a result's ok case, with a payload or none.
func OK(payload ...Val) Val { return Val{kind: KindResult, set: true, elems: payload} }

// Err makes a result's error case, with a payload or none.
func Err(payload ...Val) Val { return Val{kind: KindResult, elems: payload} }

// Own makes an owned handle of a host resource.
func Own(t ResourceType, rep uint32) Val {
	return Val{kind: KindHostResource, set: true, num: uint64(t)<<32 | uint64(rep)}
}

// Borrow makes a borrowed handle of a host resource.
func Borrow(t ResourceType, rep uint32) Val {
	return Val{kind: KindHostResource, num: uint64(t)<<32 | uint64(rep)}
}

// Uint is the value of an unsigned integer of any width, or of a char.
func (v Val) Uint() uint64 { return v.num }

// Int is the value of a signed integer of any width.
func (v Val) Int() int64 { return int64(v.num) }

// Float is the value of a float of either width.
func (v Val) Float() float64 {
	if v.kind == KindF32 {
		return float64(math.Float32frombits(uint32(v.num)))
	}
	return math.Float64frombits(v.num)
}

// IsSet is the value of a bool; true for an option that holds something, a result that is ok, a resource that is owned.
func (v Val) IsSet() bool { return v.set }

// Text is a string, or the case's name of a variant or an enum.
func (v Val) Text() string { return v.str }

// Raw is a list<u8>; it is the callee's to keep.
func (v Val) Raw() []byte { return v.raw }

// Elems are the elements of a list, a tuple or a record.
func (v Val) Elems() []Val { return v.elems }

// Payload of a variant, an option or a result; the zero Val where there is none.
func (v Val) Payload() Val {
	if len(v.elems) == 0 {
		return Val{}
	}
	return v.elems[0]
}

// Names are a record's field names in order, or the flags that are set.
func (v Val) Names() []string { return v.names }

// Field is a record's field by name; the zero Val where there is none.
func (v Val) Field(name string) Val {
	for i, n := range v.names {
		if n == name && i < len(v.elems) {
			return v.elems[i]
		}
	}
	return Val{}
}

// Resource is a host resource's type and representation.
func (v Val) Resource() (ResourceType, uint32) { return ResourceType(v.num >> 32), uint32(v.num) }

// Rep is a host resource's representation. Guest resources have none: pass their Val back to calls, and to Store.Drop.
func (v Val) Rep() uint32 { return uint32(v.num) }

func (v Val) String() string {
	switch v.kind {
	case KindString:
		return fmt.Sprintf("%q", v.str)
	case KindBytes:
		return fmt.Sprintf("%d bytes", len(v.raw))
	case KindVariant, KindEnum:
		return v.str
	default:
		return fmt.Sprintf("kind %d: %d %v %v %v", v.kind, v.num, v.set, v.names, v.elems)
	}
}
