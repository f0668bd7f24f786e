package host

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const (
	maxWrite    = 64 << 10 // bytes that check-write permits on a body
	maxUnsent   = 1 << 20  // bytes of a body that are kept until it has somewhere to go
	maxInFlight = 32       // outgoing requests of one event at the same time
)

var (
	errStreamAlive = errors.New("the body's stream must be dropped first")
	errAborted     = code("HTTP-protocol-error", errors.New("the component dropped the body without finishing it"))
)

// target is where an outgoing body goes.
type target interface {
	sink
	finish(trailers *fields) error
	abort(err error)
}

// outgoingBody is the body of a response or a request. It keeps what is written until it is attached to its target.
type outgoingBody struct {
	g         *Guest
	kind      string // "response" or "request"
	length    int64  // what content-length promises, -1: nothing
	written   int64
	unsent    []byte
	to        target // nil until attached
	streamed  bool
	streaming bool
	finished  bool
	trailers  *fields
	err       error // why it can't go on
}

// newOutgoing takes the headers of a message and makes its body. kind is "response" or "request".
func newOutgoing(g *Guest, headers engine.Val, kind string) (*fields, *outgoingBody, error) {
	h, err := take[fields](g, headers)
	if err != nil {
		return nil, nil, err
	}
	h.immutable = true
	length, err := h.length()
	if err != nil {
		return nil, nil, err
	}
	return h, &outgoingBody{g: g, kind: kind, length: length}, nil
}

func (b *outgoingBody) room() (int, error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case b.finished:
		return 0, errClosed
	case b.to != nil:
		return b.to.room()
	}
	n := maxUnsent - len(b.unsent)
	if n == 0 {
		return 0, misuse(fmt.Errorf("%d bytes of the %s's body wait for the %[2]s to be sent: send it first, then write", maxUnsent, b.kind))
	}
	return min(n, maxWrite), nil
}

func (b *outgoingBody) write(p []byte) error {
	if b.err != nil {
		return b.err
	}
	b.written += int64(len(p))
	if limit := b.g.limits.Body; limit > 0 && b.written > limit {
		return misuse(fmt.Errorf("the %s's body: %w of %d bytes", b.kind, ErrBodyLimit, limit))
	}
	if b.length >= 0 && b.written > b.length {
		return b.sizeError()
	}
	if b.to != nil {
		return b.to.write(p)
	}
	b.unsent = append(b.unsent, p...)
	if err := b.g.hold(len(p)); err != nil {
		return misuse(err)
	}
	return nil
}

func (b *outgoingBody) flushed() (bool, error) {
	switch {
	case b.err != nil:
		return true, b.err
	case b.to != nil:
		return b.to.flushed()
	}
	return true, nil // nothing more can be done until there is somewhere to go
}

// sizeError says that the body is not as long as its content-length.
func (b *outgoingBody) sizeError() error {
	return code("HTTP-"+b.kind+"-body-size", fmt.Errorf("the %s's body has %d bytes, its content-length is %d", b.kind, b.written, b.length),
		engine.Some(engine.U64(uint64(b.written))))
}

// attach the body to its target: what was written so far goes there.
func (b *outgoingBody) attach(to target) error {
	b.to = to
	if len(b.unsent) > 0 {
		if err := to.write(b.unsent); err != nil {
			b.err = err
			return err
		}
		b.unsent = nil
	}
	if b.finished {
		return to.finish(b.trailers)
	}
	if b.err != nil {
		to.abort(b.err)
	}
	return nil
}

func (b *outgoingBody) finish(trailers *fields) error {
	if b.err == nil && b.length >= 0 && b.written != b.length {
		b.fail(b.sizeError())
	}
	if b.err != nil {
		return b.err
	}
	b.finished, b.trailers = true, trailers
	if b.to != nil {
		return b.to.finish(trailers)
	}
	return nil
}

func (b *outgoingBody) fail(err error) {
	b.err = err
	if b.to != nil {
		b.to.abort(err)
	}
}

// drop without finish makes the body incomplete.
func (b *outgoingBody) drop() {
	if !b.finished && b.err == nil {
		b.fail(errAborted)
	}
}

// take gives the body out once.
func (b *outgoingBody) give(taken *bool) (engine.Val, error) {
	if *taken {
		return errUnit, nil
	}
	*taken = true
	return ownOK(b.g, typOutgoingBody, b)
}

func outgoingBodyFuncs(funcs map[string]fn) {
	funcs["[method]outgoing-body.write"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		b, err := get[outgoingBody](g, a[0])
		if err != nil {
			return none, err
		}
		if b.streamed {
			return errUnit, nil
		}
		b.streamed, b.streaming = true, true
		return ownOK(g, typOutputStream, &outputStream{to: b, body: b})
	}, kHandle)
	funcs["[static]outgoing-body.finish"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		b, err := take[outgoingBody](g, a[0])
		if err != nil {
			return none, err
		}
		if b.streaming {
			return none, errStreamAlive
		}
		var trailers *fields
		if a[1].IsSet() {
			if trailers, err = take[fields](g, a[1].Payload()); err != nil {
				return none, err
			}
		}
		if err := b.finish(trailers); err != nil {
			return engine.Err(errorCode(err)), nil
		}
		return okUnit, nil
	}, kHandle, kOption)
}

// pipe is the target of a request's body that is written while the request is under way: net/http reads its other end.
type pipe struct {
	notify func()
	filled chan struct{} // holds one token when there is something new to read
	// trailer is net/http's, which looks into it while it begins and after the end of the body: only Read may fill it.
	trailer http.Header

	mu   sync.Mutex
	buf  []byte
	last http.Header // the guest's trailers
	done bool
	err  error
}

func newPipe(notify func()) *pipe {
	return &pipe{notify: notify, filled: make(chan struct{}, 1), trailer: http.Header{}}
}

func (p *pipe) room() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, maxWrite-len(p.buf)), p.err
}

func (p *pipe) write(b []byte) error {
	p.mu.Lock()
	err := p.err
	if err == nil {
		p.buf = append(p.buf, b...)
	}
	p.mu.Unlock()
	p.fill()
	return err
}

func (p *pipe) flushed() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.buf) == 0, p.err
}

func (p *pipe) finish(trailers *fields) error {
	p.mu.Lock()
	if trailers != nil {
		p.last = trailers.header()
	}
	p.done = true
	p.mu.Unlock()
	p.fill()
	return nil
}

func (p *pipe) abort(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.mu.Unlock()
	p.fill()
}

func (p *pipe) fill() {
	select {
	case p.filled <- struct{}{}:
	default:
	}
}

// Read is net/http's end.
func (p *pipe) Read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		switch {
		case p.err != nil:
			defer p.mu.Unlock()
			return 0, p.err
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			if len(p.buf) == 0 {
				p.buf = nil
			}
			p.mu.Unlock()
			p.notify()
			return n, nil
		case p.done:
			defer p.mu.Unlock()
			maps.Copy(p.trailer, p.last)
			return 0, io.EOF
		}
		p.mu.Unlock()
		<-p.filled
	}
}

// Close is net/http's, when it wants no more: the request is sent or has failed.
func (p *pipe) Close() error {
	p.abort(code("connection-terminated", errors.New("the request's body is no longer wanted")))
	p.notify()
	return nil
}
