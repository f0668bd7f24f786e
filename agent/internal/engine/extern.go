package engine

// #include "shim.h"
import "C"

import (
	"strconv"
	"strings"
	"unsafe"
)

// Extern is one import or export. Items are an instance's members.
type Extern struct {
	Name  string // "wasi:keyvalue/store@0.2.0-draft", or "get"
	Kind  ExternKind
	Items []Extern

	result bool // of a function: it has one
}

// ExternKind says what an Extern is.
type ExternKind uint8

// The kinds of Extern.
const (
	ExternFunc ExternKind = iota
	ExternInstance
	ExternResource
	ExternType
	ExternModule
	ExternComponent
)

func reflectExterns(c *Component, imports bool) []Extern {
	var buf C.dunlin_buf
	C.dunlin_reflect(c.ptr, c.engine.ptr, C.bool(imports), &buf)
	defer C.dunlin_buf_free(&buf)
	d := decoder{b: unsafe.Slice((*byte)(buf.data), buf.len)}
	return readExterns(&d)
}

func readExterns(d *decoder) []Extern {
	items := make([]Extern, d.count())
	for i := range items {
		kind := d.u8()
		items[i].Name = d.text()
		switch kind {
		case C.WASMTIME_COMPONENT_ITEM_COMPONENT_FUNC:
			items[i].Kind, items[i].result = ExternFunc, d.bool()
		case C.WASMTIME_COMPONENT_ITEM_COMPONENT_INSTANCE:
			items[i].Kind, items[i].Items = ExternInstance, readExterns(d)
		case C.WASMTIME_COMPONENT_ITEM_RESOURCE:
			items[i].Kind = ExternResource
		case C.WASMTIME_COMPONENT_ITEM_COMPONENT:
			items[i].Kind = ExternComponent
		case C.WASMTIME_COMPONENT_ITEM_MODULE, C.WASMTIME_COMPONENT_ITEM_CORE_FUNC:
			items[i].Kind = ExternModule
		default:
			items[i].Kind = ExternType
		}
	}
	return items
}

// match finds an item by its exact name, else the newest one whose version is semver-compatible.
func match(items []Extern, want string) (Extern, bool) {
	for _, it := range items {
		if it.Name == want {
			return it, true
		}
	}
	track := Track(want)
	var best Extern
	found := false
	for _, it := range items {
		if track != "" && Track(it.Name) == track && (!found || newer(it.Name, best.Name)) {
			best, found = it, true
		}
	}
	return best, found
}

// Compatible reports whether an import of one name is met by a definition of the other, as wasmtime decides it: the same name, or
// versions of it on one semver track ("@0.2.0" and "@0.2.6"). Pre-releases match themselves only.
func Compatible(a, b string) bool {
	return a == b || Track(a) != "" && Track(a) == Track(b)
}

// Track is a name cut to the part of its version that compatible versions share, as wasmtime decides it: "@0.2" of "@0.2.6". "" when
// only an exact match will do, as for pre-releases.
func Track(name string) string {
	base, v, ok := parseVersion(name)
	switch {
	case !ok:
		return ""
	case v[0] > 0:
		return base + "@" + strconv.FormatUint(v[0], 10)
	case v[1] > 0:
		return base + "@0." + strconv.FormatUint(v[1], 10)
	}
	return base + "@0.0." + strconv.FormatUint(v[2], 10)
}

func parseVersion(name string) (base string, v [3]uint64, ok bool) {
	base, text, ok := strings.Cut(name, "@")
	if !ok {
		return "", v, false
	}
	text, _, _ = strings.Cut(text, "+") // build metadata says nothing about compatibility
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return "", v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 64) // fails on a pre-release
		if err != nil {
			return "", v, false
		}
		v[i] = n
	}
	return base, v, true
}

func newer(a, b string) bool {
	_, va, _ := parseVersion(a)
	_, vb, _ := parseVersion(b)
	for i := range va {
		if va[i] != vb[i] {
			return va[i] > vb[i]
		}
	}
	return false
}
