package files

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Folder is an open folder of a Directory. Errors are ErrEscape, ErrReadOnly, a *QuotaError, or have a syscall.Errno in them.
type Folder struct {
	directory *Directory
	root      *os.Root
	own       bool // root is this folder's alone
}

// Writable reports whether anything in it can be changed.
func (f *Folder) Writable() bool { return f.directory.ledger != nil }

// Close the folder.
func (f *Folder) Close() error {
	if !f.own {
		return nil
	}
	return f.root.Close()
}

// Options of Open.
type Options struct {
	Read, Write                            bool
	Create, Exclusive, Truncate, Directory bool
	Follow                                 bool // a symbolic link at the end of the path
	Sync, DataSync                         bool // each write waits for the disk
}

// Open a file or a folder: one of both is nil.
func (f *Folder) Open(name string, o Options) (*File, *Folder, error) {
	if err := check(name); err != nil {
		return nil, nil, err
	}
	if o.Directory && (o.Create || o.Exclusive || o.Truncate) {
		return nil, nil, syscall.EINVAL
	}
	unlock, err := f.directory.lock()
	if err == nil {
		defer unlock()
	} else if o.Write || o.Create || o.Truncate {
		return nil, nil, err
	}
	info, err := f.stat(name, o.Follow)
	switch {
	case err == nil && o.Exclusive && o.Create:
		return nil, nil, syscall.EEXIST
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return nil, nil, syscall.ELOOP
	case err == nil && info.IsDir():
		if o.Write || o.Create || o.Truncate {
			return nil, nil, syscall.EISDIR
		}
		root, err := f.root.OpenRoot(name)
		if err != nil {
			return nil, nil, plain(err)
		}
		return nil, &Folder{f.directory, root, true}, nil
	case err == nil && (o.Directory || strings.HasSuffix(name, "/")):
		return nil, nil, syscall.ENOTDIR
	case err == nil && !info.Mode().IsRegular():
		return nil, nil, syscall.EACCES // nothing here makes pipes and devices
	case err == nil:
		file, err := f.open(name, o, 0)
		return file, nil, err
	case errors.Is(err, fs.ErrNotExist) && o.Create && !strings.HasSuffix(name, "/"):
		file, err := f.create(name, o)
		return file, nil, err
	}
	return nil, nil, err
}

func (f *Folder) create(name string, o Options) (*File, error) {
	d := f.directory
	if err := d.room(entryBytes); err != nil {
		return nil, err
	}
	flags := os.O_CREATE
	if o.Exclusive || !o.Follow {
		flags |= os.O_EXCL
	}
	file, err := f.open(name, o, flags)
	if err == nil {
		d.ledger.used += entryBytes
	}
	return file, err
}

// open a regular file. The caller holds the directory's lock.
func (f *Folder) open(name string, o Options, flags int) (*File, error) {
	switch {
	case o.Read && o.Write:
		flags |= os.O_RDWR
	case o.Write:
		flags |= os.O_WRONLY
	}
	if o.Sync {
		flags |= unix.O_SYNC
	} else if o.DataSync {
		flags |= unix.O_DSYNC
	}
	if o.Truncate && !o.Write {
		flags |= os.O_RDWR
	}
	opened, err := f.root.OpenFile(name, flags|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, plain(err)
	}
	file := &File{directory: f.directory, f: opened}
	file.refs.Store(1)
	info, err := opened.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = syscall.EACCES
	}
	if err == nil && o.Truncate {
		err = file.resize(info, 0)
	}
	if err != nil {
		_ = opened.Close()
		return nil, plain(err)
	}
	if f.directory.ledger != nil {
		file.hold(inodeOf(info))
	}
	return file, nil
}

// Stat what path names.
func (f *Folder) Stat(name string, follow bool) (fs.FileInfo, error) {
	if err := check(name); err != nil {
		return nil, err
	}
	info, err := f.stat(name, follow)
	if err == nil && strings.HasSuffix(name, "/") && !info.IsDir() {
		return nil, syscall.ENOTDIR
	}
	return info, err
}

func (f *Folder) stat(name string, follow bool) (fs.FileInfo, error) {
	stat := f.root.Lstat
	if follow || strings.HasSuffix(name, "/") {
		stat = f.root.Stat
	}
	info, err := stat(name)
	return info, plain(err)
}

// SetTimes of what path names; a zero time stays as it is.
func (f *Folder) SetTimes(name string, follow bool, accessed, modified time.Time) error {
	if err := check(name); err != nil {
		return err
	}
	unlock, err := f.directory.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if info, err := f.stat(name, follow); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		if err != nil {
			return err
		}
		return plain(f.root.Chtimes(name, accessed, modified))
	}
	dir, base, err := f.parent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.UtimesNanoAt(int(dir.Fd()), base, []unix.Timespec{timespec(accessed), timespec(modified)}, unix.AT_SYMLINK_NOFOLLOW)
}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.NsecToTimespec(t.UnixNano())
}

// Readlink gives the target of a symbolic link, as it was made.
func (f *Folder) Readlink(name string) (string, error) {
	if err := check(name); err != nil {
		return "", err
	}
	to, err := f.root.Readlink(name)
	return to, plain(err)
}

// Entries opens the list of what is in the folder.
func (f *Folder) Entries() (*os.File, error) {
	dir, err := f.root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	return dir, plain(err)
}

// Sync waits until the folder's entries are on the disk.
func (f *Folder) Sync() error {
	dir, err := f.Entries()
	if err != nil {
		return err
	}
	return plain(errors.Join(dir.Sync(), dir.Close()))
}

// check what the system's calls would not, or would only after a part of the path was walked.
func check(name string) error {
	switch {
	case name == "":
		return syscall.ENOENT
	case len(name) > maxPath:
		return syscall.ENAMETOOLONG
	case strings.ContainsRune(name, 0):
		return syscall.EINVAL
	case path.IsAbs(name):
		return ErrEscape
	}
	return nil
}

// parent opens the folder in which the last element of a path lies, and gives that element. The calls that end in -at don't follow it.
func (f *Folder) parent(name string) (*os.File, string, error) {
	if err := check(name); err != nil {
		return nil, "", err
	}
	dir, base := path.Split(strings.TrimRight(name, "/"))
	if base == "." || base == ".." {
		return nil, "", syscall.EINVAL
	}
	if len(base) > unix.NAME_MAX {
		return nil, "", syscall.ENAMETOOLONG
	}
	if dir == "" {
		dir = "."
	}
	opened, err := f.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	return opened, base, plain(err)
}

// plain gives an error without the names of this machine: an errno, or what the os package says of paths that lead out.
func plain(err error) error {
	var number syscall.Errno
	var at *fs.PathError
	var link *os.LinkError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &number):
		return number
	case errors.Is(err, fs.ErrClosed):
		return syscall.EBADF
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrInvalid):
		return syscall.EINVAL
	case errors.As(err, &at), errors.As(err, &link):
		return ErrEscape // os.Root has no error of its own for it
	}
	return err
}
