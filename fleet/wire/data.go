package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Data is a batch of messages that handlers published on "uplink:<topic>", on ChannelData; those of a topic in their order. On the wire:
// "DD", version (2), outbox (8, big endian), then one message after the other. A message is flags (1), then id, sequence, time and
// up, as uvarints; the boot (16) unless its flag says that it is the one before's; application's length (1) and bytes, topic's
// length (2, big endian) and bytes, unless their flag says so; payload's length (uvarint) and bytes. Flags: clock quality in bits 0
// and 1 (0 synced, 1 estimated, 2 unsynced), 4 historical, 8 boot and 16 application and topic as before.
type Data struct {
	Outbox   uint64 // drawn with the board's store: ids and sequences start again with another
	Messages []Uplink
}

// Uplink is one message to the fleet.
type Uplink struct {
	ID          uint64       `json:"id"`       // from 1, grows for an outbox over its life; the fleet drops repeats by (device, outbox, topic, ID)
	Sequence    uint64       `json:"sequence"` // of its application's topic, from 1; what is left out was lost on the board; 0: not counted
	At          int64        `json:"at"`       // Unix milliseconds by the board's clock
	Clock       ClockQuality `json:"clock"`
	Historical  bool         `json:"historical,omitempty"` // published before the link's session
	Boot        BootID       `json:"boot"`                 // of the board, when it was published
	Up          int64        `json:"up"`                   // milliseconds since that boot
	Application string       `json:"application"`
	Topic       string       `json:"topic"` // without "uplink:"
	Payload     []byte       `json:"payload"`
}

// BootID is a kernel's boot id; zero where a board has none. Its text is the kernel's own, or "".
type BootID [16]byte

// MarshalText implements encoding.TextMarshaler.
func (b BootID) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b BootID) String() string {
	if b == (BootID{}) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *BootID) UnmarshalText(text []byte) error {
	*b = BootID{}
	if len(text) == 0 {
		return nil
	}
	id, err := hex.DecodeString(strings.ReplaceAll(string(text), "-", ""))
	if err != nil || len(id) != len(b) {
		return fmt.Errorf("boot id %.50q: want a UUID", text)
	}
	copy(b[:], id)
	return nil
}

const (
	dataMagic0, dataMagic1 = 'D', 'D'
	dataVersion            = 2
	dataHeaderBytes        = 11

	dataHistorical = 4
	dataSameBoot   = 8
	dataSameTopic  = 16

	// uplinkBytes is the most that a message takes beside its application, topic and payload.
	uplinkBytes = 1 + 3*binary.MaxVarintLen64 + 9 + 16 + 1 + 2 + 3
)

// clocks are ClockQuality's numbers on the wire. Append only.
var clocks = []ClockQuality{ClockSynced, ClockEstimated, ClockUnsynced}

const (
	// MaxDataPayload is the most that fits beside the longest names.
	MaxDataPayload = MaxMessageBytes - dataHeaderBytes - uplinkBytes - MaxNameBytes - MaxTopicBytes
	// MaxDataBytes is what the messages of one Data may take together, each as Bytes says.
	MaxDataBytes = MaxMessageBytes - dataHeaderBytes
)

// Bytes that u takes in a Data at the most.
func (u Uplink) Bytes() int { return uplinkBytes + len(u.Application) + len(u.Topic) + len(u.Payload) }

// MarshalData gives the bytes of d.
func MarshalData(d Data) ([]byte, error) {
	if len(d.Messages) == 0 {
		return nil, errors.New("encode data: it has no messages")
	}
	b := binary.BigEndian.AppendUint64([]byte{dataMagic0, dataMagic1, dataVersion}, d.Outbox)
	before := Uplink{}
	for i, u := range d.Messages {
		flags, err := u.check()
		if err != nil {
			return nil, fmt.Errorf("encode data: %w", err)
		}
		b = u.append(b, flags, before, i == 0)
		before = u
	}
	if len(b) > MaxMessageBytes {
		return nil, fmt.Errorf("encode data: %d bytes, limit is %d", len(b), MaxMessageBytes)
	}
	return b, nil
}

