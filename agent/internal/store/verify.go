package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt's file format, as far as a file must be sound before bbolt may touch it: bbolt reads the mapped file without
// bounds, in goroutines of its own as well, where nobody can catch the panic or the fault. Numbers are in the machine's
// byte order; both architectures that we build for are little-endian.
const (
	pageSize     = 4096 // everywhere, also where the kernel's pages are larger: the page is the unit of flash wear
	pageHeader   = 16
	elementSize  = 16
	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	noFreelist   = ^uint64(0)
	maxBoltKey   = 32768
	bucketHeader = 16
	bucketFlag   = 1
)

// verify walks every page that the newest valid meta page reaches: bounds, types, each page reached once, keys in order.
// It reads page heads and keys, not values, so 100 MB of blobs cost some hundred small reads. torn says that the other
// meta page is unusable, as a power cut in the middle of a commit leaves it.
func verify(r io.ReaderAt, size int64) (torn bool, err error) {
	m, torn, err := readMetas(r, size)
	if err != nil {
		return false, err
	}
	if m.freelist != noFreelist {
		return false, damaged("meta page names a freelist, which no commit leaves there")
	}
	if m.pages < 3 || m.pages > uint64(size)/pageSize {
		return false, damaged("%d pages in use, but the file holds %d", m.pages, size/pageSize)
	}
	w := &walker{r: r, pages: m.pages, seen: make([]uint64, m.pages/64+1)}
	return torn, w.tree(m.root, nil, nil)
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

type meta struct {
	root, freelist, pages, txid uint64
}

func readMetas(r io.ReaderAt, size int64) (newest meta, torn bool, err error) {
	if size < 3*pageSize {
		return meta{}, false, damaged("%d bytes are too few", size)
	}
	var errs []error
	found := false
	for i := range uint64(2) {
		m, err := readMeta(r, i)
		if errors.Is(err, ErrNewer) {
			return meta{}, false, err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("meta page %d: %w", i, err))
			continue
		}
		if !found || m.txid > newest.txid {
			newest, found = m, true
		}
	}
	if !found {
		return meta{}, false, errors.Join(errs...)
	}
	return newest, len(errs) > 0, nil
}

