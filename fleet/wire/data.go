package wire

import (
	"encoding/binary"
	"fmt"
)

// Data is one message that a handler published on "uplink:<topic>", on ChannelData. On the wire, big endian: "DD",
// version (1), clock quality (0 synced, 1 estimated, 2 unsynced), id (8), time (8), application's length (1) and
// bytes, topic's length (2) and bytes, payload.
type Data struct {
	ID          uint64 // grows for a board over its life; the fleet drops repeats by (device, ID)
	At          int64  // Unix milliseconds by the board's clock
	Clock       ClockQuality
	Application string
	Topic       string // without "uplink:"
	Payload     []byte
}

const (
	dataMagic0, dataMagic1 = 'D', 'D'
	dataVersion            = 1
	dataHeaderBytes        = 20
)

// clocks are ClockQuality's numbers on the wire. Append only.
var clocks = []ClockQuality{ClockSynced, ClockEstimated, ClockUnsynced}

// MaxDataPayload is the most that fits beside the longest names.
const MaxDataPayload = MaxMessageBytes - dataHeaderBytes - 3 - MaxNameBytes - MaxTopicBytes

// MarshalData gives the bytes of d.
func MarshalData(d Data) ([]byte, error) {
	clock, err := d.check()
	if err != nil {
		return nil, fmt.Errorf("encode data: %w", err)
	}
	b := []byte{dataMagic0, dataMagic1, dataVersion, clock}
	b = binary.BigEndian.AppendUint64(b, d.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(d.At))
	b = append(append(b, byte(len(d.Application))), d.Application...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(d.Topic))), d.Topic...)
	return append(b, d.Payload...), nil
}

// UnmarshalData is the inverse of MarshalData. Payload points into b.
func UnmarshalData(b []byte) (Data, error) {
	bad := func(format string, args ...any) (Data, error) {
		return Data{}, fmt.Errorf("decode data: %w", fmt.Errorf(format, args...))
	}
	if len(b) < dataHeaderBytes+3 || b[0] != dataMagic0 || b[1] != dataMagic1 {
		return bad("%d bytes that don't start as data", len(b))
	}
	if b[2] != dataVersion {
		return bad("version %d, this build reads %d: %w", b[2], dataVersion, ErrVersion)
	}
	if int(b[3]) >= len(clocks) {
		return bad("unknown clock quality %d", b[3])
	}
	d := Data{Clock: clocks[b[3]], ID: binary.BigEndian.Uint64(b[4:]), At: int64(binary.BigEndian.Uint64(b[12:]))}
	rest := b[dataHeaderBytes:]
	n := int(rest[0])
	if len(rest) < 1+n+2 {
		return bad("%d bytes are too short", len(b))
	}
	d.Application, rest = string(rest[1:1+n]), rest[1+n:]
	n = int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+n {
		return bad("%d bytes are too short", len(b))
	}
	d.Topic, d.Payload = string(rest[2:2+n]), rest[2+n:]
	if _, err := d.check(); err != nil {
		return bad("%w", err)
	}
	return d, nil
}

func (d Data) check() (clock byte, err error) {
	if err := first(CheckName("application", d.Application), CheckTopic(d.Topic)); err != nil {
		return 0, err
	}
	if len(d.Payload) > MaxDataPayload {
		return 0, fmt.Errorf("payload of %d bytes, limit is %d", len(d.Payload), MaxDataPayload)
	}
	for i, c := range clocks {
		if c == d.Clock {
			return byte(i), nil
		}
	}
	return 0, fmt.Errorf("unknown clock quality %q", d.Clock)
}
