package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// maxDepth of values inside values; component types can't nest deeper than 100.
const maxDepth = 100

var (
	errShort     = errors.New("value ends early")
	errNotNative = errors.New("value is not in its one encoding")
)

// appendVal appends v's flat encoding (see val.c). What would make wasmtime abort (text that isn't UTF-8, a char that is no
// scalar value) is refused here. A value has one encoding: lists of u8 are bytes, and empty lists are lists.
func appendVal(b []byte, v Val, depth int) ([]byte, error) {
	if depth > maxDepth {
		return b, fmt.Errorf("encode value: nested more than %d deep", maxDepth)
	}
	kind := v.kind
	switch {
	case kind == KindBytes && len(v.raw) == 0:
		kind = KindList
	case kind == KindList && len(v.elems) > 0 && v.elems[0].kind == KindU8:
		return appendU8s(b, v.elems)
	}
	b = append(b, byte(kind))
	switch kind {
	case KindBool:
		return append(b, flag(v.set)), nil
	case KindS8, KindU8:
		return append(b, byte(v.num)), nil
	case KindS16, KindU16:
		return binary.NativeEndian.AppendUint16(b, uint16(v.num)), nil
	case KindS32, KindU32, KindF32:
		return binary.NativeEndian.AppendUint32(b, uint32(v.num)), nil
	case KindS64, KindU64, KindF64:
		return binary.NativeEndian.AppendUint64(b, v.num), nil
	case KindChar:
		if v.num > utf8.MaxRune || !utf8.ValidRune(rune(v.num)) {
			return b, fmt.Errorf("encode value: %#x is not a char", v.num)
		}
		return binary.NativeEndian.AppendUint32(b, uint32(v.num)), nil
	case KindString, KindEnum:
		return appendText(b, v.str)
	case KindBytes:
		b, err := appendCount(b, len(v.raw))
		return append(b, v.raw...), err
	case KindList, KindTuple:
		return appendElems(b, v.elems, kind == KindList, depth)
	case KindRecord:
		if len(v.names) != len(v.elems) {
			return b, fmt.Errorf("encode value: a record with %d names and %d values", len(v.names), len(v.elems))
		}
		b, err := appendCount(b, len(v.elems))
		for i := 0; i < len(v.elems) && err == nil; i++ {
			if b, err = appendText(b, v.names[i]); err == nil {
				b, err = appendVal(b, v.elems[i], depth+1)
			}
		}
		return b, err
	case KindVariant:
		b, err := appendText(b, v.str)
		if err != nil {
			return b, err
		}
		return appendPayload(b, v.elems, depth)
	case KindOption:
		if v.set != (len(v.elems) == 1) {
			return b, errors.New("encode value: an option that holds no value or more than one")
		}
		return appendPayload(b, v.elems, depth)
	case KindResult:
		return appendPayload(append(b, flag(v.set)), v.elems, depth)
	case KindFlags:
		b, err := appendCount(b, len(v.names))
		for i := 0; i < len(v.names) && err == nil; i++ {
			b, err = appendText(b, v.names[i])
		}
		return b, err
	case KindHostResource:
		b = append(b, flag(v.set))
		b = binary.NativeEndian.AppendUint32(b, uint32(v.num>>32))
		return binary.NativeEndian.AppendUint32(b, uint32(v.num)), nil
	case KindGuestResource:
		return binary.NativeEndian.AppendUint32(append(b, flag(v.set)), uint32(v.num)), nil
	}
	return b, fmt.Errorf("encode value: no kind %d", v.kind)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendCount(b []byte, n int) ([]byte, error) {
	if n > math.MaxInt32 {
		return b, fmt.Errorf("encode value: %d elements don't fit a guest's memory", n)
	}
	return binary.NativeEndian.AppendUint32(b, uint32(n)), nil
}

func appendText(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return b, fmt.Errorf("encode value: text is not UTF-8: %.40q", s)
	}
	b, err := appendCount(b, len(s))
	return append(b, s...), err
}

func appendU8s(b []byte, elems []Val) ([]byte, error) {
	b, err := appendCount(append(b, byte(KindBytes)), len(elems))
	for i := 0; i < len(elems) && err == nil; i++ {
		if elems[i].kind != KindU8 {
			return b, errors.New("encode value: a list of mixed kinds")
		}
		b = append(b, byte(elems[i].num))
	}
	return b, err
}

