package host

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const contentLength = "content-length"

// maxFields bounds the names and values of one set of headers, in bytes.
const maxFields = 128 << 10

// field is one header line.
type field struct {
	name  string
	value []byte
}

// fields are headers or trailers, in order. Those that came from net/http are turned into lines when they are first looked at.
type fields struct {
	lines     []field
	pending   http.Header
	immutable bool
	size      int
	extra     func() [][2]string // what the board adds to pending; nil: nothing
}

// forbidden names belong to the connection, which is the host's.
var forbidden = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-authenticate": true, "proxy-authorization": true, "proxy-connection": true,
	"transfer-encoding": true, "upgrade": true, "host": true, "http2-settings": true,
}

var (
	errInvalidSyntax = engine.Err(engine.Variant("invalid-syntax"))
	errForbidden     = engine.Err(engine.Variant("forbidden"))
	errImmutable     = engine.Err(engine.Variant("immutable"))
)

// fieldsOf an incoming message: immutable, names in lower case (net/http has lost their case and order), without those that are the connection's.
func fieldsOf(h http.Header) *fields { return &fields{pending: h, immutable: true} }

func (f *fields) load() {
	if f.pending == nil {
		return
	}
	names := make([]string, 0, len(f.pending))
	n := 0
	for name, values := range f.pending {
		names = append(names, name)
		n += len(values)
	}
	slices.Sort(names)
	f.lines = make([]field, 0, n)
	for _, name := range names {
		lower := strings.ToLower(name)
		if forbidden[lower] {
			continue
		}
		for _, v := range f.pending[name] {
			f.lines = append(f.lines, field{lower, []byte(v)})
		}
	}
	f.pending = nil
	f.addMoment()
}

func (f *fields) get(name string) []engine.Val {
	f.load()
	var vals []engine.Val
	for _, l := range f.lines {
		if strings.EqualFold(l.name, name) {
			vals = append(vals, engine.Bytes(l.value))
		}
	}
	return vals
}

func (f *fields) has(name string) bool {
	f.load()
	return slices.ContainsFunc(f.lines, func(l field) bool { return strings.EqualFold(l.name, name) })
}

// second reports whether name is content-length, and there already.
func (f *fields) second(name string) bool {
	return strings.EqualFold(name, contentLength) && f.has(contentLength)
}

func (f *fields) remove(name string) {
	f.load()
	f.lines = slices.DeleteFunc(f.lines, func(l field) bool {
		if strings.EqualFold(l.name, name) {
			f.size -= len(l.name) + len(l.value)
			return true
		}
		return false
	})
}

func (f *fields) add(g *Guest, name string, value []byte) error {
	f.load()
	n := len(name) + len(value)
	if f.size += n; f.size > maxFields {
		return fmt.Errorf("the headers are larger than %d KiB", maxFields>>10)
	}
	f.lines = append(f.lines, field{name, value})
	return g.hold(n)
}

func (f *fields) clone() *fields {
	f.load()
	c := &fields{lines: slices.Clone(f.lines)}
	for _, l := range c.lines {
		c.size += len(l.name) + len(l.value)
	}
	return c
}

// header is what net/http sends.
func (f *fields) header() http.Header {
	f.load()
	h := make(http.Header, len(f.lines))
	for _, l := range f.lines {
		key := http.CanonicalHeaderKey(l.name)
		h[key] = append(h[key], string(l.value))
	}
	return h
}

// validName says whether s is an HTTP token.
func validName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x7f || !tokenChars[c] {
			return false
		}
	}
	return s != ""
}

