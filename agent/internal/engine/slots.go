package engine

import (
	"context"
	"slices"
	"sync"
)

// slots share out the engine's linear memories. A slot is kept for each Share that holds none, up to half of all slots: whoever
// wants more than its first one takes of the rest only, and not ahead of a first one that still waits. Otherwise first come,
// first served. So a component that fills the engine, and its queue, costs another no more than the slots beyond its first.
type slots struct {
	mu      sync.Mutex
	total   int64
	free    int64
	idle    int64 // shares that hold nothing
	waiting []*claim
}

// Share is one component's part in an engine's slots: while it holds none, one is kept for it. Its stores name it.
type Share struct {
	slots *slots
	held  int64
}

type claim struct {
	share *Share
	n     int64
	ready chan struct{}
}

func newSlots(n int) *slots { return &slots{total: int64(n), free: int64(n)} }

// NewShare keeps a slot for someone's stores until its Close.
func (e *Engine) NewShare() *Share {
	e.slots.mu.Lock()
	defer e.slots.mu.Unlock()
	e.slots.idle++
	return &Share{slots: e.slots}
}

// Take the slots of one instance of c for a store that is made next, with Limits.Slots and this share, which gives them back. So the wait
// for them is over before anything of the event's is counted. An error is ctx's.
func (s *Share) Take(ctx context.Context, c *Component) (slots int, err error) {
	n := c.shape.Load().memories
	return int(n), s.slots.acquire(ctx, s, n)
}

// Close gives up what was kept. Its stores are closed before.
func (s *Share) Close() {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.idle--
	s.slots.serve()
}

// fits says whether n more can be given. The caller holds mu.
func (s *slots) fits(share *Share, n int64) bool {
	if share.first() {
		return n <= s.free
	}
	return n <= s.free-min(s.idle, s.total/2)
}

// first reports whether it holds none. So does nobody in particular.
func (s *Share) first() bool { return s == nil || s.held == 0 }

func (s *slots) give(share *Share, n int64) {
	s.free -= n
	if share == nil {
		return
	}
	if share.held == 0 {
		s.idle--
	}
	share.held += n
}

// serve those that wait. The caller holds mu.
func (s *slots) serve() {
	owed := false
	s.waiting = slices.DeleteFunc(s.waiting, func(c *claim) bool {
		first := c.share.first()
		if owed && !first || !s.fits(c.share, c.n) {
			owed = owed || first
			return false
		}
		s.give(c.share, c.n)
		close(c.ready)
		return true
	})
}

// acquire n slots for a share, or for nobody in particular, or fail when ctx ends first.
func (s *slots) acquire(ctx context.Context, share *Share, n int64) error {
	s.mu.Lock()
	if len(s.waiting) == 0 && s.fits(share, n) {
		s.give(share, n)
		s.mu.Unlock()
		return nil
	}
	c := &claim{share: share, n: n, ready: make(chan struct{})}
	s.waiting = append(s.waiting, c)
	s.serve()
	s.mu.Unlock()
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, c)
	if i < 0 {
		return nil // it came meanwhile
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	s.serve()
	return ctx.Err()
}

func (s *slots) release(share *Share, n int64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	if share != nil {
		if share.held -= n; share.held == 0 {
			s.idle++
		}
	}
	s.serve()
}
