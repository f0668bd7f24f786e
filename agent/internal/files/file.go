package files

import (
	"io/fs"
	"math"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// File is an open file of a Directory. It is shared by a descriptor and its streams; the last Close closes it.
type File struct {
	directory *Directory
	f         *os.File
	inode     inode // of a private directory's
	refs      atomic.Int32
}

// Share the file with one more who closes it.
func (f *File) Share() *File {
	f.refs.Add(1)
	return f
}

// hold counts the file among those that are open. The caller holds the directory's lock.
func (f *File) hold(in inode) {
	f.inode = in
	l := f.directory.ledger
	if l.open[f.inode] == nil {
		l.open[f.inode] = &opened{}
	}
	l.open[f.inode].refs++
}

// Close the file.
func (f *File) Close() error {
	if f.refs.Add(-1) > 0 {
		return nil
	}
	if l := f.directory.ledger; l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		o := l.open[f.inode]
		if o.refs--; o.refs == 0 {
			delete(l.open, f.inode)
			if info, err := f.f.Stat(); err == nil && o.nameless {
				l.used -= costOf(info)
			}
		}
	}
	return f.f.Close()
}

// ReadAt as io.ReaderAt; errors as a Folder's, and io.EOF.
func (f *File) ReadAt(p []byte, at int64) (int, error) { return f.f.ReadAt(p, at) }

// Stat the file.
func (f *File) Stat() (fs.FileInfo, error) {
	info, err := f.f.Stat()
	return info, plain(err)
}

// WriteAt writes all of p at a place, or at the end if that is negative, and gives the place behind it.
func (f *File) WriteAt(p []byte, at int64) (int64, error) {
	unlock, err := f.directory.lock()
	if err != nil {
		return at, err
	}
	defer unlock()
	before, err := f.f.Stat()
	if err != nil {
		return at, plain(err)
	}
	if at < 0 {
		at = before.Size()
	}
	if at > math.MaxInt64-entryBytes-int64(len(p)) {
		return at, syscall.EFBIG
	}
	if err := f.grow(before, max(before.Size(), at+int64(len(p)))); err != nil {
		return at, err
	}
	n, err := f.f.WriteAt(p, at)
	f.settle(before)
	return at + int64(n), plain(err)
}

// Resize the file; what is new reads as zeroes.
func (f *File) Resize(size int64) error {
	unlock, err := f.directory.lock()
	if err != nil {
		return err
	}
	defer unlock()
	before, err := f.f.Stat()
	if err != nil {
		return plain(err)
	}
	return f.resize(before, size)
}

func (f *File) resize(before fs.FileInfo, size int64) error {
	if size > math.MaxInt64-entryBytes {
		return syscall.EFBIG
	}
	if err := f.grow(before, size); err != nil {
		return err
	}
	err := f.f.Truncate(size)
	f.settle(before)
	return plain(err)
}

// grow reports whether the directory has room for the file with another size.
func (f *File) grow(before fs.FileInfo, size int64) error {
	return f.directory.room(cost(size) - costOf(before))
}

// settle counts what became of the file, which may be less than was asked for.
func (f *File) settle(before fs.FileInfo) {
	if after, err := f.f.Stat(); err == nil {
		f.directory.ledger.used += costOf(after) - costOf(before)
	}
}

// SetTimes of the file; a zero time stays as it is.
func (f *File) SetTimes(accessed, modified time.Time) error {
	if f.directory.ledger == nil {
		return ErrReadOnly
	}
	// Not every kernel that boards have takes a descriptor without a path here.
	path := "/proc/self/fd/" + strconv.Itoa(int(f.f.Fd()))
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{timespec(accessed), timespec(modified)}, 0)
}

// Sync waits until the file's content and, unless data only is asked for, its times are on the disk.
func (f *File) Sync(dataOnly bool) error {
	if dataOnly {
		return unix.Fdatasync(int(f.f.Fd()))
	}
	return plain(f.f.Sync())
}
