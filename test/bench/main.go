// bench measures Dunlin on this machine: `make bench`. It prints one line a figure on standard output,
// "BENCH <name> <value> <unit>", and its progress on standard error.
//
// Engine and store figures come from their own benchmarks; all others from the real programs, copied so that they share memory
// with nobody, as real processes on loopback, with their files in a temporary folder (-tmp: its file system's fsync counts).
// us is microseconds, MB 1,000,000 bytes. A quantile is one of the samples (nearest rank), of all samples: none is thrown away.
// A board that logs an error or a warning meanwhile fails the run. What other programs do on the machine is in the figures; see
// the floor_* lines, and the load that is printed at both ends.
//
//	figure                    samples  what is measured
//	instantiate_smallest      ~200k    median; the engine alone: a 186-byte component into a fresh store, warm pool
//	load_compiled_small, _js  1 s      median; the engine alone: map a compiled component from a file in the page cache
//	store_<durability>_lone_written, _blocks, _rate   2 s  the store alone: bytes of all write calls for an event that sets 200 bytes, the
//	                                   same in whole blocks of 4 KiB, and events a second; one after the other
//	store_<durability>_busy_...        2 s     the same, 64 publishers with 16 in flight each
//	store_slow_*                       2 s     sync, 5 ms more in each fdatasync of the journal: events a second lone and busy, and busy by lone
//	store_recovery                     2 s     mean: opening the store after a power cut, 100,000 messages waiting and the journal full
//	floor_loopback_p50, _p99  5,000    a request of as many bytes to an echo over loopback, without Dunlin: what the machine takes
//	floor_fsync_p50           50       4 KiB written and fsynced where the board's store lies
//	idle_pss, idle_anonymous  20 s     median of one a second: a board that was started from the disk (no file of it in the page
//	                                   cache) with three small handlers installed, has a link to its fleet, used each handler
//	                                   once, and does nothing since (-idle: how long)
//	idle_after_install_pss    5 s      the same for the process that compiled and installed them
//	idle_rss_file             20 s     the part of idle that is mapped files: program text, compiled code, the store
//	idle_written_per_day      20 s     bytes that the kernel was given to write to the disk, by the day
//	idle_wakes                20 s     how often a thread of it wakes in a minute: the fleet link's keepalive, and the readings of these figures
//	event_http_small_*        5,000    GET on one kept-alive connection, one after the other: first byte written to last byte
//	                                   read; hello-http, no effects
//	event_http_js_*           1,000    the same, the JS handler
//	event_mqtt_small_*        5,000    QoS 1 PUBLISH to its PUBACK, one after the other; a handler without durable effects, so the
//	                                   acknowledgement waits for the handler's end and no commit
//	event_mqtt_durable_*      300      the same; the handler counts in keyvalue and publishes: two commits to disk, one of them
//	                                   before the PUBACK
//	event_http_echo_64k_*, _1m_*  300, 40  POST of so many bytes to hello-http's /echo, to the last byte of the same body back
//	floor_echo_64k, _1m       100, 20  median: as many bytes in the echo's chunks of 8 KiB as list<u8> to a guest and on to the host, in C
//	                                   alone (testdata/floor.c): no network, no HTTP, no streams; its processor time, so others' work is not in it
//	event_http_echo_*_vs_floor  -      the p50 by that floor
//	echo_1m_peak_growth, _32m_  1      how much more memory the board has at most, while such a body goes through /echo
//	together_http_rate, _mqtt_rate  3 s  requests and messages a second of one board that has both at once, without durable effects: 8
//	                                   connections with a request under way each, 8 publishers with 16 messages of QoS 1
//	per_component_pss         3        median, a process each: 3 copies of hello-http used once, then 10 more; a tenth of the growth
//	twenty_idle_private       1        private memory (private pages, clean and dirty) of a board with 20 copies of hello-http used once,
//	                                   less that with none of them used, a handler
//	cold_small_p99            120      6 fresh boards that have come to rest, 20 copies of hello-http (own digests, compiled before, files in the page cache):
//	                                   the first request ever to each, on a connection in use, to its first byte
//	cold_small_after_rest_p50  9       median: the same after 2 s in which nothing was asked
//	cold_js_p99               24       12 fresh boards that have come to rest, 2 versions of the JS handler: the same
//	boot_first_event_20_handlers  6  median: a board with 20 handlers, compiled before, and no network, its files on the disk (no page in
//	                                   the cache): from the start of the agent to the end of the first answer
//	up_first_event_small, _js 6        median: from the start of dunlin up, its code compiled before, to the end of the first answer
//	up_reload_small, _js      7        median: from a component's replacement until dunlin up says that the new one serves, compiling
//	                                   included; meanwhile a client asks without pause, and no request fails
//	outbox_drain              30,000   messages of 100 bytes a second that a handler had sent to the fleet on ten topics while the server was
//	                                   away, from the link's return until the server has the last one; rate = "off"
//	socket_<durability>_busy_rate  3 s  messages of 200 bytes a second, from 64 publishers' sockets with 16 under way each, to the effect of
//	                                   the last of each, read back; QoS 1, a handler that keeps them in keyvalue
//	socket_sync_at_<n>_p50, _p99  20, 1,000, 20,000  such messages at n a second whether acknowledgements come or not: each PUBLISH to its PUBACK
//	socket_slow_*             3 s      the same board where each fdatasync and fsync takes 5 ms longer, by strace: one publisher with one
//	                                   message under way, which is one event a transaction; the 64 with 16; and the latter by the former
//	event_mqtt_64k_*          300      PUBLISH of 64 KiB to its PUBACK, a handler that keeps it in keyvalue, durability "memory"
//	floor_mqtt_64k            100      median: as many bytes as one list<u8> to a guest and on to the host, in C alone
//	agent_binary              1        size of dunlin-agent as built
//	update_full_bytes         1        all bytes of the board's fleet connection, both ways, MQTT and TCP payload (no TCP/IP headers), from
//	                                   the push of the JS handler until it is reported to run
//	update_patch_bytes        1        the same for the push after that, of the same handler with its one line changed
//	update_full_time, _patch_ 1        how long these took, signing, transfer and compiling included
//	install_js_peak_rss       1        the most memory that the board had while it compiled the JS handler
//	install_js_after_pss      2 s      what it still has after that
//
// With -wasmtime (make bench-peers) these and no others, for the small handler and the JS one at 1, 8 and 64 connections:
//
//	http_<handler>_c<n>_rate, _wasmtime_rate  5  median of runs of 2 s, in turns with wasmtime's: requests a second; one is under way on
//	                                             each connection at all times
//	http_<handler>_c<n>_p99, _wasmtime_p99    5  median of the runs' own p99
//	http_echo_64k_*, http_echo_1m_*           300, 40  medians of the small handler's echo of such a body, in 5 turns
//	..._vs_wasmtime_ratio, ..._p99_vs_wasmtime   the board's by wasmtime's
//
// With -languages (make bench-languages) these and no others, for the component of each template of dunlin new for http, in a
// dunlin up of its own that compiled it before:
//
//	lang_<template>_size, _compiled  1   the component; its compiled form
//	lang_<template>_compile          1   dunlin check, with nothing compiled before: from its start to its end
//	lang_<template>_memory           1   the smallest limits.memory, in whole MiB, under which it answers
//	lang_<template>_p50, _p99    1,000   GET on one kept-alive connection, as event_http_*
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dunlin.dev/dunlin/test/process"
)

