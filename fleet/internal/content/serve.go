package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

const (
	// lane is how many requests of one device wait; more are dropped, and the device asks again. Requests have windows, so
	// this bounds what is in flight to one device.
	lane = 8
	// encodeWait is how long an offer waits for an encoding that is being made. Then the answer is CodeBusy.
	encodeWait = 20 * time.Second
)

// Send gives one frame to a device, and returns when the device's connection took it: a slow device slows its own lane.
type Send func(ctx context.Context, device string, frame []byte) error

// Server answers what boards ask for on ChannelGet. Each device has a lane of its own, so that none waits for another.
type Server struct {
	store *store.Store
	blobs *Blobs
	enc   *encodings
	send  Send
	log   *slog.Logger
	ctx   context.Context
	group sync.WaitGroup

	mu    sync.Mutex
	lanes map[string]chan wire.Get
}

// NewServer serves blobs, their encodings under dir and the store's metadata until ctx ends; then call Wait.
func NewServer(ctx context.Context, dir string, st *store.Store, blobs *Blobs, send Send, log *slog.Logger) (*Server, error) {
	enc, err := openEncodings(ctx, dir, blobs)
	if err != nil {
		return nil, err
	}
	return &Server{store: st, blobs: blobs, enc: enc, send: send, log: log, ctx: ctx, lanes: map[string]chan wire.Get{}}, nil
}

// Wait until all lanes and encoders have ended. The context of NewServer must be done.
func (s *Server) Wait() {
	s.group.Wait()
	s.enc.group.Wait()
}

// Ask takes a request of a device. It never blocks: answers come through Send, requests beyond the lane's length don't.
func (s *Server) Ask(device string, g wire.Get) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	c := s.lanes[device]
	if c == nil {
		c = make(chan wire.Get, lane)
		s.lanes[device] = c
		s.group.Go(func() { s.run(device, c) })
	}
	select {
	case c <- g:
	default:
		s.log.Debug("drop request: too many wait", "device", device)
	}
}

