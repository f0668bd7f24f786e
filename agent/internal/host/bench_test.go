package host

import (
	"net/http"
	"testing"

	"dunlin.dev/dunlin/test/guests"
)

// discard is a response that nobody reads.
type discard struct{ n int }

func (d *discard) Start(int, http.Header) error     { return nil }
func (d *discard) Write(p []byte) (int, error)      { d.n += len(p); return len(p), nil }
func (d *discard) Finish(trailer http.Header) error { return nil }

// One event of the small handler: instantiate, serve, drop.
func BenchmarkHelloHTTP(b *testing.B) {
	c := compile(b, guests.HelloHTTP)
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

// What of an event is not the handler: instantiate and drop.
func BenchmarkInstantiate(b *testing.B) {
	c := compile(b, guests.HelloHTTP)
	r := request("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		start(b, r.Context(), c, Limits{}, &Env{}).Close()
	}
}
