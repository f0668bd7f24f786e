package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"syscall"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/files"
)

// maxOpen bounds the files, folders, lists and streams that one guest holds open: each may be one of the process's files.
const maxOpen = 128

// descriptor is a file or a folder, as wasi:filesystem has it.
type descriptor struct {
	g           *Guest
	file        *files.File // one of both
	folder      *files.Folder
	read, write bool
	flags       []string // that it was opened with beside those
}

func (d *descriptor) drop() {
	var err error
	switch {
	case d.file != nil:
		err = d.file.Close()
	case d.g == nil:
		return // a mount's own
	default:
		err = d.folder.Close()
	}
	d.g.closed(err)
}

// opens counts one more open file.
func (g *Guest) opens() error {
	if g.open >= maxOpen {
		g.log.emit(slog.LevelWarn, "wasi:filesystem", fmt.Sprintf("the component holds %d files, folders and streams open, which is the limit: close what is no longer used", maxOpen))
		return errTooManyOpen
	}
	g.open++
	return nil
}

func (g *Guest) closed(err error) {
	g.open--
	if err != nil {
		g.log.emit(slog.LevelWarn, "wasi:filesystem", "a file did not close: "+err.Error())
	}
}

// reading and writing give the file of a descriptor that may be used so.
func (d *descriptor) reading() (*files.File, error) {
	if d.file == nil || !d.read {
		return nil, errBadDescriptor
	}
	return d.file, nil
}

func (d *descriptor) writing() (*files.File, error) {
	if d.file == nil || !d.write {
		return nil, errBadDescriptor
	}
	return d.file, nil
}

// offset of a guest, as the system takes it.
func offset(v engine.Val) (int64, error) {
	if v.Uint() > math.MaxInt64 {
		return 0, errOverflow
	}
	return int64(v.Uint()), nil
}

func openAt(g *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	if d.folder == nil {
		return none, errNotDirectory
	}
	open, want := a[2].Names(), a[3].Names()
	has := slices.Contains[[]string]
	o := files.Options{
		Follow: follows(a[0]), Create: has(open, "create"), Directory: has(open, "directory"), Exclusive: has(open, "exclusive"), Truncate: has(open, "truncate"),
		Read: has(want, "read"), Write: has(want, "write"),
		Sync: has(want, "file-integrity-sync") || has(want, "requested-write-sync"), DataSync: has(want, "data-integrity-sync"),
	}
	if has(want, "mutate-directory") && !d.folder.Writable() {
		return none, files.ErrReadOnly
	}
	if err := g.opens(); err != nil {
		return none, err
	}
	file, folder, err := d.folder.Open(a[1].Text(), o)
	if err != nil {
		g.open--
		return none, err
	}
	opened := &descriptor{g: g, file: file, folder: folder, read: o.Read, write: o.Write}
	for _, name := range []string{"file-integrity-sync", "data-integrity-sync", "requested-write-sync"} {
		if has(want, name) {
			opened.flags = append(opened.flags, name)
		}
	}
	v, err := ownOK(g, typDescriptor, opened)
	if err != nil {
		opened.drop()
		return none, misuse(err)
	}
	return v, nil
}

func getFlags(_ *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
	var names []string
	if d.read {
		names = append(names, "read")
	}
	if d.write {
		names = append(names, "write")
	}
	names = append(names, d.flags...)
	// As in other hosts, a folder is as changeable as the one that it was opened from, whatever was asked for.
	if d.folder != nil && d.folder.Writable() {
		names = append(names, "mutate-directory")
	}
	return engine.OK(engine.Flags(names...)), nil
}

func getType(_ *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
	if d.folder != nil {
		return engine.OK(engine.Enum("directory")), nil
	}
	return engine.OK(engine.Enum("regular-file")), nil
}

func readFile(_ *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	file, err := d.reading()
	if err != nil {
		return none, err
	}
	at, err := offset(a[1])
	if err != nil {
		return none, err
	}
	b := make([]byte, min(a[0].Uint(), maxRead))
	n, err := file.ReadAt(b, at)
	end := errors.Is(err, io.EOF)
	if err != nil && !end {
		return none, err
	}
	return engine.OK(engine.Tuple(engine.Bytes(b[:n]), engine.Bool(end))), nil
}

