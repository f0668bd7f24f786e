package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// ioError is wasi:io's error: why a stream operation failed.
type ioError struct{ err error }

// readier is something that a guest can wait for. ready also starts whatever must happen for it to become so.
type readier interface{ ready() bool }

// pollable waits for a time on the guest's monotonic clock (at > 0), for src, or for nothing: it is ready then.
type pollable struct {
	g   *Guest
	at  int64
	src readier
}

func (p *pollable) ready() bool {
	switch {
	case p.src != nil:
		return p.src.ready()
	case p.at > 0:
		return p.g.monotonic() >= p.at
	}
	return true
}

func ioInterfaces() []*iface {
	return []*iface{{
		name:      "wasi:io/error" + wasi,
		resources: resources{"error": typError},
		funcs: map[string]fn{
			"[method]error.to-debug-string": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				e, err := get[ioError](g, a[0])
				if err != nil {
					return none, err
				}
				return errText(e.err), nil
			}, kHandle),
		},
	}, {
		name:      "wasi:io/poll" + wasi,
		resources: resources{"pollable": typPollable},
		funcs: map[string]fn{
			"[method]pollable.ready": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				p, err := get[pollable](g, a[0])
				if err != nil {
					return none, err
				}
				return engine.Bool(p.ready()), nil
			}, kHandle),
			"[method]pollable.block": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				p, err := get[pollable](g, a[0])
				if err != nil {
					return none, err
				}
				return none, g.await(p, p.at)
			}, kHandle),
			"poll": f(poll, kList),
		},
	}, streamsInterface()}
}

// poll waits until at least one of the pollables is ready and gives the positions of those that are.
func poll(g *Guest, a []engine.Val) (engine.Val, error) {
	in := a[0].Elems()
	if len(in) == 0 {
		return none, errors.New("the list of pollables is empty")
	}
	var room [8]*pollable
	ps := room[:0]
	var until int64
	for _, v := range in {
		p, err := get[pollable](g, v)
		if err != nil {
			return none, err
		}
		if p.src == nil && p.at > 0 && (until == 0 || p.at < until) {
			until = p.at
		}
		ps = append(ps, p)
	}
	for {
		var ready []engine.Val
		for i, p := range ps {
			if p.ready() {
				ready = append(ready, engine.U32(uint32(i)))
			}
		}
		if ready != nil {
			return engine.List(ready...), nil
		}
		if err := g.wait(until); err != nil {
			return none, err
		}
	}
}

// await blocks until r is ready; until, if not 0, is the monotonic time at which it will be.
func (g *Guest) await(r readier, until int64) error {
	for !r.ready() {
		if err := g.wait(until); err != nil {
			return err
		}
	}
	return nil
}

// wait blocks until something that the guest waits for may have changed, the monotonic clock reaches until (0: no limit), or the event
// ends. A guest is one thread, so one wake-up channel serves all that it waits for.
func (g *Guest) wait(until int64) error {
	var timeout <-chan time.Time
	if until > 0 {
		d := time.Duration(until - g.monotonic())
		if d <= 0 {
			return nil
		}
		if g.timer == nil {
			g.timer = time.NewTimer(d)
		} else {
			g.timer.Reset(d)
		}
		timeout = g.timer.C
	}
	select {
	case <-g.wake:
		return nil
	case <-timeout:
		return nil
	case <-g.ctx.Done():
		return ended(g.ctx)
	}
}

// notify wakes the guest if it waits, and makes its next wait return at once if it does not.
func (g *Guest) notify() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// ended is the error of a call that the end of the event's ctx cut short.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return fmt.Errorf("interrupted while waiting: %w", cause)
	}
	return fmt.Errorf("interrupted while waiting: %w (%w)", cause, err)
}

// monotonic nanoseconds since the guest was made, never 0.
func (g *Guest) monotonic() int64 { return int64(time.Since(g.started)) + 1 }

// instant clamps a guest's u64 to what the clock can reach.
func instant(n uint64) int64 {
	switch {
	case n == 0:
		return 1
	case n > math.MaxInt64:
		return math.MaxInt64
	}
	return int64(n)
}
