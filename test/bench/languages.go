package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"dunlin.dev/dunlin/test/process"
)

const (
	languageWarm   = 100
	languageEvents = 1000

	maxLanguageMemory = 256 // MiB
)

// measureLanguages measures the same handler, "Hello World!", in each language.
func (b *bench) measureLanguages(ctx context.Context) error {
	const suffix = "-http.wasm"
	files, err := filepath.Glob(filepath.Join(b.languages, "*"+suffix))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no component in " + b.languages + ": make templates builds them")
	}
	for _, file := range files {
		if err := b.language(ctx, strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), suffix), "-", "_"), file); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) language(ctx context.Context, name, file string) error {
	wasm, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dir, addr, err := b.project("lang-"+name, wasm)
	if err != nil {
		return err
	}
	b.figure("lang_"+name+"_size", float64(len(wasm))/1e6, "MB")

	cache := filepath.Join(dir, "cache")
	began := time.Now()
	if _, err := command(ctx, []string{"XDG_CACHE_HOME=" + cache}, b.path("dunlin"), "check", "-f", dir); err != nil {
		return err
	}
	b.figure("lang_"+name+"_compile", time.Since(began).Seconds()*1e3, "ms")
	var compiled int64
	err = filepath.WalkDir(cache, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			compiled += info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	b.figure("lang_"+name+"_compiled", float64(compiled)/1e6, "MB")

	// The first run compiles; the second is what is measured.
	var p *process.Process
	defer func() { p.Stop() }()
	for range 2 {
		p.Stop()
		if p, err = process.Start(b.path("lang.log"), b.path("dunlin"), "up", "-f", dir, "--listen", addr, "--mqtt", "off"); err != nil {
			return err
		}
		if _, err := p.LineAfter(ctx, 0, `^dunlin: up: `); err != nil {
			return err
		}
	}
	samples, err := requests(addr, "/", "Hello World!", languageWarm, languageEvents)
	if err != nil {
		return err
	}
	b.figure("lang_"+name+"_p50", micros(samples, 0.5), "us")
	b.figure("lang_"+name+"_p99", micros(samples, 0.99), "us")
	p.Stop() // its address is used again
	least, err := b.leastMemory(ctx, dir, addr)
	if err != nil {
		return err
	}
	b.figure("lang_"+name+"_memory", float64(least), "MiB")
	return nil
}

// leastMemory is the smallest limit, in whole MiB, under which the project answers.
func (b *bench) leastMemory(ctx context.Context, dir, addr string) (int, error) {
	manifest := filepath.Join(dir, "dunlin.toml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		return 0, err
	}
	var failed error
	n := 1 + sort.Search(maxLanguageMemory, func(i int) bool {
		limits := fmt.Sprintf("\"c.wasm\", limits = { memory = \"%dMiB\" }", 1+i)
		if err := os.WriteFile(manifest, bytes.Replace(text, []byte("\"c.wasm\""), []byte(limits), 1), 0o600); err != nil {
			failed = err
			return true
		}
		p, err := process.Start(b.path("lang.log"), b.path("dunlin"), "up", "-f", dir, "--listen", addr, "--mqtt", "off")
		if err != nil {
			failed = err
			return true
		}
		defer p.Stop()
		// A limit below what the component's memories begin with is refused before anything starts.
		if _, err := p.LineAfter(ctx, 0, `^dunlin: up: `); err != nil {
			return false
		}
		_, err = requests(addr, "/", "Hello World!", 0, 1)
		return err == nil
	})
	if failed == nil && n > maxLanguageMemory {
		failed = fmt.Errorf("%s doesn't answer with %d MiB", dir, maxLanguageMemory)
	}
	return n, failed
}
