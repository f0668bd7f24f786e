package files

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// change runs one that names the last element of a path, in its folder, while nothing else changes the directory.
func (f *Folder) change(name string, do func(dir *os.File, base string) error) error {
	unlock, err := f.directory.lock()
	if err != nil {
		return err
	}
	defer unlock()
	dir, base, err := f.parent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return plain(do(dir, base))
}

// lstat an entry of a folder.
func (f *Folder) lstat(name string) (fs.FileInfo, error) {
	return f.stat(strings.TrimRight(name, "/"), false)
}

// Mkdir makes a folder.
func (f *Folder) Mkdir(name string) error {
	err := f.change(name, func(dir *os.File, base string) error {
		d := f.directory
		if _, err := f.lstat(name); err == nil {
			return syscall.EEXIST
		}
		depth, err := d.depth(dir)
		if err == nil && depth >= maxDepth {
			err = syscall.ENAMETOOLONG
		}
		if err == nil {
			err = d.room(entryBytes)
		}
		if err == nil {
			err = unix.Mkdirat(int(dir.Fd()), base, 0o700)
		}
		if err == nil {
			d.ledger.used += entryBytes
		}
		return err
	})
	if errors.Is(err, syscall.EINVAL) && (path.Base(name) == "." || path.Base(name) == "..") {
		return syscall.EEXIST
	}
	return err
}

// Symlink makes a link to a path that is relative to the link's folder. It may lead out: nothing here follows it there.
func (f *Folder) Symlink(to, name string) error {
	if err := check(to); err != nil {
		return err
	}
	if strings.HasSuffix(name, "/") {
		return syscall.ENOENT
	}
	return f.change(name, func(dir *os.File, base string) error {
		if _, err := f.lstat(name); err == nil {
			return syscall.EEXIST
		}
		err := f.directory.room(entryBytes)
		if err == nil {
			err = unix.Symlinkat(to, int(dir.Fd()), base)
		}
		if err == nil {
			f.directory.ledger.used += entryBytes
		}
		return err
	})
}

// Unlink removes a name that is no folder's.
func (f *Folder) Unlink(name string) error { return f.remove(name, 0) }

// Rmdir removes an empty folder.
func (f *Folder) Rmdir(name string) error { return f.remove(name, unix.AT_REMOVEDIR) }

func (f *Folder) remove(name string, flags int) error {
	return f.change(name, func(dir *os.File, base string) error {
		info, err := f.lstat(name)
		switch {
		case err != nil:
			return err
		case info.IsDir() && flags == 0:
			return syscall.EISDIR
		case !info.IsDir() && (flags != 0 || strings.HasSuffix(name, "/")):
			return syscall.ENOTDIR
		}
		if err := unix.Unlinkat(int(dir.Fd()), base, flags); err != nil {
			return err
		}
		f.directory.ledger.unnamed(info)
		return nil
	})
}

// same reports an error unless both folders are of one directory.
func (f *Folder) same(other *Folder) error {
	if !f.Writable() || !other.Writable() {
		return ErrReadOnly
	}
	if f.directory.ledger != other.directory.ledger {
		return syscall.EXDEV
	}
	return nil
}

// Link gives a file one more name.
func (f *Folder) Link(name string, to *Folder, newName string) error {
	if err := f.same(to); err != nil {
		return err
	}
	return f.change(name, func(dir *os.File, base string) error {
		info, err := f.lstat(name)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return syscall.EPERM
		case strings.HasSuffix(name, "/"), strings.HasSuffix(newName, "/"):
			return syscall.ENOTDIR
		}
		into, newBase, err := to.parent(newName)
		if err != nil {
			return err
		}
		defer into.Close()
		if err := f.directory.room(entryBytes); err != nil {
			return err
		}
		if err := unix.Linkat(int(dir.Fd()), base, int(into.Fd()), newBase, 0); err != nil {
			return err
		}
		f.directory.ledger.used += entryBytes
		return nil
	})
}

// Rename moves an entry, in the place of what has the new name.
func (f *Folder) Rename(name string, to *Folder, newName string) error {
	if err := f.same(to); err != nil {
		return err
	}
	return f.change(name, func(dir *os.File, base string) error {
		info, err := f.lstat(name)
		if err != nil {
			return err
		}
		if !info.IsDir() && (strings.HasSuffix(name, "/") || strings.HasSuffix(newName, "/")) {
			return syscall.ENOTDIR
		}
		into, newBase, err := to.parent(newName)
		if err != nil {
			return err
		}
		defer into.Close()
		if info.IsDir() {
			if err := f.fits(name, dir, into); err != nil {
				return err
			}
		}
		old, err := to.lstat(newName)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := unix.Renameat(int(dir.Fd()), base, int(into.Fd()), newBase); err != nil {
			return err
		}
		if old != nil && inodeOf(old) != inodeOf(info) { // two names of one file stay both
			f.directory.ledger.unnamed(old)
		}
		return nil
	})
}

// fits reports whether a folder with all that is below it is not too deep in another place.
func (f *Folder) fits(name string, from, to *os.File) error {
	before, err := f.directory.depth(from)
	if err != nil {
		return err
	}
	after, err := f.directory.depth(to)
	if err != nil || after <= before {
		return err
	}
	height := 0
	err = fs.WalkDir(f.root.FS(), path.Clean(name), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			height = max(height, strings.Count(p, "/")-strings.Count(path.Clean(name), "/")+1)
		}
		return err
	})
	if err == nil && after+height > maxDepth {
		err = syscall.ENAMETOOLONG
	}
	return err
}

// depth of an open folder below the directory: 0 for itself.
func (d *Directory) depth(dir *os.File) (int, error) {
	at, err := unix.Openat(int(dir.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for n := 0; ; n++ {
		if err != nil {
			return 0, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			_ = unix.Close(at)
			return 0, err
		}
		if (inode{uint64(st.Dev), st.Ino}) == d.ledger.top { //nolint:unconvert // narrower on other systems
			return n, unix.Close(at)
		}
		if n > maxDepth {
			_ = unix.Close(at)
			return 0, syscall.ENAMETOOLONG
		}
		up, upErr := unix.Openat(at, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(at)
		at, err = up, upErr
	}
}
