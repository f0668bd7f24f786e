package content

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"time"

	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxPatchBytes bounds base and target together: a patch is made in memory, at about three times their sum and
	// 80 MB of tables.
	maxPatchBytes = 96 << 20
	// maxStreamWindow is the window of targets too large to be compressed in one piece. 8 MB is what any zstd decoder takes.
	maxStreamWindow = 8 << 20
	// maxBases is how many of the digests that a board names are tried.
	maxBases = 4
	// A patch is good enough below a 20th of the target: nothing else is tried then.
	goodEnough = 20
)

// encodings makes and keeps encodings of blobs as files: <target>.zst, and <target>-<base>.zst for a patch.
// One is made at a time, in a goroutine of its own; each is made once, and again after it was evicted.
type encodings struct {
	dir   string
	blobs *Blobs
	slot  chan struct{} // one encode at a time bounds memory
	ctx   context.Context
	group sync.WaitGroup

	limit int64 // bytes of all encodings
	now   func() time.Time

	mu   sync.Mutex
	jobs map[string]*job  // by path, being made
	kept map[string]*kept // by path
}

type job struct {
	done chan struct{}
	err  error
}

func openEncodings(ctx context.Context, dir string, blobs *Blobs) (*encodings, error) {
	e := &encodings{dir: filepath.Join(dir, "encodings"), blobs: blobs, slot: make(chan struct{}, 1), ctx: ctx,
		limit: maxEncodingsBytes, now: time.Now, jobs: map[string]*job{}, kept: map[string]*kept{}}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open encodings: %w", err)
	}
	if err := e.takeStock(); err != nil {
		return nil, fmt.Errorf("open encodings: %w", err)
	}
	return e, nil
}

func (e *encodings) path(kind wire.EncodingKind, target, base wire.Digest) string {
	name := hex.EncodeToString(target[:])
	switch kind {
	case wire.EncodingRaw:
		return e.blobs.Path(target)
	case wire.EncodingZstdPatch:
		name += "-" + hex.EncodeToString(base[:])
	}
	return filepath.Join(e.dir, name+".zst")
}

// ensure makes an encoding unless it is there, and waits for it; ctx ends the waiting, never the making. Its file stays for
// servedFor at least.
func (e *encodings) ensure(ctx context.Context, kind wire.EncodingKind, target, base wire.Digest) (path string, err error) {
	path = e.path(kind, target, base)
	if kind == wire.EncodingRaw {
		_, err := os.Stat(path)
		return path, err
	}
	e.mu.Lock()
	if e.use(path) {
		e.mu.Unlock()
		return path, nil
	}
	m := e.jobs[path]
	if m == nil {
		m = &job{done: make(chan struct{})}
		e.jobs[path] = m
		e.group.Go(func() { e.make(m, path, kind, target, base) })
	}
	e.mu.Unlock()
	select {
	case <-m.done:
		return path, m.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (e *encodings) make(m *job, path string, kind wire.EncodingKind, target, base wire.Digest) {
	defer func() {
		e.mu.Lock()
		delete(e.jobs, path)
		e.mu.Unlock()
		close(m.done)
	}()
	select {
	case e.slot <- struct{}{}:
		defer func() { <-e.slot }()
	case <-e.ctx.Done():
		m.err = e.ctx.Err()
		return
	}
	if m.err = e.write(path, kind, target, base); m.err != nil {
		m.err = fmt.Errorf("encode %s as %s: %w", target.Short(), kind, m.err)
	}
}

// write an encoding to its file, through a temporary one: half an encoding is never served.
func (e *encodings) write(path string, kind wire.EncodingKind, target, base wire.Digest) error {
	n, err := e.blobs.Size(target)
	if err != nil {
		return err
	}
	if err := room(e.dir, n); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(e.dir, making)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if kind == wire.EncodingZstdPatch {
		err = e.writePatch(tmp, target, base)
	} else {
		err = e.writeStream(tmp, target, n)
	}
	if err != nil {
		return err
	}
	// A torn encoding would be offered with matching block digests for ever, and fail at the board each time.
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	if err := store.SyncDir(e.dir); err != nil {
		return err
	}
	return e.keep(path)
}

func (e *encodings) writePatch(w io.Writer, target, base wire.Digest) error {
	src, err := os.ReadFile(e.blobs.Path(target))
	if err != nil {
		return err
	}
	dict, err := os.ReadFile(e.blobs.Path(base))
	if err != nil {
		return err
	}
	enc, err := patch(src, dict)
	if err != nil {
		return err
	}
	_, err = w.Write(enc)
	return err
}

// patch gives src as one zstd frame with base as raw-content dictionary (id 0). The frame is a single segment: its window
// is src's size, whatever the encoder looked back on in the base.
func patch(src, base []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window(int64(max(len(src), len(base))))), zstd.WithEncoderDictRaw(0, base), zstd.WithSingleSegment(true))
	if err != nil {
		return nil, err
	}
	return enc.EncodeAll(src, nil), enc.Close()
}

func (e *encodings) writeStream(w io.Writer, target wire.Digest, n int64) error {
	f, err := os.Open(e.blobs.Path(target))
	if err != nil {
		return err
	}
	defer f.Close()
	enc, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(min(window(n), maxStreamWindow)))
	if err != nil {
		return err
	}
	if _, err := io.Copy(enc, f); err != nil {
		return errors.Join(err, enc.Close())
	}
	return enc.Close()
}

// window is n rounded up to a power of two, within what zstd takes.
func window(n int64) int {
	w := 1 << bits.Len64(uint64(max(n, 1)-1))
	return min(max(w, zstd.MinWindowSize), zstd.MaxWindowSize)
}

// best picks the cheapest encoding of target for a board that holds have: a patch against one of the first few that we
// hold too, else compressed, else raw.
func (e *encodings) best(ctx context.Context, target wire.Digest, have []wire.Digest) (kind wire.EncodingKind, base wire.Digest, err error) {
	n, err := e.blobs.Size(target)
	if err != nil {
		return 0, base, err
	}
	kind, cheapest := wire.EncodingRaw, n
	consider := func(k wire.EncodingKind, b wire.Digest) error {
		path, err := e.ensure(ctx, k, target, b)
		if err != nil {
			return err
		}
		if size, err := size(path, target); err == nil && size < cheapest {
			kind, base, cheapest = k, b, size
		}
		return nil
	}
	tried := 0
	for _, b := range have {
		bn, err := e.blobs.Size(b)
		if errors.Is(err, store.ErrNotFound) || b == target || n+bn > maxPatchBytes {
			continue
		}
		if tried++; err != nil || tried > maxBases {
			break
		}
		if err := consider(wire.EncodingZstdPatch, b); err != nil {
			return 0, base, err
		}
		if cheapest < n/goodEnough {
			return kind, base, nil
		}
	}
	err = consider(wire.EncodingZstd, wire.Digest{})
	return kind, base, err
}
