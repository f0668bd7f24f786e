package content

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"dunlin.dev/dunlin/fleet/internal/content/contenttest"
	"dunlin.dev/dunlin/fleet/wire"
)

// decode as a board does, with the limits that firmware-notes/wire.md gives it.
func decode(t *testing.T, encoded, base []byte, size int) []byte {
	t.Helper()
	limit := max(uint64(1)<<bits.Len64(uint64(size-1)), 1<<20)
	opts := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(limit), zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderLowmem(true)}
	if base != nil {
		opts = append(opts, zstd.WithDecoderDictRaw(0, base))
	}
	d, err := zstd.NewReader(bytes.NewReader(encoded), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(io.LimitReader(d, int64(size)+1))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t *testing.T) (*encodings, *Blobs) {
	t.Helper()
	dir := t.TempDir()
	b, err := OpenBlobs(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	e, err := openEncodings(ctx, dir, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); e.group.Wait() })
	return e, b
}

func put(t *testing.T, b *Blobs, content []byte) wire.Digest {
	t.Helper()
	d := wire.Sum(content)
	if done, err := b.Append(d, 0, int64(len(content)), bytes.NewReader(content)); err != nil || !done {
		t.Fatalf("put: done %v, %v", done, err)
	}
	return d
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A board must be able to decode what we make, whatever the sizes of target and base, within the window that it allows.
func TestEveryPatchDecodesWithinTheBoardsLimits(t *testing.T) {
	base := contenttest.Program(768<<10, 1)
	for _, c := range []struct {
		name         string
		target, base []byte
		most         int // bytes of the patch
	}{
		{"one line changed", edit(base), base, len(base) / 100},
		{"base larger than the target's window", edit(base)[:256<<10], base, len(base) / 100},
		{"base beyond a power of two", edit(base[:512<<10]), base[:512<<10+4096], 512 << 10 / 100},
		{"base much smaller", base, base[:32<<10], len(base)},
		{"target of one byte", []byte{7}, base, 64},
		{"base of one byte", base, []byte{7}, len(base)},
		{"nothing in common", contenttest.Program(256<<10, 2), base, 256 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			enc, err := patch(c.target, c.base)
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, enc, c.base, len(c.target)); !bytes.Equal(got, c.target) {
				t.Fatalf("decoded %d bytes that differ from the target's %d", len(got), len(c.target))
			}
			if len(enc) > c.most {
				t.Errorf("patch has %d bytes, want at most %d", len(enc), c.most)
			}
			t.Logf("target %d, base %d: patch %d", len(c.target), len(c.base), len(enc))
		})
	}
}

// edit changes one line in the middle: what comes after moves.
func edit(b []byte) []byte {
	at := len(b) / 2
	return append(append(append([]byte{}, b[:at]...), "Hello, greenhouse! It is warm in here."...), b[at+7:]...)
}

func TestCheapestEncodingIsOffered(t *testing.T) {
	e, blobs := open(t)
	v1, v2, other := contenttest.Program(512<<10, 1), edit(contenttest.Program(512<<10, 1)), contenttest.Program(512<<10, 9)
	noise := make([]byte, 256<<10)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(noise); err != nil {
		t.Fatal(err)
	}
	d1, d2, dOther, dNoise := put(t, blobs, v1), put(t, blobs, v2), put(t, blobs, other), put(t, blobs, noise)
	unknown := wire.Sum([]byte("only the board has it"))
	for _, c := range []struct {
		name   string
		target wire.Digest
		have   []wire.Digest
		kind   wire.EncodingKind
		base   wire.Digest
	}{
		{"nothing on the board", d2, nil, wire.EncodingZstd, wire.Digest{}},
		{"the version before", d2, []wire.Digest{d1}, wire.EncodingZstdPatch, d1},
		{"the version before, among others", d2, []wire.Digest{unknown, dOther, d1}, wire.EncodingZstdPatch, d1},
		{"only what the server doesn't have", d2, []wire.Digest{unknown}, wire.EncodingZstd, wire.Digest{}},
		{"the target itself", d2, []wire.Digest{d2}, wire.EncodingZstd, wire.Digest{}},
		{"bytes that don't compress", dNoise, nil, wire.EncodingRaw, wire.Digest{}},
		{"bytes that don't compress, useless base", dNoise, []wire.Digest{d1}, wire.EncodingRaw, wire.Digest{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind, base, err := e.best(t.Context(), c.target, c.have)
			if err != nil {
				t.Fatal(err)
			}
			if kind != c.kind || base != c.base {
				t.Errorf("got %s against %s, want %s against %s", kind, base.Short(), c.kind, c.base.Short())
			}
		})
	}
}

