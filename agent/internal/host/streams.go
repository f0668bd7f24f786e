package host

import (
	"errors"
	"fmt"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const (
	maxRead       = 64 << 10 // bytes that one read gives
	blockingWrite = 4096     // bytes that the blocking writes take, by the text
)

// errClosed is the end of a stream.
var errClosed = errors.New("the stream is closed")

// inputStream reads what a source has fetched. It is a child of body, where there is one, which then owns the source.
type inputStream struct {
	src   *source // nil: closed, as it is after an error
	body  *incomingBody
	ended func() // when it is dropped; nil: nothing
}

func (s *inputStream) ready() bool { return s.src == nil || s.src.ready() }

func (s *inputStream) read(n uint64) ([]byte, error) {
	if s.src == nil {
		return nil, errClosed
	}
	b, err := s.src.take(int(min(n, maxRead)))
	if err != nil {
		s.src = nil
	}
	return b, err
}

func (s *inputStream) drop() {
	if s.ended != nil {
		s.ended()
	}
	if s.body != nil {
		s.body.streaming = false
	}
}

// sink is what an output stream writes to. Errors: errClosed, or why the last operation failed.
type sink interface {
	room() (int, error)     // bytes that a write takes now; 0: later
	write(p []byte) error   // at most room bytes; p is the sink's to keep
	flushed() (bool, error) // whether everything written has gone where it goes
}

// outputStream writes to a sink what check-write permitted. It is a child of body, where there is one.
type outputStream struct {
	to     sink // closedSink after an error
	permit int
	flush  bool // a flush was asked for and is not known to be done
	body   *outgoingBody
	ended  func() // when it is dropped; nil: nothing
}

// ready means that check-write would permit something, or fail.
func (s *outputStream) ready() bool {
	n, err := s.room()
	return n > 0 || err != nil
}

func (s *outputStream) room() (int, error) {
	if s.flush {
		done, err := s.to.flushed()
		if err != nil || !done {
			return 0, err
		}
		s.flush = false
	}
	return s.to.room()
}

func (s *outputStream) drop() {
	if s.ended != nil {
		s.ended()
	}
	if s.body != nil {
		s.body.streaming = false
	}
}

// closedSink is where a stream leads that has failed.
type closedSink struct{}

func (closedSink) room() (int, error)     { return 0, errClosed }
func (closedSink) write([]byte) error     { return errClosed }
func (closedSink) flushed() (bool, error) { return true, errClosed }

// result of an operation, which closes the stream if it failed.
func (s *outputStream) result(g *Guest, ok engine.Val, err error) (engine.Val, error) {
	var t trap
	if err != nil && !errors.As(err, &t) {
		s.to, s.flush = closedSink{}, false
	}
	return streamResult(g, ok, err)
}

// write p, which must fit the permit.
func (s *outputStream) write(p []byte) error {
	if len(p) > s.permit {
		return misuse(fmt.Errorf("write of %d bytes, where check-write permitted %d", len(p), s.permit))
	}
	s.permit -= len(p)
	if len(p) == 0 {
		_, err := s.to.room()
		return err
	}
	return s.to.write(p)
}

// writeAll writes p and flushes, waiting as long as it takes.
func (s *outputStream) writeAll(g *Guest, p []byte) error {
	if len(p) > blockingWrite {
		return misuse(fmt.Errorf("a blocking write of %d bytes, it takes at most %d", len(p), blockingWrite))
	}
	for len(p) > 0 {
		if err := g.await(s, 0); err != nil {
			return misuse(err)
		}
		n, err := s.room()
		if err != nil {
			return err
		}
		n = min(n, len(p))
		if err := s.to.write(p[:n:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return s.flushAll(g)
}

func (s *outputStream) flushAll(g *Guest) error {
	s.permit = 0
	for {
		done, err := s.to.flushed()
		if err != nil {
			return err
		}
		if done {
			s.flush = false
			return nil
		}
		if err := g.wait(0); err != nil {
			return misuse(err)
		}
	}
}

// trap marks an error that ends the guest, where other errors are the stream's own.
type trap struct{ error }

func (t trap) Unwrap() error { return t.error }

func misuse(err error) error { return trap{err} }

// result of a function whose errors are the guest's own, as say words them, or a trap.
func result(ok engine.Val, err error, say func(error) engine.Val) (engine.Val, error) {
	var t trap
	switch {
	case err == nil:
		return ok, nil
	case errors.As(err, &t):
		return none, t.error
	}
	return engine.Err(say(err)), nil
}

// errText is an error's text for a guest.
func errText(err error) engine.Val { return engine.String(strings.ToValidUTF8(err.Error(), "\uFFFD")) }

var closedErr = engine.Err(engine.Variant("closed"))

// streamResult turns a stream's error into the guest's result, or into a trap.
func streamResult(g *Guest, ok engine.Val, err error) (engine.Val, error) {
	var t trap
	switch {
	case err == nil:
		return ok, nil
	case errors.As(err, &t):
		return none, t.error
	case errors.Is(err, errClosed):
		return closedErr, nil
	}
	e, err := own(g, typError, &ioError{err})
	if err != nil {
		return none, err
	}
	return engine.Err(engine.Variant("last-operation-failed", e)), nil
}

func streamsInterface() *iface {
	i := &iface{
		name:      "wasi:io/streams" + wasi,
		resources: resources{"input-stream": typInputStream, "output-stream": typOutputStream, "error": typError, "pollable": typPollable},
		funcs:     map[string]fn{},
	}
	// Each function of a stream comes twice: as it is, and after waiting.
	for prefix, blocking := range map[string]bool{"": false, "blocking-": true} {
		i.funcs["[method]input-stream."+prefix+"read"] = f(reader(blocking, func(b []byte) engine.Val { return engine.OK(engine.Bytes(b)) }), kHandle, kU64)
		i.funcs["[method]input-stream."+prefix+"skip"] = f(reader(blocking, func(b []byte) engine.Val { return engine.OK(engine.U64(uint64(len(b)))) }), kHandle, kU64)
		i.funcs["[method]output-stream."+prefix+"splice"] = f(splicer(blocking), kHandle, kHandle, kU64)
	}
	i.funcs["[method]input-stream.subscribe"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		s, err := get[inputStream](g, a[0])
		if err != nil {
			return none, err
		}
		return own(g, typPollable, &pollable{src: s})
	}, kHandle)
	output := func(name string, do func(g *Guest, s *outputStream, a []engine.Val) (engine.Val, error), params ...engine.Kind) {
		i.funcs["[method]output-stream."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			s, err := get[outputStream](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, s, a[1:])
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	output("subscribe", func(g *Guest, s *outputStream, _ []engine.Val) (engine.Val, error) {
		return own(g, typPollable, &pollable{src: s})
	})
	output("check-write", func(g *Guest, s *outputStream, _ []engine.Val) (engine.Val, error) {
		n, err := s.room()
		s.permit = n
		return s.result(g, engine.OK(engine.U64(uint64(n))), err)
	})
	output("write", func(g *Guest, s *outputStream, a []engine.Val) (engine.Val, error) {
		return s.result(g, okUnit, s.write(a[0].Raw()))
	}, kBytes)
	output("write-zeroes", func(g *Guest, s *outputStream, a []engine.Val) (engine.Val, error) {
		if n := a[0].Uint(); n > uint64(s.permit) {
			return none, fmt.Errorf("write of %d zeroes, where check-write permitted %d", n, s.permit)
		}
		return s.result(g, okUnit, s.write(make([]byte, a[0].Uint())))
	}, kU64)
	output("flush", func(g *Guest, s *outputStream, _ []engine.Val) (engine.Val, error) {
		_, err := s.to.room()
		s.permit, s.flush = 0, true
		return s.result(g, okUnit, err)
	})
	output("blocking-flush", func(g *Guest, s *outputStream, _ []engine.Val) (engine.Val, error) {
		return s.result(g, okUnit, s.flushAll(g))
	})
	output("blocking-write-and-flush", func(g *Guest, s *outputStream, a []engine.Val) (engine.Val, error) {
		return s.result(g, okUnit, s.writeAll(g, a[0].Raw()))
	}, kBytes)
	output("blocking-write-zeroes-and-flush", func(g *Guest, s *outputStream, a []engine.Val) (engine.Val, error) {
		return s.result(g, okUnit, s.writeAll(g, make([]byte, min(a[0].Uint(), blockingWrite+1))))
	}, kU64)
	return i
}

// reader makes read and skip.
func reader(blocking bool, ok func([]byte) engine.Val) call {
	return func(g *Guest, a []engine.Val) (engine.Val, error) {
		s, err := get[inputStream](g, a[0])
		if err != nil {
			return none, err
		}
		n := a[1].Uint()
		if blocking && n > 0 {
			if err := g.await(s, 0); err != nil {
				return none, err
			}
		}
		b, err := s.read(n)
		if err != nil {
			return streamResult(g, none, err)
		}
		return ok(b), nil
	}
}

// splicer makes splice and blocking-splice.
func splicer(blocking bool) call {
	return func(g *Guest, a []engine.Val) (engine.Val, error) {
		to, err := get[outputStream](g, a[0])
		if err != nil {
			return none, err
		}
		from, err := get[inputStream](g, a[1])
		if err != nil {
			return none, err
		}
		n := a[2].Uint()
		if blocking && n > 0 {
			if err := errors.Join(g.await(to, 0), g.await(from, 0)); err != nil {
				return none, err
			}
		}
		room, err := to.room()
		if err != nil || room == 0 {
			return to.result(g, engine.OK(engine.U64(0)), err)
		}
		b, err := from.read(min(n, uint64(room)))
		if err != nil {
			return streamResult(g, none, err)
		}
		if len(b) > 0 {
			// The source reuses its buffer; a sink keeps what it is given.
			err = to.to.write(append([]byte(nil), b...))
		}
		return to.result(g, engine.OK(engine.U64(uint64(len(b)))), err)
	}
}
