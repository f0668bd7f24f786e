package codecache

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/engine/enginetest"
	"dunlin.dev/dunlin/fleet/wire"
	"dunlin.dev/dunlin/test/guests"
)

var digest = wire.Sum(guests.Smallest).String()

// cache opens dir, with a count of how often a component was compiled.
func cache(t *testing.T, dir string) (c *Cache, load func() *engine.Component, compiled *atomic.Int32, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	c, err := Open(dir, enginetest.Shared(t), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	compiled = new(atomic.Int32)
	return c, func() *engine.Component {
		t.Helper()
		comp, err := c.Load(digest, func() ([]byte, error) { compiled.Add(1); return guests.Smallest, nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, exports := comp.Imports(), comp.Exports(); len(exports) == 0 {
			t.Error("what was loaded exports nothing")
		}
		comp.Close()
		return comp
	}, compiled, log
}

func TestCodeIsCompiledOnceAndMappedFromThenOn(t *testing.T) {
	dir := t.TempDir()
	c, load, compiled, _ := cache(t, dir)
	if c.Has(digest) {
		t.Error("an empty cache has it")
	}
	load()
	load()
	if n := compiled.Load(); n != 1 || !c.Has(digest) {
		t.Errorf("compiled %d times, has it: %v", n, c.Has(digest))
	}
	_, load, compiled, _ = cache(t, dir) // the next process
	load()
	if n := compiled.Load(); n != 0 {
		t.Errorf("the next process compiles %d times", n)
	}
	for _, f := range []string{c.path(digest), c.path(digest) + ".sum"} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want it private", f, info.Mode(), err)
		}
	}
	if err := c.Drop(digest); err != nil || c.Has(digest) {
		t.Errorf("dropped: %v, has it: %v", err, c.Has(digest))
	}
	if err := c.Drop(digest); err != nil {
		t.Errorf("dropped twice: %v", err)
	}
}

// The first event after a start must not pay for reading all of the code.
func TestAnEntryThatWasVerifiedAtTheStartIsNotReadAgain(t *testing.T) {
	dir := t.TempDir()
	_, load, _, _ := cache(t, dir)
	load()
	c, load, compiled, _ := cache(t, dir)
	c.VerifyAll(t.Context())
	if err := os.WriteFile(c.path(digest)+".sum", []byte("no checksum"), 0o600); err != nil {
		t.Fatal(err)
	}
	load()
	if n := compiled.Load(); n != 0 {
		t.Errorf("compiled %d times: the checksum was read again", n)
	}
}

// Native code that isn't what this board compiled never runs: it is compiled again.
func TestADamagedEntryIsCompiledAgain(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"bit flipped": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"cut short": func(t *testing.T, path string) {
			if err := os.Truncate(path, 100); err != nil {
				t.Fatal(err)
			}
		},
		"emptied": func(t *testing.T, path string) {
			if err := errors.Join(os.Truncate(path, 0), os.Truncate(path+".sum", 0)); err != nil {
				t.Fatal(err)
			}
		},
		"code missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"checksum missing": func(t *testing.T, path string) {
			if err := os.Remove(path + ".sum"); err != nil {
				t.Fatal(err)
			}
		},
		"checksum of something else": func(t *testing.T, path string) {
			if err := os.WriteFile(path+".sum", []byte(strings.Repeat("0", 64)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, load, _, _ := cache(t, dir)
			load()
			spoil(t, c.path(digest))
			c, load, compiled, log := cache(t, dir)
			c.VerifyAll(t.Context()) // must not make a damaged entry sound
			load()
			load()
			if n := compiled.Load(); n != 1 {
				t.Errorf("compiled %d times, want once", n)
			}
			if missing := strings.Contains(name, "missing"); strings.Contains(log.String(), "damaged") == missing {
				t.Errorf("log says %q", log)
			}
		})
	}
}

func TestEntriesOfOtherEnginesAndUnfinishedWritesGoAtTheStart(t *testing.T) {
	dir := t.TempDir()
	c, load, _, _ := cache(t, dir)
	load()
	own := filepath.Base(c.path(digest))
	for _, name := range []string{strings.Split(own, "-")[0] + "-abc-wasmtime-1.0.0", "writing-123", own + "x.sum"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, load, compiled, _ := cache(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != own || entries[1].Name() != own+".sum" {
		t.Errorf("left are %v, %v", entries, err)
	}
	if load(); compiled.Load() != 0 {
		t.Error("its own entry went too")
	}
}

// A large component takes hundreds of megabytes to compile: two triggers that fire at once must not do it twice.
func TestManyWhoLoadAtOnceCompileOnce(t *testing.T) {
	_, load, compiled, _ := cache(t, t.TempDir())
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() { load() })
	}
	group.Wait()
	if n := compiled.Load(); n != 1 {
		t.Errorf("compiled %d times, want once", n)
	}
}

func TestWhatDoesNotCompileLeavesNothing(t *testing.T) {
	c, _, _, _ := cache(t, t.TempDir())
	gone := errors.New("it is not on the board")
	if _, err := c.Load(digest, func() ([]byte, error) { return nil, gone }); !errors.Is(err, gone) || !strings.Contains(err.Error(), digest) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Load(digest, func() ([]byte, error) { return []byte("no component"), nil }); err == nil || c.Has(digest) {
		t.Errorf("got %v, has it: %v", err, c.Has(digest))
	}
	if entries, err := os.ReadDir(c.dir); err != nil || len(entries) != 0 {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestPruneDropsTheOldestBeyondTheLimit(t *testing.T) {
	c, load, compiled, _ := cache(t, t.TempDir())
	load()
	if err := c.Prune(1 << 30); err != nil || !c.Has(digest) {
		t.Errorf("below the limit: %v, has it: %v", err, c.Has(digest))
	}
	if err := c.Prune(0); err != nil || c.Has(digest) {
		t.Errorf("over the limit: %v, has it: %v", err, c.Has(digest))
	}
	load()
	if n := compiled.Load(); n != 2 {
		t.Errorf("compiled %d times", n)
	}
}
