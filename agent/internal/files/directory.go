// Package files is what components see of the disk: the files of a release, unpacked and read-only, and private directories
// with a quota. Every path is walked by os.Root, so that none leads out, whatever links a component makes.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

const (
	// entryBytes is what a file, folder or link costs at least, and the step in which files grow: the block of most file systems.
	entryBytes = 4 << 10
	// maxDepth of folders in a private directory: whoever walks it holds one open folder for each level.
	maxDepth = 64
	// maxPath in bytes, as Linux has it.
	maxPath = 4096
)

// ErrEscape is the error for a path that leads out of the folder that it is relative to.
var ErrEscape = errors.New("the path leads out of the directory")

// ErrReadOnly is the error for whatever would change a release's files.
var ErrReadOnly = errors.New("the files of a release are read-only")

// QuotaError refuses what would take a private directory over its limit.
type QuotaError struct{ Used, Limit int64 } // bytes

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the directory has %d of its %d bytes", e.Used, e.Limit)
}

// Directory is one that a component may reach. Safe for concurrent use.
type Directory struct {
	root   *os.Root
	ledger *ledger // nil: read-only
	limit  int64   // bytes; 0: none
}

// OpenReadOnly opens the files of a release.
func OpenReadOnly(path string) (*Directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	return &Directory{root: root}, nil
}

// OpenPrivate opens a component's own directory, which is made when absent, and counts what is in it. Nobody else may write
// there while it is open.
func OpenPrivate(path string) (*Directory, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	l := &ledger{open: map[inode]*opened{}}
	if l.used, err = count(path); err == nil {
		var info fs.FileInfo
		if info, err = root.Stat("."); err == nil {
			l.top = inodeOf(info)
			return &Directory{root: root, ledger: l}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("open directory: %w", err), root.Close())
}

// Within gives the same directory with a limit in bytes: versions of a component that overlap may have different ones.
func (d *Directory) Within(limit int64) *Directory {
	return &Directory{root: d.root, ledger: d.ledger, limit: limit}
}

// Used is how much of a private directory's limit is taken, in bytes.
func (d *Directory) Used() int64 {
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	return d.ledger.used
}

// Folder is the directory itself. It needs no Close.
func (d *Directory) Folder() *Folder { return &Folder{directory: d, root: d.root} }

// Close the directory; what was opened in it stays open.
func (d *Directory) Close() error { return d.root.Close() }

// ledger counts what a private directory holds. Whatever changes the directory holds mu.
type ledger struct {
	mu   sync.Mutex
	top  inode // of the directory itself
	used int64 // bytes
	open map[inode]*opened
}

// opened is a file that somebody holds open: one that has no name any more takes its room until then.
type opened struct {
	refs     int
	nameless bool
}

type inode struct{ dev, ino uint64 }

func inodeOf(info fs.FileInfo) inode {
	st := info.Sys().(*syscall.Stat_t)
	return inode{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on other systems
}

func linksOf(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) } //nolint:unconvert // as above

// cost of a file of that size, holes and all: a hole can be filled later.
func cost(size int64) int64 { return max(entryBytes, (size+entryBytes-1)/entryBytes*entryBytes) }

// costOf what is not a regular file is that of its entry.
func costOf(info fs.FileInfo) int64 {
	if !info.Mode().IsRegular() {
		return entryBytes
	}
	return cost(info.Size())
}

// count a directory without itself. A file with several names costs its size once, and an entry for each further name.
func count(path string) (used int64, err error) {
	seen := map[inode]bool{}
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == path {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if linksOf(info) > 1 && !info.IsDir() {
			if seen[inodeOf(info)] {
				used += entryBytes
				return nil
			}
			seen[inodeOf(info)] = true
		}
		used += costOf(info)
		return nil
	})
	return used, err
}

// room reports whether a change that takes that many more bytes fits. The caller holds the ledger's mu.
func (d *Directory) room(more int64) error {
	if more > 0 && (d.ledger.used > d.limit || more > d.limit-d.ledger.used) {
		return &QuotaError{d.ledger.used, d.limit}
	}
	return nil
}

// lock the directory for a change.
func (d *Directory) lock() (unlock func(), err error) {
	if d.ledger == nil {
		return nil, ErrReadOnly
	}
	d.ledger.mu.Lock()
	return d.ledger.mu.Unlock, nil
}

// unnamed gives back what the last name of something took, or one of several. The caller holds mu.
func (l *ledger) unnamed(info fs.FileInfo) {
	if linksOf(info) > 1 && !info.IsDir() {
		l.used -= entryBytes
		return
	}
	if o := l.open[inodeOf(info)]; o != nil && !info.IsDir() {
		o.nameless = true
		return
	}
	l.used -= costOf(info)
}
