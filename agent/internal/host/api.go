// Package host is what a guest may import: WASI 0.2 and the standard interfaces, in Go, every one off unless granted.
package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// ErrNoResponse is what ServeHTTP returns when the guest returned without ever setting a response.
var ErrNoResponse = errors.New("handle request: the component returned without setting a response")

// ErrBodyLimit is in the trap of a guest whose response body grew over Limits.Body.
var ErrBodyLimit = errors.New("the body is larger than its limit")

// Grants of one component, from its signed manifest.
type Grants struct {
	OutboundHosts []string          // allowed_outbound_hosts: "scheme://host[:port]", each part may be "*", host also "*.example.com"
	DeferredHosts []string          // deferred_outbound_hosts, as OutboundHosts
	Stores        []string          // key_value_stores
	BlobStores    []string          // blob_stores
	Publish       []string          // topic filters, "uplink:" ones included
	Variables     map[string]string // wasi:config, spin variables; nil: not granted
}

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

// Deferrer takes requests that leave after the event's transaction has committed, when the network is there. Of one origin
// ("https://api.example.com") they leave in their order.
type Deferrer interface {
	Defer(origin string, request []byte) error
}

// Env is what one event's guest can reach. A nil KV, Publisher or Deferrer is an error to the guest; other nil fields mean nothing there.
type Env struct {
	Grants    Grants
	KV        KV
	Publisher Publisher
	Deferrer  Deferrer
	Mounts    []Mount                                         // wasi:filesystem; none: it finds no directory
	Log       func(level slog.Level, context, message string) // wasi:logging, and stdout/stderr line by line; bounded by host
	Args      []string
	Environ   map[string]string
	Stdin     io.Reader
	Now       func() time.Time // wall clock; nil: time.Now
	Moment    func() Moment    // of the event; nil: a handler is told nothing of it
	Client    *http.Client     // wasi:http/outgoing-handler, already restricted by the host to Grants.OutboundHosts; nil: default
}

// Limits of one event.
type Limits struct {
	Engine   engine.Limits
	Stderr   int   // bytes kept of stdout, stderr and wasi:logging together; 0: 64 KiB
	Body     int64 // bytes of a request or response body; 0: unlimited
	Requests int   // outgoing requests; 0: unlimited
}

// LimitError is in what a guest is told when it reaches one of the limits in its manifest.
type LimitError struct {
	Key   string // in the manifest: "requests"
	Value string // as the manifest would have it: "64", "16MiB"
}

func (e *LimitError) Error() string { return e.Key + " limit of " + e.Value }

// SizeText is a number of bytes in the unit that a manifest would use.
func SizeText(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}

// ResponseWriter takes a guest's response. Unlike net/http's it can refuse, and it sees the end: Finish is called once, when
// the body is complete. It may also have Informational(status int, header http.Header) error for 1xx responses, and
// SetReadDeadline and SetWriteDeadline(time.Time) error, as http.ResponseController has: the host sets both to the past when the event's ctx
// ends, so that neither a Read of the request nor a Write of the response holds on to the event.
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

// Tick for the timer's handlers.
type Tick struct {
	Timer             string // the trigger's id, as the application's manifest has it
	Scheduled, Actual time.Time
	Missed            uint32
	ClockTrusted      bool
}

// GuestError is the error that a handler returned by itself.
type GuestError struct{ Message string }

func (e *GuestError) Error() string { return "the component returned an error: " + e.Message }

// Host holds the linker with every interface, defined once per engine. Safe for concurrent use.
type Host struct {
	linker   *engine.Linker
	provided map[string]*iface // by exact name, and by compatible name ("wasi:io/poll@0.2")
	client   *http.Client
}

// New host with every interface that guests may import, linked on e.
func New(e *engine.Engine) (*Host, error) {
	h := &Host{linker: e.NewLinker(), client: defaultClient(), provided: provided(interfaces())}
	for _, i := range interfaces() {
		if err := h.linker.Define(i.name, i.define()); err != nil {
			h.linker.Close()
			return nil, fmt.Errorf("define %s: %w", i.name, err)
		}
	}
	return h, nil
}

// Close frees the linker. No Guest may be alive.
func (h *Host) Close() {
	h.linker.Close()
	h.client.CloseIdleConnections()
}
