package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
)

// dwarf makes the sections of a program of one file whose code, from 0 to size, is all of one line (DWARF 4, sections 6.2 and 7.5).
func dwarf(file string, line, column byte, size byte) map[string][]byte {
	sized := func(b []byte) []byte { return append([]byte{byte(len(b)), 0, 0, 0}, b...) }
	tables := slices.Concat([]byte{1 /* min instruction */, 1 /* ops per instruction */, 1 /* is statement */, 0 /* line base */, 1 /* range */, 10, /* opcodes */
		0, 1, 1, 1, 1, 0, 0, 0, 1}, []byte{0} /* no directories */, []byte(file), []byte{0, 0, 0, 0, 0})
	program := []byte{
		0, 5, 2, 0, 0, 0, 0, // set address 0
		3, line - 1, 5, column, 1, // advance the line, set the column, a row
		2, size, // advance the address
		0, 1, 1, // end of the sequence
	}
	return map[string][]byte{
		".debug_line":   sized(slices.Concat([]byte{4, 0}, sized(tables), program)),
		".debug_abbrev": {1, 0x11 /* compile unit */, 0, 0x10, 0x17 /* statement list */, 0x11, 0x01 /* low pc */, 0x12, 0x0f /* high pc, by size */, 0, 0, 0},
		".debug_info":   sized(slices.Concat([]byte{4, 0, 0, 0, 0, 0, 4 /* address size */, 1}, []byte{0, 0, 0, 0}, []byte{0, 0, 0, 0}, []byte{size})),
	}
}

func TestATrapNamesSourceLinesWhereThereIsDebugInformation(t *testing.T) {
	var sections strings.Builder
	for name, b := range dwarf("handler.rs", 27, 9, 100) {
		fmt.Fprintf(&sections, `(@custom %q "`, name)
		for _, c := range b {
			fmt.Fprintf(&sections, `\%02x`, c)
		}
		sections.WriteString("\")\n")
	}
	wasm := enginetest.Wat(t, `(component
  (core module $m (func $deep unreachable) (func (export "f") call $deep) `+sections.String()+`)
  (core instance $i (instantiate $m))
  (func (export "f") (canon lift (core func $i "f"))))`)
	for _, c := range []struct {
		lines bool
		want  string
	}{{true, "m!deep at handler.rs:27:9"}, {false, "m!deep"}} {
		e, err := engine.New(engine.Config{Slots: 2, SourceLines: c.lines})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		if strings.HasSuffix(e.CacheKey(), "-lines") != c.lines {
			t.Errorf("cache key %q: code with and without lines must not be taken for each other", e.CacheKey())
		}
		comp, err := e.Compile(wasm)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(comp.Close)
		l := enginetest.Linker(t, e, nil)
		s := e.NewStore(t.Context(), engine.Limits{}, nil)
		t.Cleanup(s.Close)
		i, err := l.Instantiate(s, comp)
		if err != nil {
			t.Fatal(err)
		}
		_, err = i.Call(export(t, comp, "f"))
		trap := asTrap(t, err)
		if len(trap.Backtrace) != 2 || trap.Backtrace[0] != c.want {
			t.Errorf("with lines %v: backtrace %q, want %q first", c.lines, trap.Backtrace, c.want)
		}
	}
}