var tokenChars = func() (t [0x7f]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

// validValue says whether b can stand in a header line: no control characters but a tab.
func validValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// checkField is the guest's error for a name that it may not set, or a value that no header can have.
func checkField(name string, values ...[]byte) (engine.Val, bool) {
	if !validName(name) || slices.ContainsFunc(values, func(v []byte) bool { return !validValue(v) }) {
		return errInvalidSyntax, false
	}
	lower := strings.ToLower(name)
	if forbidden[lower] {
		return errForbidden, false
	}
	// RFC 9110, 8.6: one number.
	notANumber := func(v []byte) bool { _, err := strconv.ParseUint(string(v), 10, 63); return err != nil }
	if lower == contentLength && (len(values) > 1 || slices.ContainsFunc(values, notANumber)) {
		return errInvalidSyntax, false
	}
	return okUnit, true
}

func fieldsFuncs(funcs map[string]fn) {
	method := func(name string, do func(g *Guest, f *fields, a []engine.Val) (engine.Val, error), params ...engine.Kind) {
		funcs["[method]fields."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			f, err := get[fields](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, f, a[1:])
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	funcs["[constructor]fields"] = f(func(g *Guest, _ []engine.Val) (engine.Val, error) { return own(g, typFields, &fields{}) })
	funcs["[static]fields.from-list"] = f(fieldsFromList, kList)
	method("get", func(_ *Guest, f *fields, a []engine.Val) (engine.Val, error) {
		return engine.List(f.get(a[0].Text())...), nil
	}, kString)
	method("has", func(_ *Guest, f *fields, a []engine.Val) (engine.Val, error) {
		return engine.Bool(f.has(a[0].Text())), nil
	}, kString)
	method("set", func(g *Guest, f *fields, a []engine.Val) (engine.Val, error) {
		name, vals := a[0].Text(), a[1].Elems()
		values := make([][]byte, len(vals))
		for i, v := range vals {
			values[i] = v.Raw()
		}
		return f.change(name, values, func() error {
			f.remove(name)
			for _, v := range values {
				if err := f.add(g, name, v); err != nil {
					return err
				}
			}
			return nil
		})
	}, kString, kList)
	method("delete", func(_ *Guest, f *fields, a []engine.Val) (engine.Val, error) {
		return f.change(a[0].Text(), nil, func() error { f.remove(a[0].Text()); return nil })
	}, kString)
	method("append", func(g *Guest, f *fields, a []engine.Val) (engine.Val, error) {
		name, value := a[0].Text(), a[1].Raw()
		if !f.immutable && f.second(name) {
			return errInvalidSyntax, nil
		}
		return f.change(name, [][]byte{value}, func() error { return f.add(g, name, value) })
	}, kString, kBytes)
	method("entries", func(_ *Guest, f *fields, _ []engine.Val) (engine.Val, error) {
		f.load()
		vals := make([]engine.Val, len(f.lines))
		for i, l := range f.lines {
			vals[i] = engine.Tuple(engine.String(l.name), engine.Bytes(l.value))
		}
		return engine.List(vals...), nil
	})
	method("clone", func(g *Guest, f *fields, _ []engine.Val) (engine.Val, error) {
		c := f.clone()
		if err := g.hold(c.size); err != nil {
			return none, err
		}
		return own(g, typFields, c)
	})
}

// change f by do, unless f is immutable or the field is not the guest's to set.
func (f *fields) change(name string, values [][]byte, do func() error) (engine.Val, error) {
	if f.immutable {
		return errImmutable, nil
	}
	if v, ok := checkField(name, values...); !ok {
		return v, nil
	}
	return okUnit, do()
}

func fieldsFromList(g *Guest, a []engine.Val) (engine.Val, error) {
	f := &fields{}
	for _, e := range a[0].Elems() {
		name, value, err := pair(e)
		if err != nil {
			return none, err
		}
		if v, ok := checkField(name.Text(), value.Raw()); !ok {
			return v, nil
		}
		if f.second(name.Text()) {
			return errInvalidSyntax, nil
		}
		if err := f.add(g, name.Text(), value.Raw()); err != nil {
			return none, err
		}
	}
	return ownOK(g, typFields, f)
}

// length that the fields state, -1 for none: content-length was checked when it was set.
func (f *fields) length() (int64, error) {
	f.load()
	for _, l := range f.lines {
		if strings.EqualFold(l.name, contentLength) {
			n, err := strconv.ParseUint(string(l.value), 10, 63)
			if err != nil {
				return 0, fmt.Errorf("read content-length: %w", err)
			}
			return int64(n), nil
		}
	}
	return -1, nil
}
