package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v44"
)

func FuzzFlatEncodingIsOneToOne(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b, err := appendVal(nil, newTypes(r).random(0).value(r), 0)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{byte(KindBytes), 0, 0, 0, 0})
	f.Add([]byte{byte(KindList), 1, 0, 0, 0, byte(KindU8), 7})
	f.Add([]byte{byte(KindString), 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{b: b}
		v := d.val(0)
		if d.err != nil {
			return
		}
		again, err := appendVal(nil, v, 0)
		if err != nil { // text or chars that C never sends
			if !strings.Contains(err.Error(), "UTF-8") && !strings.Contains(err.Error(), "char") {
				t.Fatalf("%x decodes to %v, which doesn't encode: %v", b, v, err)
			}
			return
		}
		if want := b[:len(b)-len(d.b)]; !bytes.Equal(again, want) {
			t.Fatalf("decoded %x, encoded %x", want, again)
		}
	})
}

func TestAValueThatWasmtimeWouldAbortOnIsRefused(t *testing.T) {
	deep := U8(1)
	for range 200 {
		deep = Some(deep)
	}
	for name, v := range map[string]Val{
		"string not UTF-8":     String("a\xffb"),
		"enum not UTF-8":       Enum("\xc0"),
		"case not UTF-8":       Variant("\xed\xa0\x80"),
		"flag not UTF-8":       Flags("ok", "\x80"),
		"field not UTF-8":      Record(Field{"\xff", U8(1)}),
		"surrogate char":       Char(0xD800),
		"char too large":       Char(0x110000),
		"negative char":        Char(-1),
		"no value":             {},
		"no such kind":         {kind: 200},
		"mixed list":           List(U32(1), String("x")),
		"mixed bytes":          List(U8(1), String("x")),
		"two payloads":         Variant("a", U8(1), U8(2)),
		"some without a value": {kind: KindOption, set: true},
		"too deep":             deep,
		"inside a list":        List(Tuple(String("\xff"))),
	} {
		if b, err := appendVal(nil, v, 0); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
}

// types makes random component types, with the named ones that they refer to.
type types struct {
	r     *rand.Rand
	named []string
}

func newTypes(r *rand.Rand) *types { return &types{r: r} }

// typ is a component type in text form, and a source of its values.
type typ struct {
	text  string
	value func(r *rand.Rand) Val
}

func (ts *types) name(def string) string {
	ts.named = append(ts.named, def)
	return fmt.Sprintf("$t%d", len(ts.named)-1)
}

func (ts *types) random(depth int) typ {
	n := ts.r.IntN(22)
	if depth >= 4 {
		n = ts.r.IntN(14)
	}
	return ts.kind(n, depth)
}

func scalar(text string, f func(r *rand.Rand) Val) typ { return typ{text, f} }

func (ts *types) kind(n, depth int) typ {
	switch n {
	case 0:
		return scalar("bool", func(r *rand.Rand) Val { return Bool(r.IntN(2) == 1) })
	case 1:
		return scalar("s8", func(r *rand.Rand) Val { return S8(int8(r.Uint64())) })
	case 2:
		return scalar("u8", func(r *rand.Rand) Val { return U8(uint8(r.Uint64())) })
	case 3:
		return scalar("s16", func(r *rand.Rand) Val { return S16(int16(r.Uint64())) })
	case 4:
		return scalar("u16", func(r *rand.Rand) Val { return U16(uint16(r.Uint64())) })
	case 5:
		return scalar("s32", func(r *rand.Rand) Val { return S32(int32(r.Uint64())) })
	case 6:
		return scalar("u32", func(r *rand.Rand) Val { return U32(r.Uint32()) })
	case 7:
		return scalar("s64", func(r *rand.Rand) Val { return S64(int64(r.Uint64())) })
	case 8:
		return scalar("u64", func(r *rand.Rand) Val { return U64(r.Uint64()) })
	case 9:
		return scalar("f32", func(r *rand.Rand) Val { return F32(float32(r.NormFloat64())) })
	case 10:
		return scalar("f64", func(r *rand.Rand) Val { return F64(r.NormFloat64()) })
	case 11:
		return scalar("char", func(r *rand.Rand) Val { return Char([]rune("aß漢🦊\x00\U0010FFFF\uD7FF\uE000")[r.IntN(8)]) })
	case 12:
		return scalar("string", func(r *rand.Rand) Val {
			return String(strings.Repeat([]string{"", "a", "zwölf", "🦊\x00"}[r.IntN(4)], r.IntN(40)))
		})
	case 13:
		return scalar("(list u8)", func(r *rand.Rand) Val {
			b := make([]byte, r.IntN(300))
			for i := range b {
				b[i] = byte(r.Uint64())
			}
			return Bytes(b)
		})
	case 14:
		of := ts.random(depth + 1)
		return typ{"(list " + of.text + ")", func(r *rand.Rand) Val { return List(values(r, of, r.IntN(4))...) }}
	case 15:
		of := ts.several(depth)
		return typ{"(tuple " + texts(of, "%[2]s") + ")", func(r *rand.Rand) Val {
			var v []Val
			for _, t := range of {
				v = append(v, t.value(r))
			}
			return Tuple(v...)
		}}
	case 16:
		of := ts.several(depth)
		return typ{ts.name("(record " + texts(of, `(field "f%[1]d" %[2]s)`) + ")"), func(r *rand.Rand) Val {
			var f []Field
			for i, t := range of {
				f = append(f, Field{fmt.Sprintf("f%d", i), t.value(r)})
			}
			return Record(f...)
		}}
	case 17:
		of := ts.several(depth)
		return typ{ts.name("(variant " + texts(of, `(case "c%[1]d" %[2]s)`) + ` (case "empty"))`), func(r *rand.Rand) Val {
			if i := r.IntN(len(of) + 1); i < len(of) {
				return Variant(fmt.Sprintf("c%d", i), of[i].value(r))
			}
			return Variant("empty")
		}}
	case 18:
		return typ{ts.name(`(enum "red" "green" "blue")`), func(r *rand.Rand) Val { return Enum([]string{"red", "green", "blue"}[r.IntN(3)]) }}
	case 19:
		of := ts.random(depth + 1)
		return typ{"(option " + of.text + ")", func(r *rand.Rand) Val {
			if r.IntN(2) == 0 {
				return Absent()
			}
			return Some(of.value(r))
		}}
	case 20:
		ok, bad := ts.random(depth+1), ts.random(depth+1)
		switch ts.r.IntN(3) {
		case 0:
			return typ{"(result)", func(r *rand.Rand) Val { return []Val{OK(), Err()}[r.IntN(2)] }}
		case 1:
			return typ{"(result " + ok.text + ")", func(r *rand.Rand) Val { return []Val{OK(ok.value(r)), Err()}[r.IntN(2)] }}
		}
		return typ{"(result " + ok.text + " (error " + bad.text + "))", func(r *rand.Rand) Val {
			return []Val{OK(ok.value(r)), Err(bad.value(r))}[r.IntN(2)]
		}}
	default:
		count := 1 + ts.r.IntN(32)
		def := "(flags"
		for i := range count {
			def += fmt.Sprintf(` "b%d"`, i)
		}
		return typ{ts.name(def + ")"), func(r *rand.Rand) Val {
			var set []string
			for i := range count {
				if r.IntN(2) == 1 {
					set = append(set, fmt.Sprintf("b%d", i))
				}
			}
			return Flags(set...)
		}}
	}
}

func (ts *types) several(depth int) []typ {
	of := make([]typ, 1+ts.r.IntN(3))
	for i := range of {
		of[i] = ts.random(depth + 1)
	}
	return of
}

func values(r *rand.Rand, of typ, n int) []Val {
	var v []Val
	for range n {
		v = append(v, of.value(r))
	}
	return v
}

func texts(of []typ, format string) string {
	var b strings.Builder
	for i, t := range of {
		fmt.Fprintf(&b, format+" ", i, t.text)
	}
	return b.String()
}

// echoWat is a component whose export g hands its argument to the import f and gives back what comes. Padding the type to more than 16
// core values makes it go through memory both ways, so that one core module serves every type.
func (ts *types) echoWat(t typ) string {
	var defs strings.Builder
	for i, def := range ts.named {
		fmt.Fprintf(&defs, "(type $d%d %s) (import \"t%d\" (type $t%d (eq $d%d)))\n", i, def, i, i, i)
	}
	padded := "(tuple " + t.text + strings.Repeat(" u8", 17) + ")"
	return `(component
  ` + defs.String() + `
  (type $pd ` + padded + `)
  (import "f" (func $f (param "a" $pd) (result $pd)))
  (core module $mem
    (memory (export "memory") 64)
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.get $top)
      (global.set $top (i32.add (global.get $top) (local.get 3))))
    (func (export "reset") (param i32) (global.set $top (i32.const 65536))))
  (core instance $mem (instantiate $mem))
  (core func $low (canon lower (func $f) (memory $mem "memory") (realloc (func $mem "realloc"))))
  (core module $m
    (import "" "f" (func $f (param i32 i32)))
    (func (export "g") (param i32) (result i32) (call $f (local.get 0) (i32.const 1024)) (i32.const 1024)))
  (core instance $m (instantiate $m (with "" (instance (export "f" (func $low))))))
  (func (export "g") (param "a" $pd) (result $pd)
    (canon lift (core func $m "g") (memory $mem "memory") (realloc (func $mem "realloc")) (post-return (func $mem "reset")))))`
}

func encoded(t *testing.T, v Val) []byte {
	t.Helper()
	b, err := appendVal(nil, v, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryKindOfValueSurvivesHostToGuestToHostAndBack(t *testing.T) {
	e, err := New(Config{Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for seed := range uint64(60) {
		kind := -1
		if seed < 22 {
			kind = int(seed)
		}
		echo(t, e, rand.New(rand.NewPCG(seed, 7)), kind, 20)
	}
	if n := e.Live(); n != 0 {
		t.Fatalf("%d things still live", n)
	}
}

// FuzzValues draws types and values from its bytes.
func FuzzValues(f *testing.F) {
	e, err := New(Config{Slots: 2})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.Close)
	for seed := range uint64(4) {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, seed, stream uint64) {
		echo(t, e, rand.New(rand.NewPCG(seed, stream)), -1, 5)
	})
}

// echo sends n random values of one random type through a component and back. kind is the outermost one's, -1 for any.
func echo(t *testing.T, e *Engine, r *rand.Rand, kind, n int) {
	t.Helper()
	ts := newTypes(r)
	of := ts.random(0)
	if kind >= 0 {
		of = ts.kind(kind, 0)
	}
	wasm, err := wasmtime.Wat2Wasm(ts.echoWat(of))
	if err != nil {
		t.Fatalf("%v\n%s", err, ts.echoWat(of))
	}
	c, err := e.Compile(wasm)
	if err != nil {
		t.Fatalf("%s: %v", of.text, err)
	}
	defer c.Close()
	l := e.NewLinker()
	defer l.Close()
	var got Val
	if err := l.Define("", Interface{Funcs: map[string]HostFunc{"f": func(_ *Store, args []Val) (Val, error) {
		got = args[0]
		return got, nil
	}}}); err != nil {
		t.Fatal(err)
	}
	s := e.NewStore(t.Context(), Limits{}, nil)
	defer s.Close()
	i, err := l.Instantiate(s, c)
	if err != nil {
		t.Fatalf("%s: %v", of.text, err)
	}
	x, _ := c.Export("g")
	for at := range n {
		pad := []Val{of.value(r)}
		for range 17 {
			pad = append(pad, U8(uint8(at)))
		}
		sent := Tuple(pad...)
		back, err := i.Call(x, sent)
		if err != nil {
			t.Fatalf("%s: %v", of.text, err)
		}
		if want := encoded(t, sent); !bytes.Equal(want, encoded(t, got)) || !bytes.Equal(want, encoded(t, back)) {
			t.Fatalf("%s: sent %v, the host got %v, back came %v", of.text, sent, got, back)
		}
	}
}
