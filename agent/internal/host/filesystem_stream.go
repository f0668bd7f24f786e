package host

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"syscall"
	"time"
	"unicode/utf8"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/files"
)

// fileError is a stream's error that came from a file, for filesystem-error-code.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// fileReader reads a file from a place on.
type fileReader struct {
	file *files.File
	at   int64
}

func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.file.ReadAt(p, r.at)
	r.at += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &fileError{err}
	}
	return n, err
}

func (r *fileReader) Close() error { return r.file.Close() }

func readViaStream(g *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	file, err := d.reading()
	if err != nil {
		return none, err
	}
	at, err := offset(a[0])
	if err != nil {
		return none, err
	}
	if err := g.opens(); err != nil { // it may outlive its descriptor
		return none, err
	}
	src := newReadySource(&fileReader{file.Share(), at})
	ended := func() {
		src.close()
		g.closed(nil)
	}
	v, err := ownOK(g, typInputStream, &inputStream{src: src, ended: ended})
	if err != nil {
		ended()
		return none, misuse(err)
	}
	return v, nil
}

// fileSink writes to a file, at a place or at its end.
type fileSink struct {
	g    *Guest
	file *files.File
	at   int64 // negative: the end
	err  error
}

func (s *fileSink) room() (int, error)     { return outputRoom, s.err }
func (s *fileSink) flushed() (bool, error) { return true, s.err }

func (s *fileSink) write(p []byte) error {
	if s.err != nil {
		return s.err
	}
	at, err := s.file.WriteAt(p, s.at)
	if err != nil {
		s.err = errClosed
		s.g.fileCode(err) // a limit is noted, whatever the guest makes of it
		return &fileError{err}
	}
	if s.at >= 0 {
		s.at = at
	}
	return nil
}

func writeViaStream(g *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	at, err := offset(a[0])
	if err != nil {
		return none, err
	}
	return writeFrom(g, d, at)
}

func appendViaStream(g *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
	return writeFrom(g, d, -1)
}

func writeFrom(g *Guest, d *descriptor, at int64) (engine.Val, error) {
	file, err := d.writing()
	if err != nil {
		return none, err
	}
	if err := g.opens(); err != nil {
		return none, err
	}
	sink := &fileSink{g: g, file: file.Share(), at: at}
	ended := func() { g.closed(sink.file.Close()) }
	v, err := ownOK(g, typOutputStream, &outputStream{to: sink, ended: ended})
	if err != nil {
		ended()
		return none, misuse(err)
	}
	return v, nil
}

func filesystemErrorCode(g *Guest, a []engine.Val) (engine.Val, error) {
	e, err := get[ioError](g, a[0])
	if err != nil {
		return none, err
	}
	var of *fileError
	if !errors.As(e.err, &of) {
		return absent, nil
	}
	return engine.Some(g.fileCode(of.err)), nil
}

// entryStream lists a folder.
type entryStream struct {
	g    *Guest
	dir  *os.File
	next []fs.DirEntry
}

func (s *entryStream) drop() { s.g.closed(s.dir.Close()) }

func readDirectory(g *Guest, f *files.Folder, _ []engine.Val) (engine.Val, error) {
	if err := g.opens(); err != nil {
		return none, err
	}
	dir, err := f.Entries()
	if err != nil {
		g.open--
		return none, err
	}
	s := &entryStream{g: g, dir: dir}
	v, err := ownOK(g, typDirectoryEntryStream, s)
	if err != nil {
		s.drop()
		return none, misuse(err)
	}
	return v, nil
}

func readDirectoryEntry(g *Guest, a []engine.Val) (engine.Val, error) {
	s, err := get[entryStream](g, a[0])
	if err != nil {
		return none, err
	}
	if len(s.next) == 0 {
		s.next, err = s.dir.ReadDir(64)
		if errors.Is(err, io.EOF) {
			return engine.OK(absent), nil
		}
		if err != nil {
			return engine.Err(g.fileCode(err)), nil
		}
	}
	e := s.next[0]
	s.next = s.next[1:]
	if !utf8.ValidString(e.Name()) {
		return engine.Err(g.fileCode(syscall.EILSEQ)), nil
	}
	return engine.OK(engine.Some(engine.Record(
		engine.Field{Name: "type", Val: typeOf(e.Type())},
		engine.Field{Name: "name", Val: engine.String(e.Name())},
	))), nil
}

func follows(pathFlags engine.Val) bool { return slices.Contains(pathFlags.Names(), "symlink-follow") }

