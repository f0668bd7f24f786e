package inbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Event is an accepted message for one trigger. Its number grows over all triggers, so it is also their order.
type Event struct {
	Number  uint64
	Trigger string    // "<application>/<id in its manifest>"
	At      time.Time // when the board took it in, by its wall clock, in milliseconds
	Message trigger.Message
}

// Dead is an event that was given up.
type Dead struct {
	Event
	Attempts int
	Reason   trigger.Reason
	Cause    string // at most maxCause bytes
	ID       string // by which its sender tells the message from others; "": it doesn't
}

// Where the rows lie: "<area><trigger>/<number, 16 hex digits>".
const (
	waitingArea = "inbox/"
	deadArea    = "dead/"

	format   = 1
	maxCause = 1 << 10
)

var errMalformed = errors.New("malformed event")

func key(area, trigger string, number uint64) string {
	return fmt.Sprintf("%s%s/%016x", area, trigger, number)
}

func parseKey(area, key string) (trigger string, number uint64, err error) {
	rest, ok := strings.CutPrefix(key, area)
	n := len(rest) - 17
	if !ok || n < 1 || rest[n] != '/' {
		return "", 0, fmt.Errorf("%w: record %q", errMalformed, key)
	}
	number, err = strconv.ParseUint(rest[n+1:], 16, 64)
	if err != nil || fmt.Sprintf("%016x", number) != rest[n+1:] {
		return "", 0, fmt.Errorf("%w: record %q", errMalformed, key)
	}
	return rest[:n], number, nil
}

// encode: format, flags (qos, retain bit 2, dup bit 3), milliseconds since 1970 (8 bytes, big endian), the topic's length in two, topic,
// payload.
func (e Event) encode() []byte {
	m := e.Message
	flags := m.QoS
	if m.Retain {
		flags |= 4
	}
	if m.Dup {
		flags |= 8
	}
	b := make([]byte, 0, 12+len(m.Topic)+len(m.Payload))
	b = binary.BigEndian.AppendUint64(append(b, format, flags), uint64(e.At.UnixMilli()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Topic)))
	return append(append(b, m.Topic...), m.Payload...)
}

func decode(b []byte) (e Event, err error) {
	if len(b) < 12 || b[0] != format || b[1] > 15 || b[1]&3 == 3 {
		return e, errMalformed
	}
	topic := int(binary.BigEndian.Uint16(b[10:]))
	if len(b) < 12+topic {
		return e, errMalformed
	}
	e.At = time.UnixMilli(int64(binary.BigEndian.Uint64(b[2:])))
	e.Message = trigger.Message{Topic: string(b[12:][:topic]), Payload: b[12+topic:], QoS: b[1] & 3, Retain: b[1]&4 != 0, Dup: b[1]&8 != 0}
	return e, nil
}

// encode: attempts in two bytes, the reason's length in one, reason, the cause's length in two, cause, the id's length in two, id, then
// the event.
func (d Dead) encode() []byte {
	cause := d.Cause[:min(len(d.Cause), maxCause)]
	reason := d.Reason[:min(len(d.Reason), 255)]
	b := binary.BigEndian.AppendUint16(nil, uint16(min(max(d.Attempts, 0), 1<<16-1)))
	b = append(append(b, byte(len(reason))), reason...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(cause))), cause...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(d.ID))), d.ID...)
	return append(b, d.Event.encode()...)
}

func decodeDead(b []byte) (d Dead, err error) {
	if len(b) < 3 {
		return d, errMalformed
	}
	d.Attempts = int(binary.BigEndian.Uint16(b))
	n, rest := int(b[2]), b[3:]
	if len(rest) < n+2 {
		return d, errMalformed
	}
	d.Reason, rest = trigger.Reason(rest[:n]), rest[n:]
	n, rest = int(binary.BigEndian.Uint16(rest)), rest[2:]
	if len(rest) < n || n > maxCause {
		return d, errMalformed
	}
	d.Cause, rest = string(rest[:n]), rest[n:]
	if len(rest) < 2 {
		return d, errMalformed
	}
	n, rest = int(binary.BigEndian.Uint16(rest)), rest[2:]
	if len(rest) < n {
		return d, errMalformed
	}
	d.ID = string(rest[:n])
	d.Event, err = decode(rest[n:])
	return d, err
}
