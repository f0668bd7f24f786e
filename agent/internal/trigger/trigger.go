// Package trigger is the vocabulary between what happens on a board and what handles it: an Event, its Handler, and the
// Status of a source. The sources (http, mqtt, timer) know nothing of wasm; the runner knows nothing of sockets.
package trigger

import (
	"context"
	"net/http"
	"time"
)

// Kind of a trigger, as in the manifest's [[trigger.<kind>]].
type Kind string

// The kinds there are.
const (
	KindHTTP  Kind = "http"
	KindMQTT  Kind = "mqtt"
	KindTimer Kind = "timer"
)

// Event is one thing that happened and that one component handles. Exactly one of HTTP, MQTT and Timer is set.
type Event struct {
	Kind    Kind
	Trigger string    // the trigger's id, unique on the board: "<application>/<id in its manifest>"
	At      time.Time // when the board took it in, wall clock with its monotonic reading
	HTTP    *HTTP
	MQTT    *Message
	Timer   *Tick

	// Ends says what of the board's own is written in the transaction that commits the event's effects; nil: nothing. It is
	// called after the handler, right before the commit, and again when the event is run again.
	Ends func(context.Context) (Ends, error)
}

// Ends is what makes an event's end durable, so that it takes effect once, however often it comes.
type Ends struct {
	Rows   []Row
	Outbox uint64 // the message of the board's own outbox that the event was made of; 0: none

	// The event takes effect after another one, and not before that one does: trigger.Early says that it can't.
	After  Place       // of that one; nil: it follows none
	Placed func(Place) // called when this one has its place, before it is durable, and with nil when the place is void; nil: nobody asks
}

// Place of an event's effects in the order of commits.
type Place = any

// Row is a record of the board's own.
type Row struct {
	Key   string // "area/name"
	Value []byte // nil deletes
	Once  bool   // where it is so already (there, or deleted) the event has taken effect before, and takes none now
}

// HTTP is a request and the way to answer it.
type HTTP struct {
	Request  *http.Request
	Response http.ResponseWriter
	Route    string // the pattern that matched
}

// Message is what arrived on a topic.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // 0 to 2
	Retain  bool
	Dup     bool
}

// Tick is one firing of a timer.
type Tick struct {
	Scheduled    time.Time
	Actual       time.Time
	Missed       uint32 // firings skipped since the last one
	ClockTrusted bool   // whether wall time could be believed
}

// Handler takes one event to its end. Nil means handled, with its effects committed; the source may acknowledge. An HTTP
// handler has written the response by then, or has written nothing and returns an error (the source answers 5xx).
type Handler func(ctx context.Context, e *Event) error

// Health of a source.
type Health string

// A source that is degraded stops nothing else.
const (
	Healthy  Health = "ok"
	Degraded Health = "degraded"
	Stopped  Health = "stopped"
	Stuck    Health = "stuck" // it neither works nor says why: only a new start helps
)

// Status of one source, for reports: Detail says why it is degraded and since when.
type Status struct {
	Source string // "http", "mqtt", "timer"
	Health Health
	Detail string
}
