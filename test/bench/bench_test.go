package main

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

func TestQuantileIsTheNearestRank(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(100 - i)
	}
	for _, c := range []struct {
		samples []int64
		q       float64
		want    int64
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
		{[]int64{3, 1, 2}, 0.5, 2}, {[]int64{3, 1, 2}, 0.99, 3}, {[]int64{7}, 0.5, 7},
	} {
		before := slices.Clone(c.samples)
		if got := quantile(c.samples, c.q); got != c.want {
			t.Errorf("quantile %v of %d samples is %d, want %d", c.q, len(c.samples), got, c.want)
		}
		if !slices.Equal(before, c.samples) {
			t.Errorf("quantile %v changed the samples", c.q)
		}
	}
}

func TestMetricIsTheNamedBenchmarksOwn(t *testing.T) {
	const out = "cpu: x\nBenchmarkFigureLoad/small-2  6784  228221 ns/op  125396 p50-ns\nBenchmarkFigureLoad/js  799  1893243 ns/op  8.1e+05 p50-ns\nPASS\n"
	for name, want := range map[string]float64{"BenchmarkFigureLoad/small": 125396, "BenchmarkFigureLoad/js": 8.1e5} {
		if got, err := metric(out, name, "p50-ns"); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want)
		}
	}
	for _, name := range []string{"BenchmarkFigureLoad", "BenchmarkFigureLoad/smal", "FigureLoad/js"} {
		if got, err := metric(out, name, "p50-ns"); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
	if got, err := metric(out, "BenchmarkFigureLoad/js", "p99-ns"); err == nil {
		t.Errorf("an absent unit gave %v", got)
	}
}

func TestEveryMappingIsOfOneKind(t *testing.T) {
	for line, want := range map[string]string{
		"00400000-00452000 r-xp 00000000 08:02 173521      /tmp/x/dunlin-agent":                  "program code",
		"00652000-00655000 rw-p 00052000 08:02 173521      /tmp/x/dunlin-agent":                  "program data",
		"c000000000-c000400000 rw-p 00000000 00:00 0 ":                                           "heaps, pool and stacks",
		"7ffc1-7ffc2 rw-p 00000000 00:00 0                 [stack]":                              "heaps, pool and stacks",
		"7f01-7f02 r--s 00000000 08:02 42                  /tmp/x/board/store.db":                "store",
		"7f03-7f04 r-xp 00000000 08:02 43                  /tmp/x/board/code/sha256-ab-wasmtime": "compiled handlers",
		"7f05-7f06 rw-p 00000000 00:01 44                  /memfd:wasm-memory-image (deleted)":   "handlers' first memory",
		"7f07-7f08 r-xp 00000000 08:02 45                  /usr/lib/x86_64-linux-gnu/libc.so.6":  "libraries",
	} {
		m := mappingHead.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Errorf("not taken for a mapping: %q", line)
		} else if got := mapping(m[1], m[2]); got != want {
			t.Errorf("%q is %q, want %q", line, got, want)
		}
	}
}

func TestRelayCountsEveryByteOfBothWays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answer := bytes.Repeat([]byte("down"), 50_000)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.CopyN(io.Discard, conn, 3000); err == nil {
			_, _ = conn.Write(answer)
		}
	}()
	r, err := newRelay(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	conn, err := net.Dial("tcp", r.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, 3000)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("%d bytes came through (%v), want %d", len(got), err, len(answer))
	}
	if r.up.Load() != 3000 || r.down.Load() != int64(len(answer)) || r.bytes() != 3000+int64(len(answer)) {
		t.Errorf("counted %d up, %d down", r.up.Load(), r.down.Load())
	}
}
