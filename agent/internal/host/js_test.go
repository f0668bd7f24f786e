package host

import (
	"os"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

// seedJS is the JS handler that test/guests/build.sh makes; large, so it is not committed.
func seedJS(t testing.TB) []byte {
	wasm, err := os.ReadFile(need.SeedJS(t, "seed", "a JS handler on the host"))
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

func TestSeedJSHandlerRunsUnmodified(t *testing.T) {
	c := compile(t, seedJS(t))
	if err := newHost(t).Check(c, "seed", Grants{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a, err := serve(t, c, Limits{}, &Env{}, request("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if a.status != 200 || a.body.String() != "Hello World!" || a.finished != 1 {
			t.Errorf("got status %d, body %q, finished %d times", a.status, a.body.String(), a.finished)
		}
	}
}

// One event of the large handler.
func BenchmarkSeedJS(b *testing.B) {
	c := compile(b, seedJS(b))
	x := HandlersOf(c).HTTP
	r := request("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		g := start(b, r.Context(), c, Limits{}, &Env{})
		if err := g.ServeHTTP(x, &discard{}, r); err != nil {
			b.Fatal(err)
		}
		g.Close()
	}
}
