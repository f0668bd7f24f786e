// Package content holds what boards fetch: components by digest, and their encodings (compressed, or as a patch against
// what a board holds). It answers boards' requests for content, block by block.
package content

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
	"golang.org/x/sys/unix"
)

// Errors of an upload. Callers branch on them.
var (
	ErrOffset   = errors.New("upload goes on at another offset")
	ErrMismatch = errors.New("content doesn't match its digest")
	ErrNoSpace  = errors.New("not enough room on the server's disk")
	ErrBusy     = errors.New("another upload of the same content is under way")
)

// reserve is the room on the disk that uploads leave free, in bytes: the database needs it.
const reserve = 64 << 20

// Blobs is content by digest, one file each: blobs/<hex>; an unfinished upload is uploads/<hex>. Blobs stay: they belong to
// releases, signed history that any board may be sent back to, and are bases of patches. Safe for concurrent use.
type Blobs struct {
	blobs, uploads string

	mu   sync.Mutex
	busy map[wire.Digest]bool
}

// OpenBlobs opens or makes the folders under dir.
func OpenBlobs(dir string) (*Blobs, error) {
	b := &Blobs{blobs: filepath.Join(dir, "blobs"), uploads: filepath.Join(dir, "uploads"), busy: map[wire.Digest]bool{}}
	for _, d := range []string{b.blobs, b.uploads} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open content: %w", err)
		}
	}
	return b, nil
}

func file(dir string, d wire.Digest) string { return filepath.Join(dir, hex.EncodeToString(d[:])) }

// Size of a blob in bytes; store.ErrNotFound is in the error's chain if there is none.
func (b *Blobs) Size(d wire.Digest) (int64, error) { return size(file(b.blobs, d), d) }

func size(path string, d wire.Digest) (int64, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("content %s: %w", d.Short(), store.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("content %s: %w", d.Short(), err)
	}
	return fi.Size(), nil
}

// Path of a blob's file, for reading only. Whether it exists is not checked.
func (b *Blobs) Path(d wire.Digest) string { return file(b.blobs, d) }

// Offset is where the upload of d goes on: the bytes that are here already.
func (b *Blobs) Offset(d wire.Digest) (int64, error) {
	n, err := size(file(b.uploads, d), d)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// Append takes the bytes of r as those of d from offset, of total in all, and reports whether d is whole then. What
// arrived before an error of r is kept, so the upload can go on. At total the digest is checked; content that doesn't match
// is dropped (ErrMismatch).
func (b *Blobs) Append(d wire.Digest, offset, total int64, r io.Reader) (done bool, err error) {
	if !b.claim(d) {
		return false, fmt.Errorf("content %s: %w", d.Short(), ErrBusy)
	}
	defer b.release(d)
	if _, err := b.Size(d); err == nil {
		return true, nil
	}
	at, err := b.Offset(d)
	if err != nil {
		return false, err
	}
	if at != offset {
		return false, fmt.Errorf("content %s: upload from %d, %d bytes are here: %w", d.Short(), offset, at, ErrOffset)
	}
	if err := room(b.uploads, total-offset); err != nil {
		return false, fmt.Errorf("content %s: %w", d.Short(), err)
	}
	path := file(b.uploads, d)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, fmt.Errorf("content %s: %w", d.Short(), err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return false, fmt.Errorf("content %s: %w", d.Short(), err)
	}
	n, err := io.Copy(f, io.LimitReader(r, total-offset+1))
	if err != nil {
		return false, fmt.Errorf("content %s: after %d bytes: %w", d.Short(), offset+n, err)
	}
	switch at := offset + n; {
	case at < total:
		return false, nil
	case at > total:
		return false, errors.Join(fmt.Errorf("content %s: more than %d bytes: %w", d.Short(), total, ErrMismatch), os.Remove(path))
	}
	return true, b.finish(d, f)
}

// finish checks a whole upload and gives it its name.
func (b *Blobs) finish(d wire.Digest, f *os.File) error {
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("content %s: %w", d.Short(), err)
	}
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("content %s: %w", d.Short(), err)
	}
	if got := sum(h); got != d {
		return errors.Join(fmt.Errorf("content %s: its digest is %s: %w", d.Short(), got, ErrMismatch), os.Remove(f.Name()))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("content %s: %w", d.Short(), err)
	}
	if err := os.Rename(f.Name(), b.Path(d)); err != nil {
		return fmt.Errorf("content %s: %w", d.Short(), err)
	}
	if err := store.SyncDir(b.blobs); err != nil {
		return fmt.Errorf("content %s: %w", d.Short(), err)
	}
	return nil
}

// DropUploads removes unfinished uploads that nobody touched since before.
func (b *Blobs) DropUploads(before time.Time) error {
	entries, err := os.ReadDir(b.uploads)
	if err != nil {
		return fmt.Errorf("drop uploads: %w", err)
	}
	for _, e := range entries {
		d, err := wire.ParseDigest("sha256:" + e.Name())
		if err != nil || strings.Contains(e.Name(), "/") || !b.claim(d) {
			continue
		}
		if fi, serr := e.Info(); serr == nil && fi.ModTime().Before(before) {
			err = os.Remove(filepath.Join(b.uploads, e.Name()))
		}
		b.release(d)
		if err != nil {
			return fmt.Errorf("drop uploads: %w", err)
		}
	}
	return nil
}

func (b *Blobs) claim(d wire.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.busy[d] {
		return false
	}
	b.busy[d] = true
	return true
}

func (b *Blobs) release(d wire.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.busy, d)
}

func sum(h hash.Hash) wire.Digest { return wire.Digest(h.Sum(nil)) }

func room(dir string, need int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need+reserve {
		return fmt.Errorf("%d MB are free, %d MB needed and %d MB kept free: %w", free>>20, need>>20, reserve>>20, ErrNoSpace)
	}
	return nil
}