func writeFile(_ *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	file, err := d.writing()
	if err != nil {
		return none, err
	}
	at, err := offset(a[1])
	if err != nil {
		return none, err
	}
	if _, err := file.WriteAt(a[0].Raw(), at); err != nil {
		return none, err
	}
	return engine.OK(engine.U64(uint64(len(a[0].Raw())))), nil
}

func setSize(_ *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	file, err := d.writing()
	if err != nil {
		return none, err
	}
	size, err := offset(a[0])
	if err != nil {
		return none, err
	}
	return okUnit, file.Resize(size)
}

// advise takes any advice; the system's own readahead needs none for files of this size.
func advise(_ *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
	if d.file == nil {
		return none, errBadDescriptor
	}
	return okUnit, nil
}

func syncer(dataOnly bool) onFile {
	return func(_ *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
		if d.folder != nil {
			return okUnit, d.folder.Sync()
		}
		return okUnit, d.file.Sync(dataOnly)
	}
}

// Errors of descriptors that have a case of their own; the rest are the system's.
var (
	errBadDescriptor = error(syscall.EBADF)
	errNotDirectory  = error(syscall.ENOTDIR)
	errInvalid       = error(syscall.EINVAL)
	errOverflow      = error(syscall.EOVERFLOW)
	errTooManyOpen   = error(syscall.EMFILE)
)

// fileCodes are the cases of error-code, by the system's numbers. One that is not here is "io".
var fileCodes = map[syscall.Errno]string{
	syscall.EACCES: "access", syscall.EAGAIN: "would-block", syscall.EALREADY: "already", syscall.EBADF: "bad-descriptor", syscall.EBUSY: "busy",
	syscall.EDEADLK: "deadlock", syscall.EDQUOT: "quota", syscall.EEXIST: "exist", syscall.EFBIG: "file-too-large", syscall.EILSEQ: "illegal-byte-sequence",
	syscall.EINPROGRESS: "in-progress", syscall.EINTR: "interrupted", syscall.EINVAL: "invalid", syscall.EIO: "io", syscall.EISDIR: "is-directory",
	syscall.ELOOP: "loop", syscall.EMLINK: "too-many-links", syscall.EMSGSIZE: "message-size", syscall.ENAMETOOLONG: "name-too-long", syscall.ENODEV: "no-device",
	syscall.ENOENT: "no-entry", syscall.ENOLCK: "no-lock", syscall.ENOMEM: "insufficient-memory", syscall.ENOSPC: "insufficient-space", syscall.ENOTDIR: "not-directory",
	syscall.ENOTEMPTY: "not-empty", syscall.ENOTRECOVERABLE: "not-recoverable", syscall.ENOTSUP: "unsupported", syscall.ENOTTY: "no-tty", syscall.ENXIO: "no-such-device",
	syscall.EOVERFLOW: "overflow", syscall.EPERM: "not-permitted", syscall.EPIPE: "pipe", syscall.EROFS: "read-only", syscall.ESPIPE: "invalid-seek",
	syscall.ETXTBSY: "text-file-busy", syscall.EXDEV: "cross-device",
	// WASI has no words for too many open files.
	syscall.EMFILE: "insufficient-memory", syscall.ENFILE: "insufficient-memory",
}

// fileCode words an error as WASI does, and notes a limit that it is of.
func (g *Guest) fileCode(err error) engine.Val {
	var quota *files.QuotaError
	var number syscall.Errno
	switch {
	case errors.As(err, &quota):
		limit := &LimitError{Key: "files", Value: SizeText(quota.Limit)}
		_ = g.note("wasi:filesystem", fmt.Errorf("%w: the directory has %d bytes, and this would be over it", limit, quota.Used))
		return engine.Enum("quota")
	case errors.Is(err, files.ErrReadOnly):
		return engine.Enum("read-only")
	case errors.Is(err, files.ErrEscape):
		return engine.Enum("not-permitted")
	case errors.As(err, &number):
		if name, ok := fileCodes[number]; ok {
			return engine.Enum(name)
		}
	}
	return engine.Enum("io")
}
