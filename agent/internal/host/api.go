// Package host is what a guest may import: WASI 0.2 and the standard interfaces, in Go, every one off unless granted.
package host

// SKELETON: the exported API that runner is being written against. The host's author replaces each panic.

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// Host holds the linker with every interface, defined once per engine.
type Host struct{}

func New(e *engine.Engine) (*Host, error) { panic("skeleton") }
func (h *Host) Close()                    { panic("skeleton") }

// Grants of one component, from its signed manifest.
type Grants struct {
	OutboundHosts []string          // allowed_outbound_hosts
	Stores        []string          // key_value_stores
	Publish       []string          // topic filters, "uplink:" ones included
	Variables     map[string]string // wasi:config, spin variables
}

// Check that everything c imports is provided and granted; the error joins one line per import, each naming the import and
// the manifest line that would grant it. component is its name in the manifest.
func (h *Host) Check(c *engine.Component, component string, g Grants) error { panic("skeleton") }

// Handlers are the exported functions that a trigger can call; nil where the component has none.
type Handlers struct {
	HTTP    *engine.Export // wasi:http/incoming-handler@0.2.x#handle
	MQTT    *engine.Export // wasi:messaging/incoming-handler@0.2.0-draft#handle
	Timer   *engine.Export // dunlin:timer/handler@0.1.0#handle
	Command *engine.Export // wasi:cli/run@0.2.x#run
	// SpinMQTT and SpinCron are Spin's sync world-level exports.
	SpinMQTT *engine.Export
	SpinCron *engine.Export
}

// HandlersOf c.
func HandlersOf(c *engine.Component) Handlers { panic("skeleton") }

// KV is the keyvalue data of one event: reads see the event's own writes, nothing is kept before the event's commit.
type KV interface {
	Get(store, key string) (value []byte, ok bool, err error)
	Set(store, key string, value []byte) error
	Delete(store, key string) error
	Keys(store, after string, limit int) (keys []string, err error) // in order, strictly after `after` ("" from the start)
}

// Publisher takes messages that leave when the event's transaction commits.
type Publisher interface {
	Publish(topic string, payload []byte, qos byte, retain bool) error
}

// Env is what one event's guest can reach.
type Env struct {
	Grants    Grants
	KV        KV
	Publisher Publisher
	Log       func(level slog.Level, context, message string) // wasi:logging, and stdout/stderr line by line; bounded by host
	Args      []string
	Environ   map[string]string
	Stdin     io.Reader
	Now       func() time.Time // wall clock
	Client    *http.Client     // wasi:http/outgoing-handler, already restricted by the host to Grants.OutboundHosts; nil: default
}

// Guest is one instance of one component in one event. Not safe for concurrent use.
type Guest struct{}

// Limits of one event.
type Limits struct {
	Memory uint64 // bytes
	Stderr int    // bytes kept of stdout and stderr together; 0: 64 KiB
	Body   int64  // bytes of a request or response body; 0: unlimited
}

// Instantiate c for one event. When ctx ends the guest is interrupted wherever it is, in wasm or waiting in the host.
func (h *Host) Instantiate(ctx context.Context, e *engine.Engine, c *engine.Component, l Limits, env *Env) (*Guest, error) {
	panic("skeleton")
}

func (g *Guest) Close() { panic("skeleton") }

// ServeHTTP calls wasi:http/incoming-handler. w gets status, headers and body as the guest produces them.
// Errors: a *engine.Trap, ErrNoResponse (the guest never set one), or what w returned.
func (g *Guest) ServeHTTP(x *engine.Export, w ResponseWriter, r *http.Request) error {
	panic("skeleton")
}

// ResponseWriter takes a guest's response. Unlike net/http's it can refuse, and it sees the end.
type ResponseWriter interface {
	Start(status int, header http.Header) error
	Write(p []byte) (int, error)
	Finish(trailer http.Header) error
}

// Message for wasi:messaging's and Spin's handlers.
type Message struct {
	Topic   string
	Payload []byte
}

// HandleMessage calls Handlers.MQTT or .SpinMQTT. A guest's own error result is a *GuestError.
func (g *Guest) HandleMessage(h Handlers, m Message) error { panic("skeleton") }

// Tick for the timer's handlers.
type Tick struct {
	Scheduled, Actual time.Time
	Missed            uint32
	ClockTrusted      bool
}

// HandleTick calls Handlers.Timer, .SpinCron or .Command, the first that there is.
func (g *Guest) HandleTick(h Handlers, t Tick) error { panic("skeleton") }

// GuestError is the error that a handler returned by itself.
type GuestError struct{ Message string }

func (e *GuestError) Error() string { panic("skeleton") }
