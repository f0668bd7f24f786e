package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// Rows of the data bucket. One bucket for all, because each one more is a page more in every commit:
//
//	'k' len(application) application len(store) store key   keyvalue data; lengths are one byte
//	'o' id                                                   outbox to the board's own bus; 8 bytes, big endian
//	'u' lane id                                              outbox to the fleet and to deferred hosts; 8 bytes each, big endian
//	's' topic                                                how far the sequence of a topic to the fleet has come; 8 bytes
//	'r' key                                                  records
//
// A row's value is the CRC-32C of key and value (4 bytes, little endian), then the value.
const (
	kindValue  = 'k'
	kindOutbox = 'o'
	kindUplink = 'u'
	kindStream = 's'
	kindRecord = 'r'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func seal(key, value []byte) []byte {
	out := make([]byte, 4, 4+len(value))
	binary.LittleEndian.PutUint32(out, sum(key, value))
	return append(out, value...)
}

// unseal gives the value inside row, without copying it.
func unseal(key, row []byte) ([]byte, error) {
	if len(row) < 4 {
		return nil, fmt.Errorf("%w: row %q is cut short", ErrDamaged, key)
	}
	if binary.LittleEndian.Uint32(row) != sum(key, row[4:]) {
		return nil, fmt.Errorf("%w: row %q does not match its checksum", ErrDamaged, key)
	}
	return row[4:], nil
}

func valuePrefix(application, store string) []byte {
	k := make([]byte, 0, 3+len(application)+len(store)+64)
	k = append(k, kindValue, byte(len(application)))
	k = append(k, application...)
	k = append(k, byte(len(store)))
	return append(k, store...)
}

func parseValueKey(k []byte) (application, store, key string, err error) {
	rest := k
	name := func() string {
		if err != nil || len(rest) == 0 || int(rest[0]) == 0 || len(rest) < 1+int(rest[0]) {
			err = fmt.Errorf("%w: keyvalue row %q has a malformed key", ErrDamaged, k)
			return ""
		}
		n := 1 + int(rest[0])
		s := string(rest[1:n])
		rest = rest[n:]
		return s
	}
	if len(k) == 0 || k[0] != kindValue {
		return "", "", "", fmt.Errorf("%w: %q is no keyvalue row", ErrDamaged, k)
	}
	rest = rest[1:]
	application, store = name(), name()
	if err == nil && len(rest) == 0 {
		err = fmt.Errorf("%w: keyvalue row %q has an empty key", ErrDamaged, k)
	}
	if err != nil {
		return "", "", "", err
	}
	return application, store, string(rest), nil
}

func outboxKey(id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindOutbox}, id)
}

// Flags of a message, beside its qos in the lowest two bits.
const (
	flagRetain = 1 << (iota + 2)
	flagAt
	flagBoot
	flagSequence
)

// encodeMessage: flags in a byte, the application's length in one, application, the topic's length in two (big endian), topic; then, each
// if its flag says so, the time (milliseconds since 1970 in eight bytes, and its quality in one), the boot's id (16) and the
// milliseconds since it (8), the sequence (8); payload.
func encodeMessage(m Message) []byte {
	out := make([]byte, 0, messageSize(m))
	flags := m.QoS
	if m.Retain {
		flags |= flagRetain
	}
	if !m.At.IsZero() {
		flags |= flagAt
	}
	if m.Boot != [16]byte{} {
		flags |= flagBoot
	}
	if m.Sequence != 0 {
		flags |= flagSequence
	}
	out = append(out, flags, byte(len(m.Application)))
	out = append(out, m.Application...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(m.Topic)))
	out = append(out, m.Topic...)
	if flags&flagAt != 0 {
		out = append(binary.BigEndian.AppendUint64(out, uint64(m.At.UnixMilli())), m.Clock)
	}
	if flags&flagBoot != 0 {
		out = binary.BigEndian.AppendUint64(append(out, m.Boot[:]...), uint64(m.Up.Milliseconds()))
	}
	if flags&flagSequence != 0 {
		out = binary.BigEndian.AppendUint64(out, m.Sequence)
	}
	return append(out, m.Payload...)
}

// messageSize is at least what encodeMessage needs.
func messageSize(m Message) int {
	return 4 + 9 + 24 + 8 + len(m.Application) + len(m.Topic) + len(m.Payload)
}

// uplinkSize is at least what a message to the fleet takes as a row.
func uplinkSize(m Message) int64 { return int64(uplinkKeySize + 4 + messageSize(m)) }

func outboxID(key []byte) (uint64, error) {
	if len(key) != 9 || key[0] != kindOutbox {
		return 0, fmt.Errorf("%w: outbox row %q has a malformed key", ErrDamaged, key)
	}
	return binary.BigEndian.Uint64(key[1:]), nil
}

func decodeMessage(id uint64, value []byte) (Message, error) {
	bad := func(what string) (Message, error) {
		return Message{}, fmt.Errorf("%w: outbox message %d is %s", ErrDamaged, id, what)
	}
	m := Message{ID: id}
	if len(value) < 2 || value[0] >= 2*flagSequence || value[0]&3 == 3 {
		return bad("malformed")
	}
	flags := value[0]
	m.QoS, m.Retain = flags&3, flags&flagRetain != 0
	rest := value[2:]
	cut := func(n int) (b []byte, ok bool) {
		if ok = len(rest) >= n; ok {
			b, rest = rest[:n], rest[n:]
		}
		return b, ok
	}
	name, ok := cut(int(value[1]))
	size, ok2 := cut(2)
	if !ok || !ok2 {
		return bad("cut short")
	}
	topic, ok := cut(int(binary.BigEndian.Uint16(size)))
	if !ok {
		return bad("cut short")
	}
	m.Application, m.Topic = string(name), string(topic)
	if flags&flagAt != 0 {
		b, ok := cut(9)
		if !ok {
			return bad("cut short")
		}
		if m.At, m.Clock = time.UnixMilli(int64(binary.BigEndian.Uint64(b))), b[8]; m.At.IsZero() {
			return bad("malformed")
		}
	}
	if flags&flagBoot != 0 {
		b, ok := cut(24)
		if !ok {
			return bad("cut short")
		}
		ms := binary.BigEndian.Uint64(b[16:])
		if m.Boot, m.Up = [16]byte(b), time.Duration(ms)*time.Millisecond; m.Boot == [16]byte{} || ms > maxUp {
			return bad("malformed")
		}
	}
	if flags&flagSequence != 0 {
		b, ok := cut(8)
		if !ok {
			return bad("cut short")
		}
		if m.Sequence = binary.BigEndian.Uint64(b); m.Sequence == 0 {
			return bad("malformed")
		}
	}
	m.Payload = append([]byte{}, rest...)
	return m, nil
}

// maxUp is the longest time since a boot that a Duration holds, in milliseconds.
const maxUp = uint64(math.MaxInt64 / int64(time.Millisecond))
