package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

const (
	upStarts  = 7 // the first compiles, and does not count
	upReloads = 7
)

// up measures what a developer waits for: the first event after a start, and the new version after a build.
func (b *bench) up(ctx context.Context) error {
	if err := b.upOf(ctx, "small", guests.HelloHTTP); err != nil {
		return err
	}
	if b.js == "" {
		return nil
	}
	js, err := os.ReadFile(filepath.Join(b.js, "seed.wasm"))
	if err != nil {
		return err
	}
	return b.upOf(ctx, "js", js)
}

func (b *bench) upOf(ctx context.Context, name string, wasm []byte) error {
	dir, addr, err := b.project("up-"+name, wasm)
	if err != nil {
		return err
	}
	source := filepath.Join(dir, "c.wasm")
	var p *process.Process
	defer func() { p.Stop() }()
	var samples []time.Duration
	for i := range upStarts {
		p.Stop()
		begun := time.Now()
		if p, err = process.Start(b.path("up.log"), b.path("dunlin"), "up", "-f", filepath.Join(dir, "dunlin.toml"), "--listen", addr, "--mqtt", "127.0.0.1:0"); err != nil {
			return err
		}
		if err := firstAnswer(ctx, addr); err != nil {
			return err
		}
		if i > 0 {
			samples = append(samples, time.Since(begun))
		}
	}
	b.figure("up_first_event_"+name, micros(samples, 0.5)/1e3, "ms")

	// A client asks all the while: none of its requests may fail.
	var over atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for !over.Load() {
			if _, err := requests(addr, "/", "Hello World!", 0, 50); err != nil {
				return fmt.Errorf("while it reloads: %w", err)
			}
		}
		return nil
	})
	group.Go(func() error {
		defer over.Store(true)
		var samples []time.Duration
		for i := range upReloads {
			if err := os.WriteFile(source+".new", distinct(wasm, byte(i)), 0o600); err != nil {
				return err
			}
			seen := len(p.Lines())
			begun := time.Now()
			if err := os.Rename(source+".new", source); err != nil {
				return err
			}
			if _, err := p.LineAfter(ctx, seen, `^dunlin: reloaded: `); err != nil {
				return err
			}
			samples = append(samples, time.Since(begun))
		}
		b.figure("up_reload_"+name, micros(samples, 0.5)/1e3, "ms")
		return nil
	})
	return group.Wait()
}

// project makes a folder with a manifest for one component, and finds an address to serve it at.
func (b *bench) project(name string, wasm []byte) (dir, addr string, err error) {
	dir = b.path(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	const manifest = "dunlin_manifest_version = 1\napplication = { name = \"up\", version = \"1.0.0\" }\n" +
		"trigger.http = [{ route = \"/\", component = \"c\" }]\ncomponent.c = { source = \"c.wasm\" }\n"
	if err := os.WriteFile(filepath.Join(dir, "dunlin.toml"), []byte(manifest), 0o600); err != nil {
		return "", "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "c.wasm"), wasm, 0o600); err != nil {
		return "", "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	return dir, l.Addr().String(), l.Close()
}

// firstAnswer asks until there is one.
func firstAnswer(ctx context.Context, addr string) error {
	again := time.NewTicker(500 * time.Microsecond)
	defer again.Stop()
	for {
		if _, err := requests(addr, "/", "Hello World!", 0, 1); err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
