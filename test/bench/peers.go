package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

const (
	rounds = 5               // of each of two programs, one after the other
	round  = 2 * time.Second // of load on one of them
)

// peer is a handler behind two programs.
type peer struct {
	name         string
	ours, theirs string // addresses
	path, body   string
	process      *process.Process
}

// peers measures the board beside `wasmtime serve`: the same components, the same load, the same cores, run after run in turns.
func (b *bench) peers(ctx context.Context) error {
	version, err := command(ctx, nil, b.wasmtime, "--version")
	if err != nil {
		return err
	}
	note("beside %s", strings.TrimSpace(version))
	small, err := b.beside(ctx, "small", guests.HelloHTTP, "/", "Hello World!")
	if err != nil {
		return err
	}
	defer small.process.Stop()
	if err := errors.Join(small.rates(b), small.bodies(b)); err != nil {
		return err
	}
	if b.js == "" {
		return nil
	}
	wasm, err := os.ReadFile(filepath.Join(b.js, "seed.wasm"))
	if err != nil {
		return err
	}
	if _, _, err := b.updateTo(ctx, "1.0.0", "seed.wasm"); err != nil {
		return err
	}
	js, err := b.beside(ctx, "js", wasm, "/js", "Hello World!")
	if err != nil {
		return err
	}
	defer js.process.Stop()
	return js.rates(b)
}

// beside starts `wasmtime serve` with a component that the board has at path already.
func (b *bench) beside(ctx context.Context, name string, wasm []byte, path, body string) (*peer, error) {
	file := b.path("peer-" + name + ".wasm")
	if err := os.WriteFile(file, wasm, 0o600); err != nil {
		return nil, err
	}
	// As it is out of the box: a pool of instances, and no limits on time or memory.
	p, err := process.Start(b.path("peer-"+name+".log"), b.wasmtime, "serve", "-Scli", "--addr=127.0.0.1:0", file)
	if err != nil {
		return nil, err
	}
	m, err := p.Line(ctx, `Serving HTTP on http://(\S+?)/?$`)
	if err != nil {
		p.Stop()
		return nil, err
	}
	return &peer{name: name, ours: b.http, theirs: m[1], path: path, body: body, process: p}, nil
}

// rates of requests, and how long the slowest hundredth takes, at 1, 8 and 64 connections.
func (p *peer) rates(b *bench) error {
	for _, n := range []int{1, 8, 64} {
		var ours, theirs []flow
		for i := range 1 + rounds {
			for _, of := range []struct {
				addr, path string
				to         *[]flow
			}{{p.ours, p.path, &ours}, {p.theirs, "/", &theirs}} {
				f, err := closedLoop(of.addr, request(of.path), []byte(p.body), n, round)
				if err != nil {
					return err
				}
				if i > 0 { // the first is to warm up
					*of.to = append(*of.to, f)
				}
			}
		}
		rate := func(f flow) float64 { return f.perSecond }
		p99 := func(f flow) float64 { return float64(f.p99) / float64(time.Microsecond) }
		name := fmt.Sprintf("http_%s_c%d", p.name, n)
		b.figure(name+"_rate", middle(ours, rate), "1/s")
		b.figure(name+"_wasmtime_rate", middle(theirs, rate), "1/s")
		b.figure(name+"_vs_wasmtime_ratio", middle(ours, rate)/middle(theirs, rate), "ratio")
		b.figure(name+"_p99", middle(ours, p99), "us")
		b.figure(name+"_wasmtime_p99", middle(theirs, p99), "us")
		b.figure(name+"_p99_vs_wasmtime", middle(ours, p99)/middle(theirs, p99), "ratio")
	}
	return nil
}

// middle is the median of one value of several runs.
func middle(of []flow, value func(flow) float64) float64 {
	var v []float64
	for _, f := range of {
		v = append(v, value(f))
	}
	return quantile(v, 0.5)
}
