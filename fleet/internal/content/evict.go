package content

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// maxEncodingsBytes is what encodings may take of the disk in all. One that was evicted is made again when a board asks.
	maxEncodingsBytes = 1 << 30
	// servedFor is how long after its last use an encoding counts as being served: a board asks for the next blocks well within it.
	servedFor = 15 * time.Minute
	// making begins the names of unfinished encodings.
	making = ".making-"
)

// kept is an encoding's file.
type kept struct {
	bytes int64
	used  time.Time // last; the file's time too, within a minute, for the next start
}

// takeStock looks at what an earlier run left: encodings are kept, halves of encodings go.
func (e *encodings) takeStock() error {
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return err
	}
	now := e.now()
	for _, f := range entries {
		path := filepath.Join(e.dir, f.Name())
		if strings.HasPrefix(f.Name(), making) {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		fi, err := f.Info()
		if err != nil {
			return err
		}
		used := fi.ModTime()
		if used.After(now) { // the clock went back since
			used = now
		}
		e.kept[path] = &kept{fi.Size(), used}
	}
	e.evict()
	return nil
}

// use says whether an encoding is there, and keeps it for those who are about to read it. e.mu is held.
func (e *encodings) use(path string) bool {
	k := e.kept[path]
	if k == nil {
		return false
	}
	if _, err := os.Stat(path); err != nil {
		delete(e.kept, path) // somebody else removed it
		return false
	}
	now := e.now()
	if now.Sub(k.used) > time.Minute {
		_ = os.Chtimes(path, now, now) // without it, it is only evicted sooner after a restart
	}
	k.used = now
	return true
}

// keep takes a new encoding in, and makes room for it.
func (e *encodings) keep(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept[path] = &kept{fi.Size(), e.now()}
	e.evict()
	return nil
}

// evict removes encodings until the rest is within the limit: the one first whose last use is longest ago, and none that is
// being served, even if the limit isn't met then. e.mu is held.
func (e *encodings) evict() {
	total := int64(0)
	for _, k := range e.kept {
		total += k.bytes
	}
	oldest := func(a, b string) int { return e.kept[a].used.Compare(e.kept[b].used) }
	for _, path := range slices.SortedFunc(maps.Keys(e.kept), oldest) {
		k := e.kept[path]
		if total <= e.limit || e.now().Sub(k.used) < servedFor {
			return
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue // it still takes its room, and is tried again
		}
		delete(e.kept, path)
		total -= k.bytes
	}
}