func (u Uplink) append(b []byte, flags byte, before Uplink, first bool) []byte {
	if !first && u.Boot == before.Boot {
		flags |= dataSameBoot
	}
	if !first && u.Application == before.Application && u.Topic == before.Topic {
		flags |= dataSameTopic
	}
	b = append(b, flags)
	for _, n := range []uint64{u.ID, u.Sequence, uint64(u.At), uint64(u.Up)} {
		b = binary.AppendUvarint(b, n)
	}
	if flags&dataSameBoot == 0 {
		b = append(b, u.Boot[:]...)
	}
	if flags&dataSameTopic == 0 {
		b = append(append(b, byte(len(u.Application))), u.Application...)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(u.Topic))), u.Topic...)
	}
	return append(binary.AppendUvarint(b, uint64(len(u.Payload))), u.Payload...)
}

// UnmarshalData is the inverse of MarshalData. Payloads point into b.
func UnmarshalData(b []byte) (Data, error) {
	bad := func(format string, args ...any) (Data, error) {
		return Data{}, fmt.Errorf("decode data: %w", fmt.Errorf(format, args...))
	}
	if len(b) < dataHeaderBytes || len(b) > MaxMessageBytes || b[0] != dataMagic0 || b[1] != dataMagic1 {
		return bad("%d bytes that don't start as data", len(b))
	}
	if b[2] != dataVersion {
		return bad("version %d, this build reads %d: %w", b[2], dataVersion, ErrVersion)
	}
	d := Data{Outbox: binary.BigEndian.Uint64(b[3:])}
	r := reader{rest: b[dataHeaderBytes:]}
	before := Uplink{}
	for len(r.rest) > 0 {
		u := r.uplink(before, len(d.Messages) == 0)
		if r.short {
			return bad("%d bytes are too short", len(b))
		}
		if _, err := u.check(); err != nil {
			return bad("%w", err)
		}
		d.Messages, before = append(d.Messages, u), u
	}
	again, err := MarshalData(d)
	if err != nil {
		return Data{}, err
	}
	if !bytes.Equal(again, b) { // a number in more bytes than it needs, a name repeated, unknown flags
		return bad("%w", ErrCanonical)
	}
	return d, nil
}

// reader cuts values off a message; short once there was less than it wanted.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.short, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.short, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uplink(before Uplink, first bool) (u Uplink) {
	flags := r.byte()
	if flags&3 < byte(len(clocks)) {
		u.Clock = clocks[flags&3]
	}
	u.Historical = flags&dataHistorical != 0
	u.ID, u.Sequence, u.At, u.Up = r.number(), r.number(), int64(r.number()), int64(r.number())
	if flags&dataSameBoot != 0 && !first {
		u.Boot = before.Boot
	} else {
		copy(u.Boot[:], r.bytes(uint64(len(u.Boot))))
	}
	if flags&dataSameTopic != 0 && !first {
		u.Application, u.Topic = before.Application, before.Topic
	} else {
		u.Application = string(r.bytes(uint64(r.byte())))
		if n := r.bytes(2); n != nil {
			u.Topic = string(r.bytes(uint64(binary.BigEndian.Uint16(n))))
		}
	}
	u.Payload = r.bytes(r.number())
	return u
}

// Check says whether u can be sent.
func (u Uplink) Check() error {
	_, err := u.check()
	return err
}

func (u Uplink) check() (flags byte, err error) {
	if err := first(CheckName("application", u.Application), CheckTopic(u.Topic)); err != nil {
		return 0, err
	}
	if len(u.Payload) > MaxDataPayload {
		return 0, fmt.Errorf("payload of %d bytes, limit is %d", len(u.Payload), MaxDataPayload)
	}
	if u.ID == 0 || u.Up < 0 {
		return 0, fmt.Errorf("id %d, %d ms after the boot: want an id from 1, and no time before a boot", u.ID, u.Up)
	}
	if u.Historical {
		flags = dataHistorical
	}
	for i, c := range clocks {
		if c == u.Clock {
			return flags | byte(i), nil
		}
	}
	return 0, fmt.Errorf("unknown clock quality %q", u.Clock)
}
