package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

// exchange is one request that waits for its frames.
type exchange struct {
	frames chan wire.Frame // holds a whole window, so that receive never blocks
	failed chan error      // holds one
}

func (x *exchange) fail(err error) {
	select {
	case x.failed <- err:
	default:
	}
}

// answer hands a frame to the request that it answers. Late and unasked-for frames are dropped.
func (l *Link) answer(payload []byte) {
	f, err := wire.UnmarshalFrame(payload)
	if err != nil {
		l.log.Debug("an answer of the fleet is unreadable", "cause", err)
		return
	}
	l.mu.Lock()
	x := l.pending[f.Request]
	l.mu.Unlock()
	if x == nil {
		return
	}
	select {
	case x.frames <- f:
	default: // more frames than were asked for
	}
}

// ask sends get and gives each frame that answers it to each, until that says done. An error frame ends it as its *wire.Error.
func (l *Link) ask(ctx context.Context, get wire.Get, frames int, each func(wire.Frame) (done bool, err error)) error {
	x := &exchange{frames: make(chan wire.Frame, frames), failed: make(chan error, 1)}
	l.mu.Lock()
	if l.client == nil {
		l.mu.Unlock()
		return ErrDown
	}
	l.nextID++
	get.Request = l.nextID
	l.pending[get.Request] = x
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.pending, get.Request)
		l.mu.Unlock()
	}()
	b, err := wire.MarshalGet(get)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan error, 1) // its acknowledgement may come behind the answer, or not at all
	go func() { sent <- l.publish(ctx, wire.ChannelGet, b) }()
	idle := time.NewTimer(l.cfg.Silence)
	defer idle.Stop()
	idle.Stop() // from the acknowledgement on
	for {
		select {
		case err := <-sent:
			if err != nil {
				return err
			}
			sent = nil
			idle.Reset(l.cfg.Silence)
		case f := <-x.frames:
			if err := f.Err(); err != nil {
				return err
			}
			done, err := each(f)
			if done || err != nil {
				return err
			}
			if sent == nil {
				idle.Reset(l.cfg.Silence)
			}
		case err := <-x.failed:
			return err
		case <-idle.C:
			return fmt.Errorf("wait for the fleet's answer: %w for %s", errSilent, l.cfg.Silence)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errSilent = errors.New("nothing came")

// join asks for something that comes in parts, at most limit bytes.
func (l *Link) join(ctx context.Context, get wire.Get, kind wire.FrameKind, limit int64) ([]byte, error) {
	parts := wire.Parts{Kind: kind, Limit: limit}
	err := l.ask(ctx, get, wire.MaxParts, func(f wire.Frame) (bool, error) {
		parts.Request = f.Request
		return parts.Add(f)
	})
	if err != nil {
		return nil, err
	}
	return parts.Bytes(), nil
}

// Meta fetches a metadata file, the newest for version 0, at most limit bytes. A version that the fleet does not have is a
// *wire.Error with CodeNotFound.
func (l *Link) Meta(ctx context.Context, role wire.Role, version int64, limit int64) ([]byte, error) {
	b, err := l.join(ctx, wire.Get{Meta: &wire.MetaRequest{Role: role, Version: version}}, wire.FrameMeta, limit)
	if err != nil {
		return nil, fmt.Errorf("fetch %s metadata: %w", role, err)
	}
	return b, nil
}

// Release fetches a release manifest by digest. The caller verifies it.
func (l *Link) Release(ctx context.Context, digest wire.Digest) ([]byte, error) {
	b, err := l.join(ctx, wire.Get{Meta: &wire.MetaRequest{Role: wire.RoleRelease, Digest: &digest}}, wire.FrameMeta, wire.MaxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("fetch release %s: %w", digest.Short(), err)
	}
	return b, nil
}

// Silent reports whether err says that the fleet did not answer.
func Silent(err error) bool { return errors.Is(err, errSilent) }
