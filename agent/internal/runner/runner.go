// Package runner runs one event on one component: a fresh instance, its limits and grants, its transaction, its outcome.
package runner

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dunlin.dev/dunlin/agent/internal/alarm"
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Tx is one event's transaction; *store.Tx is one.
type Tx interface {
	host.KV
	host.Publisher
	host.Deferrer
	Writes() bool
	With(key string, value []byte, once bool) error
	Take(outbox uint64)
	Follow(after any, placed func(place any))
	Commit(ctx context.Context) error
}

// Limits of one event, and of all events of one component. Zero fields mean the defaults.
type Limits struct {
	Memory      uint64        // bytes, all linear memories and tables together; 0: 64 MiB
	Time        time.Duration // wall time of one event, from its instance to its end; 0: 5 s
	CPU         time.Duration // processor time of one event; 0: 5 s
	Payload     int64         // bytes of one event's body, and of each answer or publish; 0: 1 MiB
	Concurrency int           // instances at once; 0: 8
	Queue       int           // events that wait for their turn; 0: 256
	LogLines    int           // lines a second; 0: 50
	Requests    int           // outgoing requests of one event; 0: 64
}

// Config of a Runner: one component of one version of an application.
type Config struct {
	Engine      *engine.Engine
	Host        *host.Host
	Load        func() (*engine.Component, error) // called at the first event or by Warm, again only if it failed; the runner closes what it gives
	Application string
	Name        string // of the component, as in the manifest
	Grants      host.Grants
	Environ     map[string]string // wasi:cli/environment
	Mounts      []host.Mount      // wasi:filesystem
	Limits      Limits
	Begin       func(e *trigger.Event) Tx
	Commits     *sync.RWMutex // of all runners whose transactions see each other's data; nil: of this one alone
	Log         *slog.Logger
	Quiet       func() bool        // the guest's lines below warnings are dropped now; nil: never
	Now         func() time.Time   // wall clock; nil: time.Now
	Moment      func() host.Moment // but for At; nil: handlers are told nothing of it
}

// Runner of one component version. Safe for concurrent use.
type Runner struct {
	cfg       Config
	log       *slog.Logger
	lines     *lineLimit
	share     *engine.Share // of the engine's slots
	stats     stats
	clock     alarm.Clock
	contested sync.Mutex // held by an event that keeps running into others

	ctx    context.Context // of all events
	cancel context.CancelCauseFunc

	loading   sync.Mutex
	component *engine.Component // nil before it is loaded
	handlers  host.Handlers

	mu     sync.Mutex
	events int // that Handle has not returned for
	active int // that hold an instance
	queue  []chan struct{}
	closed bool
	idle   chan struct{} // closed when closed and no event is left

	prefix string // of event ids: tells this runner's from all others'
	last   atomic.Uint64
}

// errClosed is why a closed runner takes no event.
var errClosed = errors.New("this version takes no more events")

// errTurn is why an event was given up before it ran.
var errTurn = errors.New("it waited too long for its turn")

// New makes a runner. Nothing is loaded yet.
func New(cfg Config) *Runner {
	l := &cfg.Limits
	l.Memory = cmp.Or(l.Memory, 64<<20)
	l.Time = cmp.Or(l.Time, 5*time.Second)
	l.CPU = cmp.Or(l.CPU, 5*time.Second)
	l.Payload = cmp.Or(l.Payload, 1<<20)
	l.Concurrency = cmp.Or(l.Concurrency, 8)
	l.Queue = cmp.Or(l.Queue, 256)
	l.LogLines = cmp.Or(l.LogLines, 50)
	l.Requests = cmp.Or(l.Requests, 64)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Commits == nil {
		cfg.Commits = new(sync.RWMutex)
	}
	r := &Runner{
		cfg: cfg, log: cfg.Log.With("application", cfg.Application, "component", cfg.Name), idle: make(chan struct{}),
		lines: newLineLimit(cfg.Limits.LogLines), share: cfg.Engine.NewShare(),
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	r.prefix = hex.EncodeToString(b[:]) + "-"
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// Warm loads the component, so that the first event doesn't pay for it.
func (r *Runner) Warm(context.Context) error {
	_, _, err := r.load()
	return err
}

// load the component, once. A failure is not remembered: what it was for want of may be there the next time.
func (r *Runner) load() (*engine.Component, host.Handlers, error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	if r.component == nil {
		c, err := r.cfg.Load()
		if err != nil {
			return nil, host.Handlers{}, fmt.Errorf("load component %s: %w", r.cfg.Name, err)
		}
		r.component, r.handlers = c, host.HandlersOf(c)
	}
	return r.component, r.handlers, nil
}

func (r *Runner) nextID() string { return r.prefix + strconv.FormatUint(r.last.Add(1), 10) }

// enter counts an event in, unless the runner is closed.
func (r *Runner) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return failure(trigger.Closed, errClosed)
	}
	r.events++
	return nil
}

func (r *Runner) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events--; r.closed && r.events == 0 {
		close(r.idle)
	}
}

// acquire waits for a turn to hold an instance, first come, first served. again: the event has had one before.
func (r *Runner) acquire(ctx context.Context, again bool) error {
	r.mu.Lock()
	switch {
	case r.closed && !again:
		r.mu.Unlock()
		return failure(trigger.Closed, errClosed)
	case r.active < r.cfg.Limits.Concurrency:
		r.active++
		r.mu.Unlock()
		return nil
	case len(r.queue) >= r.cfg.Limits.Queue && !again:
		r.mu.Unlock()
		return failure(trigger.Busy, fmt.Errorf("queue limit of %d: as many events wait already, besides the concurrency limit of %d that run", r.cfg.Limits.Queue, r.cfg.Limits.Concurrency))
	}
	turn := make(chan struct{})
	r.queue = append(r.queue, turn)
	r.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.queue, turn); i >= 0 {
		r.queue = slices.Delete(r.queue, i, i+1)
	} else {
		r.pass() // the turn came meanwhile
	}
	return unserved(ctx)
}

// unserved is the failure of an event whose wait was ended by ctx.
func unserved(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errTurn) {
		return failure(trigger.Busy, cause)
	}
	return failure(trigger.Canceled, cause)
}

func (r *Runner) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pass()
}

// pass a turn on to who waits longest. The caller holds mu.
func (r *Runner) pass() {
	if len(r.queue) == 0 {
		r.active--
		return
	}
	close(r.queue[0])
	r.queue = r.queue[1:]
}

// Close takes no more events, waits for those that were taken until ctx ends (then it cancels them), and drops the component.
func (r *Runner) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		<-r.idle
		return nil
	}
	r.closed = true
	if r.events == 0 {
		close(r.idle)
	}
	r.mu.Unlock()
	var err error
	select {
	case <-r.idle:
	case <-ctx.Done():
		err = fmt.Errorf("close component %s: events in flight were canceled: %w", r.cfg.Name, context.Cause(ctx))
		r.cancel(errors.New("this version is being stopped"))
		<-r.idle
	}
	r.cancel(errClosed)
	r.loading.Lock()
	defer r.loading.Unlock()
	if r.component != nil {
		r.component.Close()
		r.component = nil
	}
	r.share.Close()
	r.sayDropped(true)
	return err
}

// Counters since New.
func (r *Runner) Counters() Counters {
	c := r.stats.read()
	c.Dropped = r.lines.dropped()
	r.mu.Lock()
	defer r.mu.Unlock()
	c.Active, c.Waiting = r.active, len(r.queue)
	return c
}
