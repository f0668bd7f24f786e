package engine_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
)

func TestWhatIsNoComponentSaysWhatItIs(t *testing.T) {
	wat := func(text string) []byte { return enginetest.Wat(t, text) }
	whole := wat(faultsWat)
	for name, c := range map[string]struct {
		wasm   []byte
		reason engine.CompileReason
		words  string
	}{
		"nothing":       {nil, engine.Malformed, "not a valid"},
		"text":          {[]byte("(component)"), engine.Malformed, "(compone"},
		"elf":           {[]byte("\x7fELF\x02\x01\x01\x00\x00\x00"), engine.Malformed, "ELF"},
		"header":        {whole[:6], engine.Malformed, "truncated"},
		"old encoding":  {append([]byte("\x00asm\x0c\x00\x01\x00"), whole[8:]...), engine.Malformed, "version"},
		"half":          {whole[:len(whole)/2], engine.Malformed, "offset"},
		"core module":   {wat(`(module (func (export "x")))`), engine.CoreModule, "wasm-tools component new"},
		"stream":        {wat(`(component (import "f" (func (param "s" (stream u8)))))`), engine.NeedsWASIp3, "WASI 0.3"},
		"future":        {wat(`(component (import "f" (func (result (future u8)))))`), engine.NeedsWASIp3, "WASI 0.3"},
		"error context": {wat(`(component (import "f" (func (result error-context))))`), engine.NeedsWASIp3, "WASI 0.3"},
		"async func":    {wat(`(component (import "f" (func async)))`), engine.NeedsWASIp3, "WASI 0.3"},
		"async lift": {wat(`(component (core module $m (func (export "f") (result i32) unreachable) (func (export "cb") (param i32 i32 i32) (result i32) unreachable))
			(core instance $i (instantiate $m))
			(func (export "f") async (canon lift (core func $i "f") async (callback (func $i "cb")))))`), engine.NeedsWASIp3, "WASI 0.3"},
		"task.return": {wat(`(component (core func (canon task.return)))`), engine.NeedsWASIp3, "WASI 0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := enginetest.Shared(t).Compile(c.wasm)
			if err == nil {
				got.Close()
				t.Fatal("it compiled")
			}
			var ce *engine.CompileError
			if !errors.As(err, &ce) || ce.Reason != c.reason || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestDamagedBytesAreErrorsAndNeverMore(t *testing.T) {
	e := enginetest.Shared(t)
	step := 3
	if engine.DebugBuild {
		step = 60
	}
	for _, text := range []string{faultsWat, hostResourceWat, guestResourceWat} {
		whole := enginetest.Wat(t, text)
		try := func(wasm []byte) {
			c, err := e.Compile(wasm)
			var ce *engine.CompileError
			if err == nil {
				c.Close() // a flipped bit may give another good component
			} else if !errors.As(err, &ce) {
				t.Fatalf("%T: %v", err, err)
			}
		}
		for n := 0; n < len(whole); n += step {
			try(whole[:n])
			flipped := append([]byte(nil), whole...)
			flipped[n] ^= 1 << (n % 8)
			try(flipped)
		}
	}
	if n := e.Live(); n != 0 {
		t.Fatalf("%d left behind", n)
	}
}

func TestImportsAndExportsNameTheMembersOfInterfaces(t *testing.T) {
	c := enginetest.Compile(t, enginetest.Shared(t), hostResourceWat)
	imports := c.Imports()
	if len(imports) != 2 || imports[0].Name != "test:kv/store@0.1.0" || imports[0].Kind != engine.ExternInstance {
		t.Fatalf("imports %+v", imports)
	}
	got := map[string]engine.ExternKind{}
	for _, it := range imports[0].Items {
		got[it.Name] = it.Kind
	}
	if k, ok := got["bucket"]; !ok || k != engine.ExternResource || len(got) != 5 {
		t.Errorf("members %v", got)
	}
	if k, ok := got["[method]bucket.size"]; !ok || k != engine.ExternFunc {
		t.Errorf("members %v", got)
	}
	if len(c.Exports()) != 5 || c.Exports()[0].Kind != engine.ExternFunc {
		t.Errorf("exports %+v", c.Exports())
	}
}

func TestAnExportIsFoundUnderEachCompatibleVersion(t *testing.T) {
	c := enginetest.Compile(t, enginetest.Shared(t), `(component
	  (core module $m (func (export "f") (result i32) i32.const 3) (func (export "g") (result i32) i32.const 12))
	  (core instance $i (instantiate $m))
	  (func $f (result u32) (canon lift (core func $i "f")))
	  (func $g (result u32) (canon lift (core func $i "g")))
	  (instance $old (export "handle" (func $f)))
	  (instance $new (export "handle" (func $g)))
	  (export "a:b/handler@0.2.3" (instance $old))
	  (export "a:b/handler@0.2.12" (instance $new))
	  (export "a:b/draft@0.2.0-draft" (instance $old))
	  (export "plain" (instance $old)))`)
	_, i := start(t, t.Context(), enginetest.Linker(t, enginetest.Shared(t), nil), c, engine.Limits{})
	for name, want := range map[string]uint64{
		"a:b/handler@0.2.3": 3, "a:b/handler@0.2.12": 12, "a:b/handler@0.2.0": 12, "a:b/handler@0.2.99": 12,
		"a:b/draft@0.2.0-draft": 3, "plain": 3,
	} {
		v, err := i.Call(export(t, c, name, "handle"))
		if err != nil || v.Uint() != want {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	for _, path := range [][]string{
		{}, {"none"}, {"plain"}, {"plain", "other"}, {"plain", "handle", "deeper"},
		{"a:b/handler@0.3.0", "handle"}, {"a:b/handler", "handle"}, {"a:b/draft@0.2.0", "handle"}, {"a:b/draft@0.2.0-draft2", "handle"},
	} {
		if x, ok := c.Export(path...); ok {
			t.Errorf("%q is found: %v", path, x)
		}
	}
}

func TestCompatibleVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a:b/c@0.2.0", "a:b/c@0.2.9", true}, {"a:b/c@0.2.0", "a:b/c@0.3.0", false}, {"a:b/c@1.0.0", "a:b/c@1.9.0", true},
		{"a:b/c@0.0.1", "a:b/c@0.0.2", false}, {"a:b/c@0.2.0-draft", "a:b/c@0.2.0-draft", true}, {"a:b/c@0.2.0-draft", "a:b/c@0.2.0-draft2", false},
		{"a:b/c@0.2.0-rc.1", "a:b/c@0.2.0", false}, {"a:b/c", "a:b/c", true}, {"a:b/c", "a:b/c@0.2.0", false}, {"a:b/c@0.2.0", "a:b/d@0.2.0", false},
	} {
		if engine.Compatible(c.a, c.b) != c.want || engine.Compatible(c.b, c.a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}

func TestCompiledCodeGoesThroughAFile(t *testing.T) {
	e := enginetest.Shared(t)
	code, err := enginetest.Compile(t, e, addWat).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "add")
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	c, err := e.Load(write("add", code))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, i := start(t, t.Context(), enginetest.Linker(t, e, nil), c, engine.Limits{})
	if v, err := i.Call(export(t, c, "add"), engine.U32(40), engine.U32(2)); err != nil || v.Uint() != 42 {
		t.Fatalf("%v, %v", v, err)
	}
	other := append([]byte(nil), code...)
	at := 2 + strings.Index(string(other), "\x00\x0244") // the engine section: its version, then the length and text of wasmtime's
	if at < 2 {
		t.Fatal("compiled code doesn't carry its version")
	}
	other[at] = '9'
	for name, p := range map[string]string{
		"absent":         filepath.Join(dir, "absent"),
		"empty":          write("empty", nil),
		"text":           write("text", []byte("hello")),
		"wasm":           write("wasm", enginetest.Wat(t, addWat)),
		"other version":  write("version", other),
		"half":           write("half", code[:len(code)/2]),
		"NUL in name":    path + "\x00",
		"a directory":    dir,
		"section header": write("sections", zeroed(code, int(binary.LittleEndian.Uint64(code[40:])), 1024)),
	} {
		if c, err := e.Load(p); err == nil {
			c.Close()
			t.Errorf("%s: loaded", name)
		} else if !strings.HasPrefix(err.Error(), "load component ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if key := e.CacheKey(); strings.ContainsAny(key, "/\\ \n") || !strings.Contains(key, "44.0.0") {
		t.Errorf("cache key %q", key)
	}
}

func zeroed(b []byte, at, n int) []byte {
	b = append([]byte(nil), b...)
	clear(b[at:min(at+n, len(b))])
	return b
}
