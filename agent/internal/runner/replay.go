package runner

import (
	"io"
	"net/http"
	"sync"
)

// replay is a request body that can be read again from its start while it is small: its first bytes are kept as they are
// read, so that nothing waits for a body that is streamed.
type replay struct {
	mu   sync.Mutex
	src  io.Reader
	kept []byte
	over bool  // too large: read on by one reader only, not again
	err  error // src's, io.EOF included
	fat  *http.MaxBytesError
}

func newReplay(r *http.Request) *replay {
	b := &replay{src: r.Body}
	if r.Body == nil || r.ContentLength == 0 {
		b.err = io.EOF
	}
	return b
}

// tooLarge reports whether a reader went over its limit.
func (b *replay) tooLarge(err **http.MaxBytesError) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	*err = b.fat
	return b.fat != nil
}

// again reports whether another reader would see the whole body.
func (b *replay) again() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.over
}

// ended reports whether all of the body has been read.
func (b *replay) ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// reader of the body from its start, of at most limit bytes.
func (b *replay) reader(limit int64) *replayed { return &replayed{body: b, left: limit, limit: limit} }

// replayed reads a replay once.
type replayed struct {
	body  *replay
	at    int
	left  int64
	limit int64
}

// Read may be running in an earlier reader still, whose run has ended: what that one reads is kept too.
func (r *replayed) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if r.at < len(b.kept) {
			n := copy(p, b.kept[r.at:])
			r.at += n
			return r.count(n)
		}
		if b.err != nil {
			return 0, b.err
		}
		if b.over {
			var n int
			n, b.err = b.src.Read(p)
			if n > 0 {
				return r.count(n)
			}
			continue
		}
		buf := make([]byte, min(len(p), 32<<10))
		var n int
		n, b.err = b.src.Read(buf)
		b.kept = append(b.kept, buf[:n]...)
		b.over = len(b.kept) > inMemory
	}
}

// count n bytes against the limit. The caller holds the body's mu.
func (r *replayed) count(n int) (int, error) {
	if r.left -= int64(n); r.left < 0 {
		r.body.fat = &http.MaxBytesError{Limit: r.limit}
		return 0, r.body.fat
	}
	return n, nil
}

// Close leaves the body to net/http, which closes it.
func (r *replayed) Close() error { return nil }
