package host

import (
	"errors"
	"io"
	"sync"
)

// source turns a reader that blocks into one that a guest can poll. It reads one chunk at a time, in a goroutine that
// lives as long as that read, and only when the guest asks: what the guest does not read stays with the sender.
type source struct {
	r      io.Reader
	hint   int // size of the first chunk
	direct bool
	notify func()

	mu      sync.Mutex
	chunk   []byte
	unread  []byte // the rest of chunk
	reading bool
	err     error // sticky, after unread
}

// newSource of r, which closes with the source if it can; size is how many bytes r will give, -1 if unknown.
func newSource(r io.Reader, size int64, notify func()) *source {
	hint := maxRead / 4
	if size >= 0 && size < int64(hint) {
		hint = max(int(size), 512) // room for the end to be seen in the same read
	}
	return &source{r: r, hint: hint, notify: notify}
}

// newReadySource is a source of r that never waits, as a file: each take reads just what it is asked for, and at once.
func newReadySource(r io.Reader) *source { return &source{r: r, direct: true} }

// now reads n bytes into a buffer that the next read uses again. s.mu is held.
func (s *source) now(n int) ([]byte, error) {
	if len(s.chunk) < n {
		s.chunk = make([]byte, n)
	}
	got, err := s.r.Read(s.chunk[:n])
	if got > 0 {
		return s.chunk[:got:got], nil // the next read tells the error
	}
	if errors.Is(err, io.EOF) {
		err = errClosed
	}
	s.err = err
	return nil, err
}

// take up to n bytes of what is there; none, with no error, while the next chunk is on its way. The bytes hold until the next take.
func (s *source) take(n int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unread) == 0 && s.err != nil {
		return nil, s.err
	}
	if n == 0 {
		return nil, nil
	}
	if s.direct {
		return s.now(n)
	}
	if len(s.unread) == 0 {
		s.fetch()
		return nil, nil
	}
	n = min(n, len(s.unread))
	b := s.unread[:n:n]
	s.unread = s.unread[n:]
	return b, nil
}

// ready means that take would give bytes or an error.
func (s *source) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.direct || len(s.unread) > 0 || s.err != nil {
		return true
	}
	s.fetch()
	return false
}

// drained throws away what comes until the end, and tells whether it has been reached.
func (s *source) drained() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = nil
	if s.err == nil {
		s.fetch()
		return false, nil
	}
	if errors.Is(s.err, errClosed) {
		return true, nil
	}
	return true, s.err
}

// fetch the next chunk, if that is not under way. s.mu is held.
func (s *source) fetch() {
	if s.reading {
		return
	}
	s.reading = true
	if s.chunk == nil {
		s.chunk = make([]byte, s.hint)
	} else if len(s.chunk) < maxRead {
		s.chunk = make([]byte, maxRead)
	}
	go s.fill(s.chunk)
}

func (s *source) fill(chunk []byte) {
	n, err := s.r.Read(chunk)
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = errClosed
	}
	s.mu.Lock()
	s.reading = false
	if s.err == nil {
		s.unread, s.err = chunk[:n], err
	}
	s.mu.Unlock()
	s.notify()
}

// close the reader; a read that is under way ends when the reader lets it.
func (s *source) close() {
	s.mu.Lock()
	s.err, s.unread = errClosed, nil
	s.mu.Unlock()
	if c, ok := s.r.(io.Closer); ok {
		_ = c.Close()
	}
}
