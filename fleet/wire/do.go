package wire

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Operation is what a Do asks for. Append only.
type Operation string

// Operations. An event is named as EventName does.
const (
	EventsList  Operation = "events.list"  // arguments: after, an event; none: from the first. Result: Events, oldest first
	EventsShow  Operation = "events.show"  // arguments: event. Result: DeadEvent with its payload
	EventsRetry Operation = "events.retry" // arguments: event. Result: Renamed
	EventsDrop  Operation = "events.drop"  // arguments: event. Result: Renamed, to the name that it had
)

// Operations are all of them.
func Operations() []Operation { return []Operation{EventsList, EventsShow, EventsRetry, EventsDrop} }

// Events is what waits on a board, and what was given up: the dead letters, oldest first.
type Events struct {
	Waiting      int         `json:"waiting"` // accepted and not handled yet, beside what is in memory alone
	WaitingBytes int64       `json:"waiting_bytes"`
	Left         int         `json:"left,omitempty"` // of Waiting, events for triggers that are gone; they are handled when those are back
	OutboxBytes  int64       `json:"outbox_bytes"`
	Uplinks      int         `json:"uplinks,omitempty"` // messages and requests that wait for the fleet and for deferred hosts
	UplinkBytes  int64       `json:"uplink_bytes,omitempty"`
	DeadDropped  uint64      `json:"dead_dropped"` // dead letters that had to make room, since the agent started
	Dead         []DeadEvent `json:"dead"`
	More         bool        `json:"more,omitempty"` // there are more after the last of Dead
}

// DeadEvent is one event that was given up.
type DeadEvent struct {
	Event    string    `json:"event"` // its name, to retry or drop it by
	Trigger  string    `json:"trigger"`
	Topic    string    `json:"topic"`
	QoS      byte      `json:"qos"`
	At       time.Time `json:"at"` // UTC
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	Cause    string    `json:"cause"`
	Bytes    int       `json:"bytes"`             // of the payload
	Text     string    `json:"text,omitempty"`    // the payload, where it is UTF-8; of one that was asked for
	Payload  []byte    `json:"payload,omitempty"` // else, in base64
	Cut      bool      `json:"cut,omitempty"`     // only the payload's beginning is there
}

// Renamed is the name under which an event goes on.
type Renamed struct {
	Event string `json:"event"`
}

// Bounds of what a board says about events.
const (
	MaxEventsPage  = 64       // dead letters in one answer
	MaxShownBytes  = 48 << 10 // of a payload in an answer; as text it may take six times that in JSON, and is cut to fit
	maxShownAsText = 96 << 10 // of such a text in JSON
	maxResultBytes = MaxMessageBytes - 1<<10
)

// EventName of an event by its number.
func EventName(number uint64) string { return fmt.Sprintf("e%d", number) }

// ParseEvent is the inverse of EventName.
func ParseEvent(name string) (uint64, error) {
	if len(name) > 1 && name[0] == 'e' {
		if n, err := strconv.ParseUint(name[1:], 10, 64); err == nil && EventName(n) == name {
			return n, nil
		}
	}
	return 0, fmt.Errorf("event %.40q: want e and a number", name)
}

// ShowAll puts a payload into e.
func (e *DeadEvent) ShowAll(payload []byte) {
	e.Bytes, e.Text, e.Payload = len(payload), "", nil
	if utf8.Valid(payload) {
		e.Text = string(payload)
	} else {
		e.Payload = payload
	}
}

// Show puts a payload into e, or its beginning where it is too long for an answer.
func (e *DeadEvent) Show(payload []byte) {
	e.ShowAll(payload)
	if !utf8.Valid(payload) {
		e.Payload, e.Cut = payload[:min(len(payload), MaxShownBytes)], len(payload) > MaxShownBytes
		return
	}
	e.Text = clip(string(payload), MaxShownBytes)
	for quoted := len(e.Text) * 6; quoted > maxShownAsText; {
		b, err := canonical(e.Text)
		if quoted = len(b); err == nil && quoted > maxShownAsText {
			e.Text = clip(e.Text, len(e.Text)/2)
		}
	}
	e.Cut = len(e.Text) < len(payload)
}

