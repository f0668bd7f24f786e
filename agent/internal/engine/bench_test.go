package engine

import (
	"fmt"
	"strings"
	"testing"
)

func BenchmarkInstantiate(b *testing.B) {
	e := newEngine(b, 0)
	c, _ := tiny(b, e)
	l := e.NewLinker()
	b.Cleanup(l.Close)
	for b.Loop() {
		b.StopTimer()
		s := e.NewStore(b.Context(), Limits{}, nil)
		b.StartTimer()
		if _, err := l.Instantiate(s, c); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

// BenchmarkEvent is a whole event: store, instance, call, close.
func BenchmarkEvent(b *testing.B) {
	e := newEngine(b, 0)
	c, x := tiny(b, e)
	l := e.NewLinker()
	b.Cleanup(l.Close)
	b.ReportAllocs()
	for b.Loop() {
		if err := event(b.Context(), e, l, c, x); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEventParallel(b *testing.B) {
	e := newEngine(b, 0)
	c, x := tiny(b, e)
	l := e.NewLinker()
	b.Cleanup(l.Close)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := event(b.Context(), e, l, c, x); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkCall passes one value to a guest, from it to the host and back, and measures a call without any of it.
func BenchmarkCall(b *testing.B) {
	e := newEngine(b, 0)
	for _, of := range []struct {
		name, typ string
		v         Val
		size      int64
	}{
		{"u32", "u32", U32(1), 0},
		{"string64KiB", "string", String(strings.Repeat("x", 64<<10)), 64 << 10},
		{"bytes64KiB", "(list u8)", Bytes(make([]byte, 64<<10)), 64 << 10},
		{"bytes4KiB", "(list u8)", Bytes(make([]byte, 4<<10)), 4 << 10},
	} {
		sig := fmt.Sprintf(`(param "a" %s)`, of.typ)
		core := "(param i32 i32)"
		if of.typ == "u32" {
			core = "(param i32)"
		}
		c, x := compile(b, e, `(component
		  (import "h" (func $h `+sig+`))
		  (core module $mem (memory (export "m") 32)
		    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536))
		  (core instance $mem (instantiate $mem))
		  (core func $h' (canon lower (func $h) (memory $mem "m")))
		  (core module $m
		    (import "" "h" (func $h `+core+`))
		    (func (export "in") `+core+`)
		    (func (export "through") `+core+` (call $h (local.get 0) `+strings.Repeat("(local.get 1)", strings.Count(core, "i32")-1)+`)))
		  (core instance $i (instantiate $m (with "" (instance (export "h" (func $h'))))))
		  (func (export "f") `+sig+` (canon lift (core func $i "in") (memory $mem "m") (realloc (func $mem "realloc"))))
		  (func (export "through") `+sig+` (canon lift (core func $i "through") (memory $mem "m") (realloc (func $mem "realloc")))))`)
		through, _ := c.Export("through")
		l := e.NewLinker()
		b.Cleanup(l.Close)
		if err := l.Define("", Interface{Funcs: map[string]HostFunc{"h": func(*Store, []Val) (Val, error) { return Val{}, nil }}}); err != nil {
			b.Fatal(err)
		}
		for name, x := range map[string]*Export{"in": x, "through": through} {
			b.Run(of.name+"/"+name, func(b *testing.B) {
				s := e.NewStore(b.Context(), Limits{}, nil)
				defer s.Close()
				i, err := l.Instantiate(s, c)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(of.size)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := i.Call(x, of.v); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