func TestEncodingIsMadeOnceForMany(t *testing.T) {
	e, blobs := open(t)
	d := put(t, blobs, contenttest.Program(256<<10, 3))
	paths := make(chan string, 16)
	for range cap(paths) {
		go func() {
			p, err := e.ensure(t.Context(), wire.EncodingZstd, d, wire.Digest{})
			if err != nil {
				t.Error(err)
			}
			paths <- p
		}()
	}
	for range cap(paths) {
		<-paths
	}
	entries, err := os.ReadDir(e.dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d files, %v; want one encoding and nothing beside it", len(entries), err)
	}
	fi, err := os.Stat(filepath.Join(e.dir, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.ensure(t.Context(), wire.EncodingZstd, d, wire.Digest{}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(filepath.Join(e.dir, entries[0].Name())); err != nil || !again.ModTime().Equal(fi.ModTime()) || !os.SameFile(fi, again) {
		t.Error("it was made again")
	}
}

func TestLargeTargetIsStreamedInASmallWindow(t *testing.T) {
	e, blobs := open(t)
	b := bytes.Repeat(contenttest.Program(64<<10, 4), 140)
	path, err := e.ensure(t.Context(), wire.EncodingZstd, put(t, blobs, b), wire.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	enc := read(t, path)
	if got := decode(t, enc, nil, len(b)); !bytes.Equal(got, b) {
		t.Fatal("decoded bytes differ")
	}
	var h zstd.Header
	if err := h.Decode(enc); err != nil {
		t.Fatal(err)
	}
	if h.WindowSize > maxStreamWindow {
		t.Errorf("window of %d bytes, want at most %d", h.WindowSize, maxStreamWindow)
	}
}

func TestUploadGoesOnWhereItBroke(t *testing.T) {
	_, blobs := open(t)
	b := contenttest.Program(300_000, 5)
	d, total := wire.Sum(b), int64(len(b))
	broken := io.MultiReader(bytes.NewReader(b[:100_000]), failing{})
	if done, err := blobs.Append(d, 0, total, broken); err == nil || done {
		t.Fatalf("done %v, %v; want the reader's error", done, err)
	}
	if n, err := blobs.Offset(d); n != 100_000 || err != nil {
		t.Fatalf("offset %d, %v; want 100000", n, err)
	}
	if _, err := blobs.Append(d, 0, total, bytes.NewReader(b)); !strings.Contains(fmt.Sprint(err), ErrOffset.Error()) {
		t.Fatalf("upload from the start over: %v; want %v", err, ErrOffset)
	}
	if done, err := blobs.Append(d, 100_000, total, bytes.NewReader(b[100_000:])); !done || err != nil {
		t.Fatalf("done %v, %v", done, err)
	}
	if got := read(t, blobs.Path(d)); !bytes.Equal(got, b) {
		t.Error("content differs")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestUploadOfOtherBytesLeavesNothing(t *testing.T) {
	_, blobs := open(t)
	b := contenttest.Program(10_000, 6)
	d := wire.Sum(b)
	for name, bad := range map[string][]byte{"flipped": append([]byte{b[0] ^ 1}, b[1:]...), "longer": append(b[:len(b):len(b)], 0)} {
		if done, err := blobs.Append(d, 0, int64(len(b)), bytes.NewReader(bad)); done && err == nil || !strings.Contains(fmt.Sprint(err), ErrMismatch.Error()) {
			t.Errorf("%s: done %v, %v; want %v", name, done, err, ErrMismatch)
		}
		if n, err := blobs.Offset(d); n != 0 || err != nil {
			t.Errorf("%s: %d bytes are left, %v", name, n, err)
		}
		if _, err := blobs.Size(d); err == nil {
			t.Errorf("%s: it is a blob now", name)
		}
	}
	put(t, blobs, b)
}
