// Package runner runs one event on one component: a fresh instance, its limits and grants, its transaction, its outcome.
package runner

import (
	"context"
	"log/slog"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Tx is one event's transaction; *store.Tx is one.
type Tx interface {
	host.KV
	host.Publisher
	Writes() bool
	Commit(ctx context.Context) error
}

// Limits of one event, and of all events of one component. Zero fields mean the defaults.
type Limits struct {
	Memory      uint64        // bytes of each linear memory; 0: 64 MiB
	Time        time.Duration // wall time of one event; 0: 5 s
	Payload     int64         // bytes of one event's body, and of each answer or publish; 0: 1 MiB
	Concurrency int           // events at once; 0: 8
	Queue       int           // events that wait for their turn; 0: 256
}

// Config of a Runner: one component of one version of an application.
type Config struct {
	Engine      *engine.Engine
	Host        *host.Host
	Load        func() (*engine.Component, error) // called once, at the first event or by Warm; the runner closes what it gives
	Application string
	Name        string // of the component, as in the manifest
	Grants      host.Grants
	Limits      Limits
	Begin       func() Tx
	Log         *slog.Logger
	Now         func() time.Time // wall clock; nil: time.Now
}

// Runner of one component version. Safe for concurrent use.
type Runner struct{}

// New makes a runner. Nothing is loaded yet.
func New(cfg Config) *Runner { panic("skeleton") }

// Warm loads the component and checks its imports against the grants, so that the first event doesn't pay for it.
func (r *Runner) Warm(ctx context.Context) error { panic("skeleton") }

// Handle takes one event to its end: it is a trigger.Handler. Errors are a *trigger.Failure.
func (r *Runner) Handle(ctx context.Context, e *trigger.Event) error { panic("skeleton") }

// Close takes no more events, waits for those in flight until ctx ends (then it cancels them), and drops the component.
func (r *Runner) Close(ctx context.Context) error { panic("skeleton") }

// Counters since New.
func (r *Runner) Counters() Counters { panic("skeleton") }

// Counters of one runner. Durations are of handled events, from their turn to their commit; bucketed, so within 10 %.
type Counters struct {
	Handled  uint64
	Failed   uint64 // of any reason
	Reasons  map[trigger.Reason]uint64
	Conflict uint64 // runs that were repeated
	Dropped  uint64 // log lines over the rate limit
	Active   int
	Waiting  int
	P50, P99 time.Duration
}
