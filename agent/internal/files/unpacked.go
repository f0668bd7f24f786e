package files

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"dunlin.dev/dunlin/fleet/archive"
)

// Unpacked keeps the files of releases, each archive in a folder that has its digest's name. A folder is held against that
// digest each time it is opened: the files pack to the archive's bytes, or they are unpacked again.
type Unpacked struct {
	dir string
	log *slog.Logger
	mu  sync.Mutex // one unpacks at a time
}

// writing begins the names of folders that are not whole yet.
const writing = "writing-"

// OpenUnpacked opens the folders in dir, which is made when absent. Unfinished ones are removed.
func OpenUnpacked(dir string, log *slog.Logger) (*Unpacked, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open unpacked files: %w", err)
	}
	unfinished, err := filepath.Glob(filepath.Join(dir, writing+"*"))
	for _, path := range unfinished {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return nil, fmt.Errorf("open unpacked files: %w", err)
	}
	return &Unpacked{dir: dir, log: log}, nil
}

func (u *Unpacked) path(digest string) string {
	return filepath.Join(u.dir, strings.ReplaceAll(digest, ":", "-"))
}

// Load opens the files with a digest ("sha256:" and hex). blob gives the archive, and is called only when they must be
// unpacked.
func (u *Unpacked) Load(digest string, blob func() ([]byte, error)) (*Directory, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	dir := u.path(digest)
	err := verify(dir, digest)
	if err == nil {
		return OpenReadOnly(dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		u.log.Warn("files of a release are damaged and are unpacked again", "files", digest, "cause", err)
	}
	b, err := blob()
	if err != nil {
		return nil, err
	}
	if err := u.unpack(dir, b); err != nil {
		return nil, fmt.Errorf("unpack files %s: %w", digest, err)
	}
	return OpenReadOnly(dir)
}

// Drop removes the files with a digest, if they are there.
func (u *Unpacked) Drop(digest string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := os.RemoveAll(u.path(digest)); err != nil {
		return fmt.Errorf("drop unpacked files: %w", err)
	}
	return nil
}

// verify packs a folder in thought, and compares the digest.
func verify(dir, digest string) error {
	var entries []archive.Entry
	folders := map[string]bool{}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			folders[p] = true
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no file", p)
		}
		info, err := d.Info()
		if err == nil {
			entries = append(entries, archive.Entry{Path: p, Size: info.Size()})
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		for p := path.Dir(e.Path); ; p = path.Dir(p) {
			delete(folders, p)
			if p == "." {
				break
			}
		}
	}
	if len(folders) > 0 {
		return fmt.Errorf("%d folders are empty", len(folders))
	}
	slices.SortFunc(entries, func(a, b archive.Entry) int { return strings.Compare(a.Path, b.Path) })
	head, err := archive.Head(entries)
	if err != nil {
		return err
	}
	h := sha256.New()
	h.Write(head)
	for _, e := range entries {
		if err := add(h, root, e); err != nil {
			return err
		}
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("they have digest %s", got)
	}
	return nil
}

func add(h io.Writer, root *os.Root, e archive.Entry) error {
	f, err := root.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(h, f)
	if err == nil && n != e.Size {
		err = fmt.Errorf("%s has %d bytes, not %d", e.Path, n, e.Size)
	}
	return err
}

// unpack an archive beside dir, and put it in its place when it is on the disk.
func (u *Unpacked) unpack(dir string, b []byte) (err error) {
	list, err := archive.Unpack(b)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(u.dir, writing)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	folders := map[string]bool{".": true}
	for _, f := range list {
		if err := root.MkdirAll(path.Dir(f.Path), 0o700); err != nil {
			return err
		}
		for p := path.Dir(f.Path); !folders[p]; p = path.Dir(p) {
			folders[p] = true
		}
		if err := write(root, f); err != nil {
			return err
		}
	}
	for p := range folders {
		if err := syncFolder(filepath.Join(tmp, p)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncFolder(u.dir)
}

func write(root *os.Root, f archive.File) error {
	to, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = to.Write(f.Data)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// syncFolder waits until a folder's entries are on the disk.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
