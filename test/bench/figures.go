package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

const (
	smallEvents, smallWarm     = 5000, 500
	jsEvents, jsWarm           = 1000, 50
	durableEvents, durableWarm = 300, 10
	smallCopies, smallBoards   = 20, 6
	growthBoards               = 3
	jsBoards                   = 12
	fsyncs                     = 50
)

// engine runs the engine's own benchmarks.
func (b *bench) engine(ctx context.Context) error {
	var env []string
	if b.js != "" {
		env = append(env, "DUNLIN_SEED_JS="+filepath.Join(b.js, "seed.wasm"))
	}
	out, err := command(ctx, env, b.path("engine.test"), "-test.run=^$", "-test.bench=^BenchmarkFigure", "-test.benchtime=1s")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		benchmark, name string
		js              bool
	}{
		{"Instantiate", "instantiate_smallest", false}, {"Load/small", "load_compiled_small", false}, {"Load/js", "load_compiled_js", true},
	} {
		if f.js && b.js == "" {
			continue
		}
		ns, err := metric(out, "BenchmarkFigure"+f.benchmark, "p50-ns")
		if err != nil {
			return err
		}
		b.figure(f.name, ns/1e3, "us")
	}
	return nil
}

// store runs the store's own benchmarks, with their files where the board's lie.
func (b *bench) store(ctx context.Context) error {
	out, err := command(ctx, []string{"TMPDIR=" + b.dir}, b.path("store.test"), "-test.run=^$", "-test.bench=^BenchmarkFigure", "-test.benchtime=2s")
	if err != nil {
		return err
	}
	get := func(benchmark, unit string) (v float64) {
		if err == nil {
			v, err = metric(out, "BenchmarkFigure"+benchmark, unit)
		}
		return v
	}
	for _, of := range []string{"sync", "batch", "memory"} {
		for _, load := range []string{"lone", "busy"} {
			if of == "batch" && load == "lone" {
				continue // it is sync's, and late
			}
			at := "Events/" + of + "/" + load
			b.figure("store_"+of+"_"+load+"_written", get(at, "B/event"), "bytes")
			b.figure("store_"+of+"_"+load+"_blocks", get(at, "block-B/event"), "bytes")
			b.figure("store_"+of+"_"+load+"_rate", get(at, "events/s"), "1/s")
		}
	}
	lone, busy := get("Slow/lone", "events/s"), get("Slow/busy", "events/s")
	b.figure("store_slow_lone_rate", lone, "1/s")
	b.figure("store_slow_busy_rate", busy, "1/s")
	b.figure("store_slow_group_ratio", busy/lone, "ratio")
	b.figure("store_recovery", get("Recovery", "open-ms"), "ms")
	return err
}

// metric finds one in the output of Go's benchmarks.
func metric(out, benchmark, unit string) (float64, error) {
	re := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(benchmark) + `(?:-\d+)?\s.*?\s([0-9.e+-]+) ` + regexp.QuoteMeta(unit) + `\b`)
	m := re.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("find %s of %s: not in\n%s", unit, benchmark, out)
	}
	return strconv.ParseFloat(m[1], 64)
}

// floor is what the machine takes for itself.
func (b *bench) floor(context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nHello World!")
	req := request("/")
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for buf := make([]byte, len(req)); ; {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}()
	samples, err := requests(l.Addr().String(), "/", "Hello World!", smallWarm, smallEvents)
	if err != nil {
		return err
	}
	b.figure("floor_loopback_p50", micros(samples, 0.5), "us")
	b.figure("floor_loopback_p99", micros(samples, 0.99), "us")
	f, err := os.Create(b.path("fsync"))
	if err != nil {
		return err
	}
	defer f.Close()
	samples = nil
	for range fsyncs {
		begun := time.Now()
		if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		samples = append(samples, time.Since(begun))
	}
	b.figure("floor_fsync_p50", micros(samples, 0.5), "us")
	return nil
}

// idling watches a board that does nothing.
func (b *bench) idling(ctx context.Context) error {
	if err := b.useAll(); err != nil {
		return err
	}
	after, err := watch(ctx, b.board, min(b.idle, 5*time.Second))
	if err != nil {
		return err
	}
	b.figure("idle_after_install_pss", float64(after.PSS)/1e6, "MB")
	if err := b.restart(ctx, false); err != nil {
		return err
	}
	if err := b.useAll(); err != nil {
		return err
	}
	woken, err := process.Wakes(b.board.PID())
	if err != nil {
		return err
	}
	written, err := process.Written(b.board.PID())
	if err != nil {
		return err
	}
	begun := time.Now()
	u, err := watch(ctx, b.board, b.idle)
	if err != nil {
		return err
	}
	more, err := process.Wakes(b.board.PID())
	if err != nil {
		return err
	}
	wrote, err := process.Written(b.board.PID())
	if err != nil {
		return err
	}
	b.figure("idle_written_per_day", float64(wrote-written)*float64(24*time.Hour)/float64(time.Since(begun)), "bytes")
	wakes := float64(more-woken) / time.Since(begun).Minutes()
	made, err := breakdown(b.board)
	if err != nil {
		return err
	}
	note("idle: %s", made)
	b.figure("idle_pss", float64(u.PSS)/1e6, "MB")
	b.figure("idle_anonymous", float64(u.Anonymous)/1e6, "MB")
	b.figure("idle_rss_file", float64(u.File)/1e6, "MB")
	b.figure("idle_wakes", wakes, "per_minute")
	return nil
}

