package uplink

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dunlin.dev/dunlin/agent/internal/mqttconn"
	"dunlin.dev/dunlin/agent/internal/store"
)

// DeferredConfig of a Deferred. An error of Send may have Refused() bool: no later attempt would change it; and RetryAfter() time.Duration: what
// the receiver asks for.
type DeferredConfig struct {
	Box  Box
	Send func(ctx context.Context, m store.Message) error
	Now  func() store.Stamp
	Log  *slog.Logger
}

const (
	maxAttempts    = 4 // at once
	attemptTimeout = time.Minute
	maxRetryAfter  = time.Hour
)

// Deferred sends requests that wait for the network: those of one application to one origin in their order, each until it is taken or refused.
type Deferred struct {
	cfg  DeferredConfig
	room chan struct{} // holds one for each attempt

	mu      sync.Mutex
	active  map[uint64]bool // lanes that are worked on; true: something new may be in it
	up      chan struct{}   // closed when the network may be back
	expired time.Time
}

// NewDeferred makes one.
func NewDeferred(cfg DeferredConfig) *Deferred {
	return &Deferred{cfg: cfg, room: make(chan struct{}, maxAttempts), active: map[uint64]bool{}, up: make(chan struct{})}
}

// Up tells that the network may be back: what waits is tried at once.
func (d *Deferred) Up() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.up)
	d.up = make(chan struct{})
}

// Run sends until ctx ends. wake tells of new messages.
func (d *Deferred) Run(ctx context.Context, wake <-chan struct{}) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			for _, l := range d.cfg.Box.Lanes() {
				if l.Deferred() && d.begin(l.ID) {
					group.Go(func() error { return d.lane(ctx, l) })
				}
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-wake:
			}
		}
	})
	return group.Wait()
}

// begin with a lane, unless somebody is at it, who is told to look again.
func (d *Deferred) begin(lane uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, busy := d.active[lane]
	d.active[lane] = busy
	return !busy
}

// end with a lane, unless there may be something new in it.
func (d *Deferred) end(lane uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.active[lane] {
		d.active[lane] = false
		return false
	}
	delete(d.active, lane)
	return true
}

func (d *Deferred) lane(ctx context.Context, l store.Lane) error {
	var last uint64
	for attempt := 0; ; {
		if err := d.expire(); err != nil {
			return err
		}
		// Read again for each attempt: it may have been dropped meanwhile.
		messages, upto, err := d.cfg.Box.Uplinks(l.ID, 0, 1, 1)
		if err != nil {
			return err
		}
		if len(messages) == 0 {
			if d.end(l.ID) {
				return nil
			}
			continue
		}
		m := messages[0]
		if m.ID != last {
			last, attempt = m.ID, 0
		}
		again, wait := d.attempt(ctx, l, m, attempt)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !again {
			if err := d.cfg.Box.DeliveredUplinks(map[uint64]uint64{l.ID: upto}); err != nil {
				return err
			}
			continue
		}
		attempt++
		d.mu.Lock()
		up := d.up
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-up:
		case <-time.After(wait):
		}
	}
}

func (d *Deferred) expire() error {
	d.mu.Lock()
	due := time.Since(d.expired) >= expireEvery
	if due {
		d.expired = time.Now()
	}
	d.mu.Unlock()
	if !due {
		return nil
	}
	return d.cfg.Box.ExpireUplinks(d.cfg.Now())
}

// attempt one request. again after wait: it is neither taken nor refused.
func (d *Deferred) attempt(ctx context.Context, l store.Lane, m store.Message, n int) (again bool, wait time.Duration) {
	select {
	case d.room <- struct{}{}:
		defer func() { <-d.room }()
	case <-ctx.Done():
		return true, 0
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	err := d.cfg.Send(ctx, m)
	var refused interface{ Refused() bool }
	var asked interface{ RetryAfter() time.Duration }
	log := d.cfg.Log.With("application", l.Application, "origin", l.Topic, "message", m.ID)
	switch {
	case err == nil:
		return false, 0
	case errors.As(err, &refused) && refused.Refused():
		log.Error("a deferred request is refused and dropped", "cause", err)
		d.cfg.Box.RefusedUplink()
		return false, 0
	case n == 0:
		log.Warn("deferred requests to a host wait", "cause", err)
	}
	wait = mqttconn.Backoff(n, rand.Float64())
	if errors.As(err, &asked) {
		wait = min(maxRetryAfter, max(wait, asked.RetryAfter()))
	}
	return true, wait
}