func main() {
	b := &bench{out: os.Stdout}
	flag.StringVar(&b.bin, "bin", os.Getenv("DUNLIN_BIN_DIR"), "folder of the programs (default $DUNLIN_BIN_DIR, else bin)")
	flag.StringVar(&b.js, "js", "", "folder that has seed.wasm and seed-changed.wasm already (default: build them, which needs node)")
	flag.StringVar(&b.tmp, "tmp", "", "folder for temporary files (default $TMPDIR, else /tmp)")
	flag.DurationVar(&b.idle, "idle", 20*time.Second, "how long to watch the idle board")
	flag.StringVar(&b.wasmtime, "wasmtime", "", "measure beside this program's `serve`, and nothing else (make bench-peers)")
	flag.StringVar(&b.languages, "languages", "", "measure the templates' components in this folder, and nothing else (make bench-languages)")
	flag.StringVar(&b.only, "only", "", "the stages to measure, as the progress names them, with commas between (default: all)")
	flag.BoolVar(&b.keep, "keep", false, "keep the temporary files, the logs among them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	out          io.Writer
	bin, js, tmp string
	idle         time.Duration
	keep         bool
	wasmtime     string
	languages    string
	only         string

	dir   string // of this run
	fleet *process.Process
	link  *relay
	url   string // of the fleet server
	board *process.Process
	http  string // the board's
	bus   string

	counted int // events that the board's counter should have
}

func (b *bench) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Minute, errors.New("it took longer than 15 minutes"))
	defer cancel()
	if b.dir, err = os.MkdirTemp(b.tmp, "dunlin-bench-"); err != nil {
		return err
	}
	defer func() {
		b.board.Stop()
		b.link.close()
		b.fleet.Stop()
		if b.keep {
			note("the files are in %s", b.dir)
		} else {
			err = errors.Join(err, os.RemoveAll(b.dir))
		}
	}()
	note("prepare")
	if err := b.prepare(ctx); err != nil {
		return err
	}
	begun := time.Now()
	note("measure; load %s", load())
	stages := []stage{{"engine", b.engine}, {"store", b.store}, {"floor", b.floor}, {"install", b.install},
		{"idle", b.idling}, {"events", b.events}, {"together", b.together}, {"bodies", b.bodies},
		{"cold", b.cold}, {"boot", b.boot}, {"up", b.up}, {"outbox", b.outbox}, {"socket", b.socket}}
	if b.js != "" {
		stages = append(stages, stage{"update", b.update}, stage{"cold js", b.coldJS})
	}
	if b.wasmtime != "" {
		stages = stages[3:4:4] // install
		stages = append(stages, stage{"peers", b.peers})
	}
	if b.languages != "" {
		stages = []stage{{"languages", b.measureLanguages}}
	}
	only := strings.Split(b.only, ",")
	for _, s := range stages {
		if b.only != "" && s.name != "install" && !slices.Contains(only, s.name) {
			continue
		}
		at := time.Now()
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		note("%s took %s", s.name, time.Since(at).Round(100*time.Millisecond))
	}
	note("measured in %s; load %s", time.Since(begun).Round(time.Second), load())
	if b.board == nil {
		return nil
	}
	return complaints(b.board)
}