// run answers one device's requests until none waits.
func (s *Server) run(device string, c chan wire.Get) {
	for {
		select {
		case g := <-c:
			if err := s.answer(device, g); err != nil && s.ctx.Err() == nil {
				s.log.Debug("answer request", "device", device, "error", err)
			}
			continue
		case <-s.ctx.Done():
			return
		default:
		}
		s.mu.Lock()
		if len(c) == 0 {
			delete(s.lanes, device)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

func (s *Server) answer(device string, g wire.Get) error {
	var err error
	switch {
	case g.Meta != nil:
		err = s.meta(device, g.Request, *g.Meta)
	case g.Offer != nil:
		err = s.offer(device, g.Request, *g.Offer)
	case g.Blocks != nil:
		err = s.blocks(device, g.Request, *g.Blocks)
	}
	var gone *sendError
	if err == nil || errors.As(err, &gone) {
		return err
	}
	code := wire.CodeInternal
	switch {
	case errors.Is(err, store.ErrNotFound) && g.Blocks != nil:
		code = wire.CodeUnknownEncoding
	case errors.Is(err, store.ErrNotFound):
		code = wire.CodeNotFound
	case errors.Is(err, context.DeadlineExceeded):
		code, err = wire.CodeBusy, errors.New("the encoding is being made")
	case errors.Is(err, errRequest):
		code = wire.CodeBadRequest
	default:
		s.log.Error("answer request", "device", device, "error", err)
	}
	return errors.Join(err, s.frames(device, wire.ErrorFrame(g.Request, code, err.Error())))
}

var errRequest = errors.New("bad request")

// sendError says that the device is not there to be answered.
type sendError struct{ error }

func (e *sendError) Unwrap() error { return e.error }

func (s *Server) frames(device string, frames ...wire.Frame) error {
	for _, f := range frames {
		b, err := wire.MarshalFrame(f)
		if err != nil {
			return err
		}
		if err := s.send(s.ctx, device, b); err != nil {
			return &sendError{err}
		}
	}
	return nil
}

func (s *Server) split(device string, kind wire.FrameKind, request uint32, b []byte) error {
	frames, err := wire.Split(kind, request, b)
	if err != nil {
		return err
	}
	return s.frames(device, frames...)
}

func (s *Server) meta(device string, request uint32, m wire.MetaRequest) error {
	if m.Role == wire.RoleRelease {
		if m.Digest == nil {
			return fmt.Errorf("release without a digest: %w", errRequest)
		}
		b, err := s.store.Manifest(*m.Digest)
		if err != nil {
			return err
		}
		return s.split(device, wire.FrameMeta, request, b)
	}
	f, err := s.store.Metadata(trust.Role(m.Role), m.Version)
	if err != nil {
		return err
	}
	return s.split(device, wire.FrameMeta, request, f.Bytes)
}

func (s *Server) offer(device string, request uint32, w wire.OfferRequest) error {
	n, err := s.blobs.Size(w.Target)
	if err != nil {
		return err
	}
	if n != w.Size {
		return fmt.Errorf("content %s has %d bytes, not %d: %w", w.Target.Short(), n, w.Size, errRequest)
	}
	ctx, cancel := context.WithTimeout(s.ctx, encodeWait)
	defer cancel()
	kind, base, err := s.enc.best(ctx, w.Target, w.Have)
	if err != nil {
		return err
	}
	o, err := s.describe(ctx, store.Offer{Kind: kind, Target: w.Target, Base: base, BlockBytes: w.BlockBytes})
	if err != nil {
		return err
	}
	b, err := wire.MarshalOffer(o)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errRequest)
	}
	if err := s.store.PutOffer(o.ID(), store.Offer{Kind: kind, Target: w.Target, Base: base, BlockBytes: w.BlockBytes}); err != nil {
		return err
	}
	s.log.Info("offer", "device", device, "target", w.Target.Short(), "kind", kind.String(), "bytes", n, "encoded", o.Encoded, "base", base.Short())
	return s.split(device, wire.FrameOffer, request, b)
}

// describe makes the offer of an encoding, cut into blocks. The encoding is read through once.
func (s *Server) describe(ctx context.Context, so store.Offer) (wire.Offer, error) {
	path, err := s.enc.ensure(ctx, so.Kind, so.Target, so.Base)
	if err != nil {
		return wire.Offer{}, err
	}
	n, err := s.blobs.Size(so.Target)
	if err != nil {
		return wire.Offer{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return wire.Offer{}, err
	}
	defer f.Close()
	o := wire.Offer{Kind: so.Kind, Target: so.Target, Size: n, Base: so.Base, BlockBytes: so.BlockBytes}
	block := make([]byte, so.BlockBytes)
	for {
		got, err := io.ReadFull(f, block)
		if got > 0 {
			o.Encoded += int64(got)
			o.Blocks = append(o.Blocks, wire.Sum(block[:got]))
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return o, nil
		}
		if err != nil {
			return wire.Offer{}, err
		}
	}
}

func (s *Server) blocks(device string, request uint32, b wire.BlockRequest) error {
	o, err := s.store.Offer(b.Encoding)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, encodeWait)
	defer cancel()
	path, err := s.enc.ensure(ctx, o.Kind, o.Target, o.Base)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	total := uint32((fi.Size() + int64(o.BlockBytes) - 1) / int64(o.BlockBytes))
	block := make([]byte, o.BlockBytes)
	for _, r := range b.Ranges {
		for i := r.First; i-r.First < r.Count; i++ {
			if i >= total {
				return fmt.Errorf("block %d of %d: %w", i, total, errRequest)
			}
			n, err := f.ReadAt(block, int64(i)*int64(o.BlockBytes))
			if err != nil && err != io.EOF {
				return err
			}
			frame := wire.Frame{Kind: wire.FrameBlock, Request: request, Index: i, Total: total, Encoding: b.Encoding, Body: block[:n]}
			if err := s.frames(device, frame); err != nil {
				return err
			}
		}
	}
	return nil
}
