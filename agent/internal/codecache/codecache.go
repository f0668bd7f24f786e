// Package codecache keeps compiled components in files, so that code is mapped rather than compiled. An entry is keyed by the
// component's digest and by everything its code depends on (engine version, target, settings). Native code is never
// accepted from anyone: the cache holds only what this board compiled, and an entry that changed since is compiled again.
package codecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// Cache of compiled components in one directory. Safe for concurrent use.
type Cache struct {
	dir    string
	engine *engine.Engine
	log    *slog.Logger

	compiling sync.Mutex // one at a time: each may take hundreds of megabytes
	verifying singleflight.Group

	mu       sync.Mutex
	verified map[string]bool // files whose checksum was right since this process started
}

// Open the cache in dir, which is made when absent. Entries of other engines and unfinished writes are removed.
func Open(dir string, e *engine.Engine, log *slog.Logger) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	c := &Cache{dir: dir, engine: e, log: log, verified: map[string]bool{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	for _, f := range entries {
		name := strings.TrimSuffix(f.Name(), ".sum")
		if !strings.HasSuffix(name, "-"+e.CacheKey()) {
			if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
				return nil, fmt.Errorf("clean code cache: %w", err)
			}
		}
	}
	return c, nil
}

func (c *Cache) path(digest string) string {
	return filepath.Join(c.dir, strings.ReplaceAll(digest, ":", "-")+"-"+c.engine.CacheKey())
}

// Has reports whether there is an entry for a component; Load may still find it damaged.
func (c *Cache) Has(digest string) bool {
	_, err := os.Stat(c.path(digest) + ".sum")
	return err == nil
}

// Load maps a component's code, compiling it first when there is no sound entry. wasm gives the component's bytes.
// Errors are wasm's, a *engine.CompileError, or the file system's.
func (c *Cache) Load(digest string, wasm func() ([]byte, error)) (*engine.Component, error) {
	path := c.path(digest)
	if comp, err := c.sound(path); err == nil {
		return comp, nil
	}
	c.compiling.Lock()
	defer c.compiling.Unlock()
	comp, err := c.sound(path) // another may have compiled it meanwhile
	if err == nil {
		return comp, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("compiled code is damaged and is compiled again", "component", digest, "cause", err)
	}
	if err := c.compile(digest, path, wasm); err != nil {
		return nil, err
	}
	return c.engine.Load(path)
}

// sound maps an entry that is what was compiled.
func (c *Cache) sound(path string) (*engine.Component, error) {
	if err := c.verify(path); err != nil {
		return nil, err
	}
	return c.engine.Load(path)
}

// Drop removes a component's entry.
func (c *Cache) Drop(digest string) error { return c.drop(c.path(digest)) }

func (c *Cache) drop(path string) error {
	c.mu.Lock()
	delete(c.verified, path)
	c.mu.Unlock()
	for _, f := range []string{path + ".sum", path} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop compiled code: %w", err)
		}
	}
	return nil
}

// Prune drops the entries that were made first until the rest has at most limit bytes.
func (c *Cache) Prune(limit int64) error {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("prune code cache: %w", err)
	}
	var entries []fs.FileInfo
	var size int64
	for _, f := range files {
		info, err := f.Info()
		if err == nil && !strings.HasSuffix(f.Name(), ".sum") {
			entries = append(entries, info)
			size += info.Size()
		}
	}
	slices.SortFunc(entries, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, e := range entries {
		if size <= limit {
			return nil
		}
		if err := c.drop(filepath.Join(c.dir, e.Name())); err != nil {
			return err
		}
		size -= e.Size()
	}
	return nil
}

// checksum is the length and the CRC-32C of what r gives. It tells damage, not forgery: whoever can write the entry can write
// its checksum. SHA-256 of a 52 MB entry cost 50 ms, ten times the rest of a cold start.
func checksum(r io.Reader) (string, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.Copy(h, r)
	if err != nil {
		return "", fmt.Errorf("read compiled code: %w", err)
	}
	return fmt.Sprintf("%d %08x", n, h.Sum32()), nil
}

// VerifyAll looks at every entry before it is asked for, so that no first event waits while 50 MB are read. What is damaged
// is found again, and told, by the Load that it is for.
func (c *Cache) VerifyAll(ctx context.Context) {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return
		}
		if name, ok := strings.CutSuffix(f.Name(), ".sum"); ok {
			_ = c.verify(filepath.Join(c.dir, name))
		}
	}
}

// verify compares the file with its checksum, once a process; who asks meanwhile waits for the same comparison.
func (c *Cache) verify(path string) error {
	c.mu.Lock()
	done := c.verified[path]
	c.mu.Unlock()
	if done {
		return nil
	}
	_, err, _ := c.verifying.Do(path, func() (any, error) { return nil, c.compare(path) })
	return err
}

func (c *Cache) compare(path string) error {
	want, err := os.ReadFile(path + ".sum")
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := checksum(f)
	if err != nil {
		return err
	}
	if got != string(want) {
		return fmt.Errorf("verify compiled code: checksum is %s, want %.40q", got, want)
	}
	c.markVerified(path)
	return nil
}

func (c *Cache) markVerified(path string) {
	c.mu.Lock()
	c.verified[path] = true
	c.mu.Unlock()
}

func (c *Cache) compile(digest, path string, wasm func() ([]byte, error)) error {
	defer engine.Trim()
	body, err := wasm()
	if err != nil {
		return fmt.Errorf("compile component %s: %w", digest, err)
	}
	comp, err := c.engine.Compile(body)
	if err != nil {
		return fmt.Errorf("compile component %s: %w", digest, err)
	}
	defer comp.Close()
	code, err := comp.Serialize()
	if err != nil {
		return fmt.Errorf("serialise component %s: %w", digest, err)
	}
	sum, err := checksum(bytes.NewReader(code))
	if err != nil {
		return err
	}
	// The checksum is written last: an entry without one does not exist.
	if err := writeAtomic(path, code); err != nil {
		return err
	}
	if err := writeAtomic(path+".sum", []byte(sum)); err != nil {
		return err
	}
	c.markVerified(path)
	return nil
}

func writeAtomic(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "writing-")
	if err != nil {
		return fmt.Errorf("write compiled code: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write compiled code: %w", err)
	}
	return nil
}