type stage struct {
	name string
	run  func(context.Context) error
}

// prepare builds and copies what is measured.
func (b *bench) prepare(ctx context.Context) error {
	if b.bin == "" {
		b.bin = "bin"
	}
	for _, name := range []string{"dunlin", "dunlin-agent", "dunlin-fleet"} {
		program, err := os.ReadFile(filepath.Join(b.bin, name))
		if err != nil {
			return fmt.Errorf("%w; make build builds the programs", err)
		}
		if err := os.WriteFile(b.path(name), program, 0o755); err != nil {
			return err
		}
	}
	agent, err := os.Stat(b.path("dunlin-agent"))
	if err != nil {
		return err
	}
	b.figure("agent_binary", float64(agent.Size())/1e6, "MB")
	for _, name := range []string{"engine", "store"} {
		if _, err := command(ctx, nil, "go", "test", "-c", "-o", b.path(name+".test"), "dunlin.dev/dunlin/agent/internal/"+name); err != nil {
			return err
		}
	}
	if b.languages != "" {
		return nil
	}
	if b.js != "" {
		b.js, err = filepath.Abs(b.js)
		return err
	}
	if node, _ := exec.LookPath("node"); node == "" {
		fmt.Fprintln(os.Stderr, "ABSENT: nodejs (apt-get install nodejs): all figures of the JS handler")
		return nil
	}
	module, err := command(ctx, nil, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	guests := filepath.Join(strings.TrimSpace(module), "test", "guests")
	for _, name := range []string{"seed", "seed-changed"} {
		if _, err := command(ctx, nil, filepath.Join(guests, "build.sh"), "seed-js", b.path(name+".wasm"), filepath.Join(guests, "seed-js", name+".js")); err != nil {
			return err
		}
	}
	b.js = b.dir
	return nil
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// figure prints one.
func (b *bench) figure(name string, value float64, unit string) {
	format := "%.1f"
	switch unit {
	case "MB":
		format = "%.2f"
	case "bytes", "1/s":
		format = "%.0f"
	case "ratio":
		format = "%.2f"
	}
	fmt.Fprintf(b.out, "BENCH %s "+format+" %s\n", name, value, unit)
}

// quantile is the smallest sample that at least the share q of all are not above: nearest rank.
func quantile[T int64 | float64 | time.Duration](samples []T, q float64) T {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// micros is a quantile in us.
func micros(samples []time.Duration, q float64) float64 {
	return float64(quantile(samples, q)) / float64(time.Microsecond)
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// load is the machine's, over 1, 5 and 15 minutes.
func load() string {
	line, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "not known"
	}
	return strings.Join(strings.Fields(string(line))[:3], " ")
}
