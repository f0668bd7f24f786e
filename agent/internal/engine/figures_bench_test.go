package engine

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dunlin.dev/dunlin/test/guests"
)

// median reports the middle one of single measurements, as the metric p50-ns: the mean of a shared machine is mostly others' work.
func median(b *testing.B, each []time.Duration) {
	slices.Sort(each)
	b.ReportMetric(float64(each[len(each)/2].Nanoseconds()), "p50-ns")
}

// BenchmarkFigureInstantiate is the smallest component there is, instantiated into a fresh store from a warm pool.
func BenchmarkFigureInstantiate(b *testing.B) {
	e := newEngine(b, 0)
	c, err := e.Compile(guests.Smallest)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	l := e.NewLinker()
	b.Cleanup(l.Close)
	var each []time.Duration
	for b.Loop() {
		s := e.NewStore(b.Context(), Limits{}, nil)
		begun := time.Now()
		_, err := l.Instantiate(s, c)
		each = append(each, time.Since(begun))
		s.Close()
		if err != nil {
			b.Fatal(err)
		}
	}
	median(b, each)
}

// BenchmarkFigureLoad maps compiled components from files that are in the page cache.
func BenchmarkFigureLoad(b *testing.B) {
	for _, of := range []struct {
		name string
		wasm func(testing.TB) []byte
	}{
		{"small", func(testing.TB) []byte { return guests.HelloHTTP }},
		{"js", func(t testing.TB) []byte {
			name := os.Getenv("DUNLIN_SEED_JS")
			if name == "" {
				t.Skip("DUNLIN_SEED_JS does not name the JS handler's component")
			}
			wasm, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			return wasm
		}},
	} {
		b.Run(of.name, func(b *testing.B) {
			e := newEngine(b, 0)
			file := compiled(b, e, of.wasm(b))
			var each []time.Duration
			for b.Loop() {
				begun := time.Now()
				c, err := e.Load(file)
				each = append(each, time.Since(begun))
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
			median(b, each)
		})
	}
}

// compiled gives the file of a component's code.
func compiled(b *testing.B, e *Engine, wasm []byte) string {
	c, err := e.Compile(wasm)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	code, err := c.Serialize()
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}