func readMeta(r io.ReaderAt, i uint64) (meta, error) {
	b := make([]byte, pageHeader+64)
	if _, err := r.ReadAt(b, int64(i)*pageSize); err != nil {
		return meta{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	n := binary.NativeEndian
	id, flags := n.Uint64(b), n.Uint16(b[8:])
	b = b[pageHeader:]
	h := fnv.New64a()
	h.Write(b[:56])
	switch {
	case n.Uint32(b) != boltMagic:
		return meta{}, damaged("not a bbolt file")
	case n.Uint64(b[56:]) != h.Sum64():
		return meta{}, damaged("checksum mismatch")
	case n.Uint32(b[4:]) > boltVersion:
		return meta{}, fmt.Errorf("%w: bbolt file format %d, this program knows %d", ErrNewer, n.Uint32(b[4:]), boltVersion)
	case n.Uint32(b[4:]) != boltVersion, n.Uint32(b[8:]) != pageSize:
		return meta{}, damaged("format %d with pages of %d bytes", n.Uint32(b[4:]), n.Uint32(b[8:]))
	case id != i || flags != flagMeta:
		return meta{}, damaged("page head says page %d, flags %#x", id, flags)
	}
	return meta{root: n.Uint64(b[16:]), freelist: n.Uint64(b[32:]), pages: n.Uint64(b[40:]), txid: n.Uint64(b[48:])}, nil
}

type walker struct {
	r     io.ReaderAt
	pages uint64
	seen  []uint64 // one bit a page
}

// span is one page with its overflow pages, or a bucket's page inside its parent's value. Reads outside the first page go
// to the file, piece by piece, so that large values are skipped.
type span struct {
	w    *walker
	off  int64
	size int64
	head []byte
}

func (s span) at(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off+n > s.size {
		return nil, damaged("bytes %d to %d of a page of %d", off, off+n, s.size)
	}
	if off+n <= int64(len(s.head)) {
		return s.head[off : off+n], nil
	}
	b := make([]byte, n)
	if _, err := s.w.r.ReadAt(b, s.off+off); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b, nil
}

// tree walks the subtree at page id, whose keys lie in [low, high); nil is open.
func (w *walker) tree(id uint64, low, high []byte) error {
	if id < 2 || id >= w.pages {
		return damaged("page %d is out of range", id)
	}
	head := make([]byte, pageSize)
	if _, err := w.r.ReadAt(head, int64(id)*pageSize); err != nil {
		return fmt.Errorf("%w: page %d: %w", ErrDamaged, id, err)
	}
	n := binary.NativeEndian
	overflow := uint64(n.Uint32(head[12:]))
	if got := n.Uint64(head); got != id {
		return damaged("page %d says it is page %d", id, got)
	}
	if id+overflow >= w.pages {
		return damaged("page %d reaches over the end", id)
	}
	for p := id; p <= id+overflow; p++ {
		if w.seen[p/64]&(1<<(p%64)) != 0 {
			return damaged("page %d is reached twice", p)
		}
		w.seen[p/64] |= 1 << (p % 64)
	}
	if err := w.page(span{w, int64(id) * pageSize, int64(overflow+1) * pageSize, head}, low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (w *walker) page(s span, low, high []byte) error {
	head, err := s.at(0, pageHeader)
	if err != nil {
		return err
	}
	n := binary.NativeEndian
	flags, count := n.Uint16(head[8:]), int64(n.Uint16(head[10:]))
	branch := flags == flagBranch
	if !branch && flags != flagLeaf || branch && count == 0 {
		return damaged("flags %#x with %d elements", flags, count)
	}
	if count == 0 { // only then is nothing written behind the head: where there is something, the count is wrong
		rest, err := s.at(pageHeader, s.size-pageHeader)
		if err != nil {
			return err
		}
		if bytes.ContainsFunc(rest, func(r rune) bool { return r != 0 }) {
			return damaged("no elements, and %d bytes behind the head that are not empty", len(rest))
		}
	}
	elements, err := s.at(pageHeader, count*elementSize)
	if err != nil {
		return err
	}
	// Data follow the elements without a gap, in their order: a wrong count or size shows.
	next := int64(pageHeader) + count*elementSize
	var key []byte
	children := make([]child, 0, count)
	for i := range count {
		e := elements[i*elementSize:]
		var pos, ksize, vsize int64
		var eflags uint32
		if branch {
			pos, ksize = int64(n.Uint32(e)), int64(n.Uint32(e[4:]))
		} else {
			eflags, pos, ksize, vsize = n.Uint32(e), int64(n.Uint32(e[4:])), int64(n.Uint32(e[8:])), int64(n.Uint32(e[12:]))
		}
		off := pageHeader + i*elementSize + pos
		if off != next || ksize == 0 || ksize > maxBoltKey || off+ksize+vsize > s.size || eflags > bucketFlag {
			return damaged("element %d is malformed", i)
		}
		next = off + ksize + vsize
		k, err := s.at(off, ksize)
		if err != nil {
			return err
		}
		if i == 0 && low != nil && bytes.Compare(k, low) < 0 ||
			i > 0 && bytes.Compare(k, key) <= 0 ||
			high != nil && bytes.Compare(k, high) >= 0 {
			return damaged("key of element %d is out of order", i)
		}
		key = k
		switch {
		case branch:
			children = append(children, child{n.Uint64(e[8:]), k})
		case eflags == bucketFlag:
			if err := w.bucket(s, off+ksize, vsize); err != nil {
				return fmt.Errorf("bucket %q: %w", k, err)
			}
		}
	}
	for i, c := range children {
		up := high
		if i+1 < len(children) {
			up = children[i+1].key
		}
		if err := w.tree(c.page, c.key, up); err != nil {
			return err
		}
	}
	return nil
}

type child struct {
	page uint64
	key  []byte
}

// bucket walks the bucket whose header is the value at off: a tree of its own, or one small page right behind the header.
func (w *walker) bucket(s span, off, size int64) error {
	h, err := s.at(off, min(size, bucketHeader))
	if err != nil {
		return err
	}
	if len(h) < bucketHeader {
		return damaged("header of %d bytes", len(h))
	}
	if root := binary.NativeEndian.Uint64(h); root != 0 {
		if size != bucketHeader {
			return damaged("%d bytes behind the header", size-bucketHeader)
		}
		return w.tree(root, nil, nil)
	}
	if size > pageSize {
		return damaged("inline bucket of %d bytes", size)
	}
	b, err := s.at(off+bucketHeader, size-bucketHeader)
	if err != nil {
		return err
	}
	return w.page(span{w, 0, int64(len(b)), b}, nil, nil)
}
