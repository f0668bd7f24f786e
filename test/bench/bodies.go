package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const bodyChunk = 8 << 10 // bytes that the echo handler, Rust's io::copy, moves at once

var bodySizes = []struct {
	name        string
	size, warm  int
	events      int
	floorRounds int
}{{"64k", 64 << 10, 20, 300, 100}, {"1m", 1 << 20, 3, 40, 20}}

// bodies go through the small handler's /echo, beside the floor below them: the same bytes in as many calls of the C API, without
// an agent.
func (b *bench) bodies(ctx context.Context) error {
	floor, err := buildFloor(ctx, b.path("floor"))
	if err != nil {
		return err
	}
	for _, of := range bodySizes {
		samples, err := echoes(b.http, of.size, of.warm, of.events)
		if err != nil {
			return err
		}
		ns, err := measureFloor(ctx, floor, of.size, bodyChunk, of.floorRounds)
		if err != nil {
			return err
		}
		name := "event_http_echo_" + of.name
		b.figure(name+"_p50", micros(samples, 0.5), "us")
		b.figure(name+"_p99", micros(samples, 0.99), "us")
		b.figure("floor_echo_"+of.name, ns/1e3, "us")
		b.figure(name+"_vs_floor", micros(samples, 0.5)/(ns/1e3), "ratio")
	}
	return b.bodyMemory()
}

// bodyMemory is how much more memory the board has at most while a body goes through it.
func (b *bench) bodyMemory() error {
	for _, of := range []struct {
		name string
		size int
	}{{"1m", 1 << 20}, {"32m", 32 << 20}} {
		if err := b.board.ForgetPeak(); err != nil {
			return err
		}
		resident, err := b.board.Peak()
		if err != nil {
			return err
		}
		if _, err := echoes(b.http, of.size, 0, 1); err != nil {
			return err
		}
		peak, err := b.board.Peak()
		if err != nil {
			return err
		}
		b.figure("echo_"+of.name+"_peak_growth", float64(peak-resident)/1e6, "MB")
	}
	return nil
}

// largeMessages are durable, and kept in the store: 64 KiB come to the guest in one list, and go back to the host in one.
func (b *bench) largeMessages(ctx context.Context, o *bench) error {
	const size, n = 64 << 10, 300
	samples, err := publishes(o.bus, "memory/large", bytes.Repeat([]byte("x"), size), 20, n)
	if err != nil {
		return err
	}
	floor, err := buildFloor(ctx, o.path("floor"))
	if err != nil {
		return err
	}
	ns, err := measureFloor(ctx, floor, size, size, 100)
	if err != nil {
		return err
	}
	b.figure("event_mqtt_64k_p50", micros(samples, 0.5), "us")
	b.figure("event_mqtt_64k_p99", micros(samples, 0.99), "us")
	b.figure("floor_mqtt_64k", ns/1e3, "us")
	b.figure("event_mqtt_64k_vs_floor", micros(samples, 0.5)/(ns/1e3), "ratio")
	return nil
}

// measureFloor gives the median ns of rounds.
func measureFloor(ctx context.Context, floor string, size, chunk, rounds int) (float64, error) {
	out, err := command(ctx, nil, floor, strconv.Itoa(size), strconv.Itoa(chunk), strconv.Itoa(rounds))
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return 0, fmt.Errorf("read the floor: %w", err)
	}
	return ns, nil
}

// buildFloor compiles testdata/floor.c with the library that the programs hold.
func buildFloor(ctx context.Context, to string) (string, error) {
	source, err := command(ctx, nil, "go", "list", "-f", "{{.Dir}}", "dunlin.dev/dunlin/test/bench")
	if err != nil {
		return "", err
	}
	module, err := command(ctx, nil, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/bytecodealliance/wasmtime-go/v44")
	if err != nil {
		return "", err
	}
	machine, err := command(ctx, nil, "uname", "-m")
	if err != nil {
		return "", err
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	build := filepath.Join(strings.TrimSpace(module), "build")
	_, err = command(ctx, nil, cc, "-O2", "-std=gnu11", "-I", filepath.Join(build, "include"), "-o", to,
		filepath.Join(strings.TrimSpace(source), "testdata", "floor.c"),
		filepath.Join(build, "linux-"+strings.TrimSpace(machine), "libwasmtime.a"), "-lm", "-ldl", "-lpthread")
	return to, err
}

// echoes posts a body of so many bytes, one after the other on one connection, and reads all of it back.
func echoes(addr string, size, warm, n int) ([]time.Duration, error) {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i * 7)
	}
	samples := make([]time.Duration, 0, warm+n)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for range warm + n {
		begun := time.Now()
		resp, err := client.Post("http://"+addr+"/echo", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		got, err := io.ReadAll(resp.Body)
		took := time.Since(begun)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
			return nil, fmt.Errorf("echo %d bytes: got %s and %d bytes (%w)", size, resp.Status, len(got), err)
		}
		samples = append(samples, took)
	}
	return samples[warm:], nil
}

// bodies beside wasmtime's, in turns.
func (p *peer) bodies(b *bench) error {
	for _, of := range bodySizes {
		var ours, theirs []time.Duration
		for range rounds {
			for _, at := range []struct {
				addr string
				to   *[]time.Duration
			}{{p.ours, &ours}, {p.theirs, &theirs}} {
				samples, err := echoes(at.addr, of.size, of.warm, of.events/rounds)
				if err != nil {
					return err
				}
				*at.to = append(*at.to, samples...)
			}
		}
		name := "http_echo_" + of.name
		b.figure(name+"_p50", micros(ours, 0.5), "us")
		b.figure(name+"_wasmtime_p50", micros(theirs, 0.5), "us")
		b.figure(name+"_p50_vs_wasmtime", micros(ours, 0.5)/micros(theirs, 0.5), "ratio")
	}
	return nil
}
