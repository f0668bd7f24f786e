// Package timer is the source of ticks: at an interval, or by a cron line in a time zone.
package timer

import (
	"context"
	"log/slog"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Missed says what becomes of firings that fell while nothing could fire them.
type Missed string

// Overlap says what becomes of a firing that is due while the one before still runs.
type Overlap string

// Policies of a Timer; the empty ones mean skip.
const (
	MissedSkip Missed = "skip" // none of them
	MissedOnce Missed = "once" // one tick for all
	MissedAll  Missed = "all"  // each, oldest first, at most maxCatchUp

	OverlapSkip  Overlap = "skip"
	OverlapQueue Overlap = "queue"
)

// Timer is one binding. Exactly one of Every and Cron is set.
type Timer struct {
	ID       string
	Every    time.Duration
	Cron     string // five fields, or six with seconds first
	Timezone string // IANA name; "" is UTC
	Missed   Missed
	Overlap  Overlap
	Handle   trigger.Handler
}

// Config of a Source.
type Config struct {
	Wall    func() time.Time     // the wall clock; nil: time.Now
	Elapsed func() time.Duration // since any fixed point, suspended time included; nil: CLOCK_BOOTTIME
	Trusted func() bool          // whether Wall can be believed; nil: always
	Drain   time.Duration        // how long Run waits for ticks in flight before it cancels them; 0: 10 s
}

// Source fires timers.
type Source struct{}

// New makes a source; Run fires.
func New(cfg Config, log *slog.Logger) *Source { panic("skeleton") }

// Set replaces the timers. One whose schedule is unchanged goes on; its next tick goes to the new handler.
func (s *Source) Set(timers []Timer) error { panic("skeleton") }

// Run fires until ctx ends, then waits for ticks in flight.
func (s *Source) Run(ctx context.Context) error { panic("skeleton") }

// Status of the source.
func (s *Source) Status() trigger.Status { panic("skeleton") }