func appendElems(b []byte, elems []Val, list bool, depth int) ([]byte, error) {
	b, err := appendCount(b, len(elems))
	for i := 0; i < len(elems) && err == nil; i++ {
		if list && !sameKind(elems[i].kind, elems[0].kind) {
			return b, errors.New("encode value: a list of mixed kinds")
		}
		b, err = appendVal(b, elems[i], depth+1)
	}
	return b, err
}

// sameKind: one list<list<u8>> holds bytes, and lists where they are empty.
func sameKind(a, b Kind) bool {
	return a == b || (a == KindList || a == KindBytes) && (b == KindList || b == KindBytes)
}

func appendPayload(b []byte, elems []Val, depth int) ([]byte, error) {
	switch len(elems) {
	case 0:
		return append(b, 0), nil
	case 1:
		if elems[0].kind == KindNone {
			return append(b, 0), nil
		}
		return appendVal(append(b, 1), elems[0], depth+1)
	}
	return b, fmt.Errorf("encode value: a case with %d payloads", len(elems))
}

// decoder reads flat encodings. It copies what it keeps, for the buffer is used again.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || len(d.b) < n {
		d.fail(errShort)
		return make([]byte, min(n, 8))
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) u8() byte    { return d.take(1)[0] }
func (d *decoder) u32() uint32 { return binary.NativeEndian.Uint32(d.take(4)) }

func (d *decoder) bool() bool {
	n := d.u8()
	if n > 1 {
		d.fail(errNotNative)
	}
	return n == 1
}

// count of things that take at least one byte each.
func (d *decoder) count() int {
	n := int(d.u32())
	if n > len(d.b) {
		d.fail(errShort)
		return 0
	}
	return n
}

func (d *decoder) text() string { return string(d.take(d.count())) }

func (d *decoder) payload(depth int) []Val {
	if !d.bool() || d.err != nil {
		return nil
	}
	return []Val{d.val(depth + 1)}
}

func (d *decoder) elems(list bool, depth int) []Val {
	n := d.count()
	if n == 0 {
		return nil
	}
	v := make([]Val, n)
	for i := 0; i < n && d.err == nil; i++ {
		v[i] = d.val(depth + 1)
		if list && (v[i].kind == KindU8 || !sameKind(v[i].kind, v[0].kind)) {
			d.fail(errNotNative)
		}
	}
	return v
}

func (d *decoder) val(depth int) Val {
	if depth > maxDepth {
		d.fail(fmt.Errorf("decode value: nested more than %d deep", maxDepth))
		return Val{}
	}
	v := Val{kind: Kind(d.u8())}
	switch v.kind {
	case KindBool:
		v.set = d.bool()
	case KindS8:
		v.num = uint64(int8(d.u8()))
	case KindU8:
		v.num = uint64(d.u8())
	case KindS16:
		v.num = uint64(int16(binary.NativeEndian.Uint16(d.take(2))))
	case KindU16:
		v.num = uint64(binary.NativeEndian.Uint16(d.take(2)))
	case KindS32:
		v.num = uint64(int32(d.u32()))
	case KindU32, KindF32, KindChar:
		v.num = uint64(d.u32())
	case KindS64, KindU64, KindF64:
		v.num = binary.NativeEndian.Uint64(d.take(8))
	case KindString, KindEnum:
		v.str = d.text()
	case KindBytes:
		n := d.count()
		if n == 0 {
			d.fail(errNotNative)
		}
		v.raw = append(make([]byte, 0, n), d.take(n)...)
	case KindList, KindTuple:
		v.elems = d.elems(v.kind == KindList, depth)
	case KindRecord:
		n := d.count()
		v.names, v.elems = make([]string, n), make([]Val, n)
		for i := 0; i < n && d.err == nil; i++ {
			v.names[i] = d.text()
			v.elems[i] = d.val(depth + 1)
		}
	case KindVariant:
		v.str = d.text()
		v.elems = d.payload(depth)
	case KindOption:
		v.elems = d.payload(depth)
		v.set = len(v.elems) == 1
	case KindResult:
		v.set = d.bool()
		v.elems = d.payload(depth)
	case KindFlags:
		v.names = make([]string, d.count())
		for i := 0; i < len(v.names) && d.err == nil; i++ {
			v.names[i] = d.text()
		}
	case KindHostResource:
		v.set = d.bool()
		v.num = uint64(d.u32())<<32 | uint64(d.u32())
	case KindGuestResource:
		v.set = d.bool()
		v.num = uint64(d.u32())
	default:
		d.fail(fmt.Errorf("decode value: no kind %d", v.kind))
	}
	return v
}