// useAll uses each of the three handlers once.
func (b *bench) useAll() error {
	if _, err := requests(b.http, "/", "Hello World!", 0, 1); err != nil {
		return err
	}
	for _, topic := range []string{"quiet/bench", "events/bench"} {
		if _, err := publishes(b.bus, topic, ok, 0, 1); err != nil {
			return err
		}
	}
	b.counted++
	return nil
}

// requests are sent one after the other on one connection.
func requests(addr, path, body string, warm, n int) ([]time.Duration, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	samples, req := make([]time.Duration, 0, warm+n), request(path)
	for range warm + n {
		_, took, err := c.get(req, 200, body)
		if err != nil {
			return nil, err
		}
		samples = append(samples, took)
	}
	return samples[warm:], nil
}

// ok is a message that does nothing wrong, for the handlers that know the word.
var ok = []byte("ok")

func publishes(addr, topic string, payload []byte, warm, n int) ([]time.Duration, error) {
	p, err := connect(addr)
	if err != nil {
		return nil, err
	}
	defer p.close()
	samples := make([]time.Duration, 0, warm+n)
	for range warm + n {
		took, err := p.publish(topic, payload)
		if err != nil {
			return nil, err
		}
		samples = append(samples, took)
	}
	return samples[warm:], nil
}

// events of the small handlers.
func (b *bench) events(context.Context) error {
	samples, err := requests(b.http, "/", "Hello World!", smallWarm, smallEvents)
	if err != nil {
		return err
	}
	b.figure("event_http_small_p50", micros(samples, 0.5), "us")
	b.figure("event_http_small_p99", micros(samples, 0.99), "us")
	if samples, err = publishes(b.bus, "quiet/bench", ok, smallWarm, smallEvents); err != nil {
		return err
	}
	b.figure("event_mqtt_small_p50", micros(samples, 0.5), "us")
	b.figure("event_mqtt_small_p99", micros(samples, 0.99), "us")
	if samples, err = publishes(b.bus, "events/bench", ok, durableWarm, durableEvents); err != nil {
		return err
	}
	b.figure("event_mqtt_durable_p50", micros(samples, 0.5), "us")
	b.figure("event_mqtt_durable_p99", micros(samples, 0.99), "us")
	// What was acknowledged was counted, or the figures are of something else.
	b.counted += durableWarm + durableEvents
	counted := fmt.Sprintf("{\"http\":0,\"mqtt\":%d,\"timer\":0}\n", b.counted)
	_, err = requests(b.http, "/count", counted, 0, 1)
	return err
}

// cold uses copies of the small handler for the first time on fresh boards, and watches the memory grow with them.
func (b *bench) cold(ctx context.Context) error {
	files, triggers, components := map[string][]byte{}, "", ""
	for i := range smallCopies {
		name := fmt.Sprintf("copy%d", i)
		files[name+".wasm"] = distinct(guests.HelloHTTP, byte(i))
		triggers += fmt.Sprintf("{ route = %q, component = %q },", "/"+name, name)
		components += fmt.Sprintf("component.%s = { source = %q }\n", name, name+".wasm")
	}
	if err := b.push(ctx, "copies", "1.0.0", "trigger.http = ["+triggers+"]\n"+components, files); err != nil {
		return err
	}
	var samples, rested []time.Duration
	var growth []float64
	for board := range smallBoards + growthBoards {
		if err := b.restart(ctx, true); err != nil {
			return err
		}
		c, err := b.inUse()
		if err != nil {
			return err
		}
		var memory [smallCopies + 1]process.Usage // before so many were used
		looks := board >= smallBoards
		for i := range smallCopies {
			look := looks && (i == 0 || i == 3 || i == 13)
			if look {
				if memory[i], err = watch(ctx, b.board, 2*time.Second); err != nil {
					return err
				}
			}
			first, _, err := c.get(request(fmt.Sprintf("/copy%d", i)), 404, "not found\n")
			if err != nil {
				return err
			}
			switch {
			case look:
				rested = append(rested, first)
			case !looks:
				samples = append(samples, first)
			}
		}
		if looks {
			growth = append(growth, float64(memory[13].PSS-memory[3].PSS)/10)
		}
		if board == smallBoards+growthBoards-1 { // once is enough: it is a mean of twenty
			if memory[smallCopies], err = watch(ctx, b.board, 5*time.Second); err != nil {
				return err
			}
			b.figure("twenty_idle_private", float64(memory[smallCopies].Private-memory[0].Private)/smallCopies/1e6, "MB")
		}
		c.close()
	}
	b.figure("cold_small_p99", micros(samples, 0.99), "us")
	b.figure("cold_small_after_rest_p50", micros(rested, 0.5), "us")
	b.figure("per_component_pss", quantile(growth, 0.5)/1e6, "MB")
	note("cold small p50 %.0f us; growth a component %.0f bytes", micros(samples, 0.5), growth)
	return nil
}

