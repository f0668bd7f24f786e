// Package http is the source of requests: one listener, and routes to handlers.
package http

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Route is one binding. Pattern is an exact path ("/climate"), a prefix ("/climate/..."), and may have single segments
// that match anything ("/room/:id/climate").
type Route struct {
	ID      string
	Pattern string
	Handle  trigger.Handler
}

// Config of a Source.
type Config struct {
	Address   string        // host:port
	WellKnown http.Handler  // serves /.well-known/dunlin/; nil: nothing does
	MaxBody   int64         // bytes of a request body; 0: 16 MiB
	Drain     time.Duration // how long Run waits for requests in flight before it closes them; 0: 10 s
}

// Source serves HTTP.
type Source struct{}

// New makes a source; Run listens.
func New(cfg Config, log *slog.Logger) *Source { panic("skeleton") }

// Set replaces the routes. A request in flight ends on the handler that it began with.
func (s *Source) Set(routes []Route) error { panic("skeleton") }

// Run serves until ctx ends, then waits for requests in flight. It returns an error when it can't listen, and can be run again.
func (s *Source) Run(ctx context.Context) error { panic("skeleton") }

// Ready is closed once the source listens.
func (s *Source) Ready() <-chan struct{} { panic("skeleton") }

// Addr is the address that it listens on; nil before Ready.
func (s *Source) Addr() net.Addr { panic("skeleton") }

// Status of the source.
func (s *Source) Status() trigger.Status { panic("skeleton") }