// Brief cuts an event down to what a list holds of it.
func (e DeadEvent) Brief() DeadEvent {
	e.Topic, e.Cause, e.Trigger = clip(e.Topic, MaxTopicBytes), clip(e.Cause, MaxErrorBytes/4), clip(e.Trigger, MaxTopicBytes)
	return e
}

// MarshalEvents gives the canonical bytes of m.
func MarshalEvents(m Events) ([]byte, error) { return marshal("events", m, maxResultBytes) }

// UnmarshalEvents is the inverse of MarshalEvents.
func UnmarshalEvents(b []byte) (Events, error) {
	return unmarshal[Events]("events", b, maxResultBytes)
}

// MarshalDeadEvent gives the canonical bytes of m.
func MarshalDeadEvent(m DeadEvent) ([]byte, error) { return marshal("event", m, maxResultBytes) }

// UnmarshalDeadEvent is the inverse of MarshalDeadEvent.
func UnmarshalDeadEvent(b []byte) (DeadEvent, error) {
	return unmarshal[DeadEvent]("event", b, maxResultBytes)
}

// MarshalRenamed gives the canonical bytes of m.
func MarshalRenamed(m Renamed) ([]byte, error) { return marshal("renamed event", m, maxResultBytes) }

// UnmarshalRenamed is the inverse of MarshalRenamed.
func UnmarshalRenamed(b []byte) (Renamed, error) {
	return unmarshal[Renamed]("renamed event", b, maxResultBytes)
}

func (m *Do) check() error {
	err := first(CheckName("fleet", m.Fleet), CheckName("device", m.Device), CheckName("session", m.Session), CheckName("request", m.ID),
		CheckName("operation", string(m.Operation)), utc("deadline", m.Deadline))
	if err != nil {
		return err
	}
	if len(m.Arguments) > MaxArguments {
		return fmt.Errorf("%d arguments, limit is %d", len(m.Arguments), MaxArguments)
	}
	for k, v := range m.Arguments {
		if err := first(CheckName("argument", k), text("argument "+k, v, MaxLabelBytes)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Done) check() error {
	if (m.Code == 0) == (m.Error != "") || (m.Code == 0) == (len(m.Result) == 0) {
		return errors.New("want a result, or an error with its code")
	}
	return first(CheckName("request", m.ID), text("error", m.Error, MaxErrorBytes))
}

// check: the names of a page grow, so that who follows pages comes to an end.
func (m *Events) check() error {
	if m.Waiting < 0 || m.Left < 0 || m.WaitingBytes < 0 || m.OutboxBytes < 0 || m.Uplinks < 0 || m.UplinkBytes < 0 || len(m.Dead) > MaxEventsPage || m.More && len(m.Dead) == 0 {
		return fmt.Errorf("%d events wait with %d bytes, %d bytes in the outbox, %d uplinks with %d, %d dead letters (more: %t)", m.Waiting, m.WaitingBytes, m.OutboxBytes, m.Uplinks, m.UplinkBytes, len(m.Dead), m.More)
	}
	last := uint64(0)
	for i := range m.Dead {
		n, err := ParseEvent(m.Dead[i].Event)
		if err == nil {
			err = m.Dead[i].check()
		}
		if err == nil && i > 0 && n <= last {
			err = fmt.Errorf("event %s after %s", m.Dead[i].Event, m.Dead[i-1].Event)
		}
		if err != nil {
			return err
		}
		last = n
	}
	return nil
}

func (e *DeadEvent) check() error {
	if _, err := ParseEvent(e.Event); err != nil {
		return err
	}
	if e.QoS > 2 || e.Attempts < 0 || e.Bytes < 0 || len(e.Text)+len(e.Payload) > e.Bytes || e.Text != "" && len(e.Payload) > 0 {
		return fmt.Errorf("event %s: QoS %d, %d attempts, %d bytes, %d of them as text and %d as they are", e.Event, e.QoS, e.Attempts, e.Bytes, len(e.Text), len(e.Payload))
	}
	return first(text("trigger", e.Trigger, MaxTopicBytes), text("topic", e.Topic, MaxTopicBytes), text("reason", e.Reason, MaxErrorBytes), text("cause", e.Cause, MaxErrorBytes),
		text("payload", e.Text, MaxShownBytes), utc("at", e.At))
}

func (m *Renamed) check() error {
	_, err := ParseEvent(m.Event)
	return err
}