// inUse is a connection on which the board has handled a request already.
func (b *bench) inUse() (*client, error) {
	c, err := dial(b.http)
	if err != nil {
		return nil, err
	}
	if _, _, err := c.get(request("/"), 200, "Hello World!"); err != nil {
		return nil, err
	}
	return c, nil
}

// distinct is the same component under another digest: with a custom section of its own.
func distinct(wasm []byte, n byte) []byte {
	return append(append([]byte(nil), wasm...), 0, 6, 4, 'c', 'o', 'p', 'y', n)
}

// update installs the JS handler, measures its events, and changes its one line.
func (b *bench) update(ctx context.Context) error {
	full, took, err := b.updateTo(ctx, "1.0.0", "seed.wasm")
	if err != nil {
		return err
	}
	b.figure("update_full_bytes", float64(full), "bytes")
	b.figure("update_full_time", took.Seconds()*1e3, "ms")
	peak, err := b.board.Peak()
	if err != nil {
		return err
	}
	b.figure("install_js_peak_rss", float64(peak)/1e6, "MB")
	after, err := watch(ctx, b.board, 2*time.Second)
	if err != nil {
		return err
	}
	b.figure("install_js_after_pss", float64(after.PSS)/1e6, "MB")
	samples, err := requests(b.http, "/js", "Hello World!", jsWarm, jsEvents)
	if err != nil {
		return err
	}
	b.figure("event_http_js_p50", micros(samples, 0.5), "us")
	b.figure("event_http_js_p99", micros(samples, 0.99), "us")
	patch, took, err := b.updateTo(ctx, "1.0.1", "seed-changed.wasm")
	if err != nil {
		return err
	}
	b.figure("update_patch_bytes", float64(patch), "bytes")
	b.figure("update_patch_time", took.Seconds()*1e3, "ms")
	_, err = requests(b.http, "/js", "Hello again, World!", 0, 1)
	return err
}

const jsLimits = `limits = { memory = "128MiB", time = "5s" }`

// updateTo pushes a version of the JS handler and counts the bytes of the board's link.
func (b *bench) updateTo(ctx context.Context, version, source string) (int64, time.Duration, error) {
	wasm, err := os.ReadFile(filepath.Join(b.js, source))
	if err != nil {
		return 0, 0, err
	}
	before, begun := b.link.bytes(), time.Now()
	err = b.push(ctx, "js", version, `
trigger.http = [{ route = "/js", component = "handler" }]
component.handler = { source = "handler.wasm", `+jsLimits+` }
`, map[string][]byte{"handler.wasm": wasm})
	return b.link.bytes() - before, time.Since(begun), err
}

// coldJS uses both versions of the JS handler, which the board has compiled by now, for the first time on fresh boards.
func (b *bench) coldJS(ctx context.Context) error {
	versions := []struct{ file, path, body string }{{"seed.wasm", "/js1", "Hello World!"}, {"seed-changed.wasm", "/js2", "Hello again, World!"}}
	files := map[string][]byte{}
	for _, v := range versions {
		wasm, err := os.ReadFile(filepath.Join(b.js, v.file))
		if err != nil {
			return err
		}
		files[v.file] = wasm
	}
	err := b.push(ctx, "both", "1.0.0", `
trigger.http = [{ route = "/js1", component = "one" }, { route = "/js2", component = "two" }]
component.one = { source = "seed.wasm", `+jsLimits+` }
component.two = { source = "seed-changed.wasm", `+jsLimits+` }
`, files)
	if err != nil {
		return err
	}
	var samples []time.Duration
	for range jsBoards {
		if err := b.restart(ctx, true); err != nil {
			return err
		}
		c, err := b.inUse()
		if err != nil {
			return err
		}
		for _, v := range versions {
			first, _, err := c.get(request(v.path), 200, v.body)
			if err != nil {
				return err
			}
			samples = append(samples, first)
		}
		c.close()
	}
	b.figure("cold_js_p99", micros(samples, 0.99), "us")
	note("cold js p50 %.0f us", micros(samples, 0.5))
	return nil
}