func typeOf(m fs.FileMode) engine.Val {
	for mode, name := range map[fs.FileMode]string{
		0: "regular-file", fs.ModeDir: "directory", fs.ModeSymlink: "symbolic-link", fs.ModeNamedPipe: "fifo", fs.ModeSocket: "socket",
		fs.ModeDevice: "block-device", fs.ModeDevice | fs.ModeCharDevice: "character-device",
	} {
		if m.Type() == mode {
			return engine.Enum(name)
		}
	}
	return engine.Enum("unknown")
}

// info of a descriptor.
func (d *descriptor) info() (fs.FileInfo, error) {
	if d.folder != nil {
		return d.folder.Stat(".", false)
	}
	return d.file.Stat()
}

func stat(_ *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
	info, err := d.info()
	if err != nil {
		return none, err
	}
	return engine.OK(statOf(info)), nil
}

func statOf(info fs.FileInfo) engine.Val {
	st := info.Sys().(*syscall.Stat_t)
	at := func(t syscall.Timespec) engine.Val { return engine.Some(datetime(time.Unix(t.Unix()))) }
	return engine.Record(
		engine.Field{Name: "type", Val: typeOf(info.Mode())},
		engine.Field{Name: "link-count", Val: engine.U64(uint64(st.Nlink))}, //nolint:unconvert // narrower on arm64
		engine.Field{Name: "size", Val: engine.U64(uint64(info.Size()))},
		engine.Field{Name: "data-access-timestamp", Val: at(st.Atim)},
		engine.Field{Name: "data-modification-timestamp", Val: at(st.Mtim)},
		engine.Field{Name: "status-change-timestamp", Val: at(st.Ctim)},
	)
}

func setTimes(g *Guest, d *descriptor, a []engine.Val) (engine.Val, error) {
	accessed, modified, err := newTimes(g, a[0], a[1])
	if err != nil {
		return none, err
	}
	if d.folder != nil {
		return okUnit, d.folder.SetTimes(".", false, accessed, modified)
	}
	return okUnit, d.file.SetTimes(accessed, modified)
}

// newTimes of a file; one that doesn't change is zero.
func newTimes(g *Guest, a, b engine.Val) (accessed, modified time.Time, err error) {
	now := g.now()
	one := func(v engine.Val) time.Time {
		switch v.Text() {
		case "now":
			return now
		case "timestamp":
			seconds, nanos := v.Payload().Field("seconds").Uint(), v.Payload().Field("nanoseconds").Uint()
			if seconds > math.MaxInt64/uint64(time.Second)-1 || nanos >= uint64(time.Second) {
				err = errInvalid
				return now
			}
			return time.Unix(int64(seconds), int64(nanos))
		}
		return time.Time{}
	}
	return one(a), one(b), err
}

// hashKey keeps inode numbers from guests.
var hashKey = func() (k [32]byte) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}()

// hashOf an object. Its lower half, which C libraries show as the inode's number, is the object's own for as long as this process
// runs; the upper half changes with its content too.
func hashOf(info fs.FileInfo) engine.Val {
	st := info.Sys().(*syscall.Stat_t)
	b := binary.LittleEndian.AppendUint64(slices.Clone(hashKey[:]), uint64(st.Dev)) //nolint:unconvert // narrower on other systems
	b = binary.LittleEndian.AppendUint64(b, st.Ino)
	object := sha256.Sum256(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(info.Size()))
	b = binary.LittleEndian.AppendUint64(b, uint64(info.ModTime().UnixNano()))
	state := sha256.Sum256(b)
	return engine.Record(
		engine.Field{Name: "lower", Val: engine.U64(binary.LittleEndian.Uint64(object[:]))},
		engine.Field{Name: "upper", Val: engine.U64(binary.LittleEndian.Uint64(state[:]))},
	)
}

func metadataHash(_ *Guest, d *descriptor, _ []engine.Val) (engine.Val, error) {
	info, err := d.info()
	if err != nil {
		return none, err
	}
	return engine.OK(hashOf(info)), nil
}

func isSameObject(g *Guest, a []engine.Val) (engine.Val, error) {
	var infos [2]fs.FileInfo
	for i := range infos {
		d, err := get[descriptor](g, a[i])
		if err != nil {
			return none, err
		}
		if infos[i], err = d.info(); err != nil {
			return engine.Bool(false), nil //nolint:nilerr // what can't be looked at is like nothing else
		}
	}
	return engine.Bool(os.SameFile(infos[0], infos[1])), nil
}
