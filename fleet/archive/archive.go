// Package archive packs the files of a component into one blob, and takes them out again. The same files give the same bytes
// on every machine: they are sorted, and there are no owners, modes or times. So a digest names the files too.
package archive

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of an archive.
const (
	MaxFiles     = 10_000
	MaxPathBytes = 1024
	MaxNameBytes = 255 // one element of a path, as file systems have it
	MaxDepth     = 32  // elements of a path
)

// magic begins each archive; its last byte is the format's number.
const magic = "dunlin\x00\x01"

// entryBytes of an entry's head: the length of its path (2 bytes) and of its content (8), both big endian.
const entryBytes = 2 + 8

// File is one of an archive.
type File struct {
	Path string // relative, with slashes
	Data []byte
}

// Entry is a file without its content.
type Entry struct {
	Path string
	Size int64 // bytes
}

// CheckPath reports why no archive has such a path: it must be relative, clean, UTF-8 without control characters, and short
// enough for every file system.
func CheckPath(path string) error {
	if len(path) > MaxPathBytes {
		return fmt.Errorf("path %.60q... of %d bytes, limit is %d", path, len(path), MaxPathBytes)
	}
	if !utf8.ValidString(path) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Errorf("path %q: want UTF-8 without control characters and backslashes", path)
	}
	elements := strings.Split(path, "/")
	if len(elements) > MaxDepth {
		return fmt.Errorf("path %.60q... has %d elements, limit is %d", path, len(elements), MaxDepth)
	}
	for _, e := range elements {
		switch {
		case e == "" || e == "." || e == "..":
			return fmt.Errorf("path %q: want a relative path without . and .. and empty elements", path)
		case len(e) > MaxNameBytes:
			return fmt.Errorf("path %.60q... has a name of %d bytes, limit is %d", path, len(e), MaxNameBytes)
		}
	}
	return nil
}

// Pack gives the archive of files, whatever their order.
func Pack(files []File) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	entries := make([]Entry, len(files))
	for i, f := range files {
		entries[i] = Entry{f.Path, int64(len(f.Data))}
	}
	b, err := Head(entries)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b = append(b, f.Data...)
	}
	return b, nil
}

// Head is what an archive begins with; the contents follow it, in the entries' order, which must be that of their paths.
func Head(entries []Entry) ([]byte, error) {
	if err := check(entries); err != nil {
		return nil, fmt.Errorf("pack files: %w", err)
	}
	b := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(entries)))
	for _, e := range entries {
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.Path)))
		b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
		b = append(b, e.Path...)
	}
	return b, nil
}

// Unpack is the inverse of Pack. The files' data is b's own.
func Unpack(b []byte) ([]File, error) {
	entries, rest, err := unpackHead(b)
	if err != nil {
		return nil, fmt.Errorf("unpack files: %w", err)
	}
	files := make([]File, len(entries))
	for i, e := range entries {
		if e.Size > int64(len(rest)) {
			return nil, fmt.Errorf("unpack files: %s of %d bytes: %w", e.Path, e.Size, io.ErrUnexpectedEOF)
		}
		files[i] = File{e.Path, rest[:e.Size:e.Size]}
		rest = rest[e.Size:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("unpack files: %d bytes too many", len(rest))
	}
	return files, nil
}

func unpackHead(b []byte) ([]Entry, []byte, error) {
	b, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok {
		return nil, nil, errors.New("this is no archive of files, or one of a newer format")
	}
	if len(b) < 4 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n > MaxFiles {
		return nil, nil, fmt.Errorf("%d files, limit is %d", n, MaxFiles)
	}
	entries := make([]Entry, 0, min(int(n), len(b)/entryBytes))
	for range n {
		if len(b) < entryBytes {
			return nil, nil, io.ErrUnexpectedEOF
		}
		length, size := int(binary.BigEndian.Uint16(b)), binary.BigEndian.Uint64(b[2:])
		if b = b[entryBytes:]; len(b) < length {
			return nil, nil, io.ErrUnexpectedEOF
		}
		entries = append(entries, Entry{string(b[:length]), int64(min(size, 1<<62))})
		b = b[length:]
	}
	return entries, b, check(entries)
}

// check that the entries are in order, and that all of them can be files of one folder.
func check(entries []Entry) error {
	if len(entries) == 0 || len(entries) > MaxFiles {
		return fmt.Errorf("%d files, want 1 to %d", len(entries), MaxFiles)
	}
	folders := map[string]bool{}
	for i, e := range entries {
		if err := CheckPath(e.Path); err != nil {
			return err
		}
		if i > 0 && entries[i-1].Path >= e.Path {
			return fmt.Errorf("%q after %q: want them sorted, each once", e.Path, entries[i-1].Path)
		}
		for at := strings.LastIndexByte(e.Path, '/'); at > 0 && !folders[e.Path[:at]]; at = strings.LastIndexByte(e.Path[:at], '/') {
			folders[e.Path[:at]] = true
		}
	}
	for _, e := range entries {
		if folders[e.Path] {
			return fmt.Errorf("%q is a file and a folder", e.Path)
		}
	}
	return nil
}
