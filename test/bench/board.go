package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

// install raises a fleet server and a board, and installs three small handlers.
func (b *bench) install(ctx context.Context) error {
	if err := b.raise(ctx); err != nil {
		return err
	}
	return b.push(ctx, "small", "1.0.0", `
trigger.http = [{ route = "/", component = "hello" }, { route = "/echo", component = "hello" }, { route = "/count", component = "counter" }]
trigger.mqtt = [{ topic = "quiet/#", qos = 1, component = "quiet" }, { topic = "events/#", qos = 1, component = "counter" }]
component.hello = { source = "hello.wasm", limits = { payload = "64MiB", time = "60s", cpu = "60s" } }
component.counter = { source = "counter.wasm", key_value_stores = ["default"], publish = ["count/#"] }
component.quiet = { source = "quiet.wasm", key_value_stores = ["default"], publish = ["#"] }
`, map[string][]byte{"hello.wasm": guests.HelloHTTP, "counter.wasm": guests.Counter, "quiet.wasm": guests.Hostile})
}

func (b *bench) raise(ctx context.Context) (err error) {
	b.fleet, err = process.Start(b.path("fleet.log"), b.path("dunlin-fleet"), "--data", b.path("fleet"), "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m, err := b.fleet.Line(ctx, `ready http=(\S+) mqtt=(\S+)`)
	if err != nil {
		return err
	}
	b.url = "http://" + m[1]
	if b.link, err = newRelay(m[2]); err != nil {
		return err
	}
	if err := b.cli(ctx, "keys", "init", "--to", b.url, "--fleet", "bench", "--dir", b.path("keys")); err != nil {
		return err
	}
	config := fmt.Sprintf("state = %q\nlisten = \"127.0.0.1:0\"\n[bus]\nlisten = \"127.0.0.1:0\"\n"+
		"[fleet]\nname = \"bench\"\ndevice = \"board\"\nurl = %q\nroot = %q\ntoken_file = %q\n",
		b.path("board"), "mqtt://"+b.link.addr(), b.path("keys/root.json"), b.path("fleet/join.token"))
	if err := os.WriteFile(b.path("agent.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	return b.restart(ctx, true)
}

// restart gives a board process in which nothing has run yet. cached says whether its files are in the page cache, as after a
// restart of the program, or on the disk, as after one of the machine.
func (b *bench) restart(ctx context.Context, cached bool) (err error) {
	if b.board != nil {
		b.board.Stop()
		if err := complaints(b.board); err != nil {
			return err
		}
		prepare := evict
		if cached {
			prepare = warm
		}
		for _, path := range []string{b.path("board"), b.path("dunlin-agent")} {
			if err := eachFile(path, prepare); err != nil {
				return err
			}
		}
	}
	if b.board, err = process.Start(b.path("board.log"), b.path("dunlin-agent"), "--config", b.path("agent.toml")); err != nil {
		return err
	}
	m, err := b.board.Line(ctx, `msg=ready http=(\S+) bus=(\S+)`)
	if err != nil {
		return err
	}
	b.http, b.bus = m[1], m[2]
	if _, err = b.board.Line(ctx, `fleet link is up`); err != nil {
		return err
	}
	return idle(ctx, b.board)
}

// idle waits until a process has done nothing for a while: a start isn't over while it verifies its compiled code.
func idle(ctx context.Context, p *process.Process) error {
	const look, long = 50 * time.Millisecond, 6 // looks in a row
	tick := time.NewTicker(look)
	defer tick.Stop()
	last, same := time.Duration(-1), 0
	for same < long {
		used, err := process.CPU(p.PID())
		if err != nil {
			return err
		}
		if same++; used != last {
			last, same = used, 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func eachFile(path string, do func(*os.File) error) error {
	return filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return do(f)
	})
}

// warm brings a file into the page cache.
func warm(f *os.File) error {
	_, err := io.Copy(io.Discard, f)
	return err
}

// evict takes a file that nobody has mapped out of the page cache. How it got there decides how much of it a fault maps: a
// program that was just written comes in far larger pieces than one that is read from the disk.
func evict(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// push an application to the board and wait until it runs there.
func (b *bench) push(ctx context.Context, app, version, rest string, files map[string][]byte) error {
	dir := b.path("app-" + app)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	manifest := filepath.Join(dir, "dunlin.toml")
	head := fmt.Sprintf("dunlin_manifest_version = 1\napplication = { name = %q, version = %q }\n", app, version)
	if err := os.WriteFile(manifest, []byte(head+rest), 0o600); err != nil {
		return err
	}
	begun := time.Now()
	defer func() { note("push %s %s: %s", app, version, time.Since(begun).Round(time.Millisecond)) }()
	return b.cli(ctx, "push", "-f", manifest, "--device", "board", "--keys", b.path("keys"), "--to", b.url)
}

func (b *bench) cli(ctx context.Context, args ...string) error {
	_, err := command(ctx, []string{"DUNLIN_TOKEN_FILE=" + b.path("fleet/admin.token")}, b.path("dunlin"), args...)
	return err
}

// another board with a fleet server of its own, and more in its configuration. Its link goes past the relay.
func (b *bench) another(ctx context.Context, name, more string) (_ *bench, err error) {
	o := &bench{out: b.out, dir: b.path(name)}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"dunlin", "dunlin-agent", "dunlin-fleet"} {
		if err := os.Link(b.path(name), o.path(name)); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			o.end()
		}
	}()
	if err := o.raise(ctx); err != nil {
		return nil, err
	}
	config, err := os.ReadFile(o.path("agent.toml"))
	if err != nil {
		return nil, err
	}
	config = append(bytes.ReplaceAll(config, []byte(o.link.addr()), []byte(o.link.target)), more...)
	if err := os.WriteFile(o.path("agent.toml"), config, 0o600); err != nil {
		return nil, err
	}
	return o, o.restart(ctx, true)
}

func (b *bench) end() {
	b.board.Stop()
	b.link.close()
	b.fleet.Stop()
}
