package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// Rows of the data bucket. One bucket for all three, because each one more is a page more in every commit:
//
//	'k' len(application) application len(store) store key   keyvalue data; lengths are one byte
//	'o' id                                                   outbox; 8 bytes, big endian
//	'r' key                                                  records
//
// A row's value is the CRC-32C of key and value (4 bytes, little endian), then the value.
const (
	kindValue  = 'k'
	kindOutbox = 'o'
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

// encodeMessage: qos (2 bits), retain (bit 2) and whether there is a time (bit 3) in a byte, the application's length in one,
// application, the topic's length in two (big endian), topic, the time if there is one (milliseconds since 1970 in eight bytes, and
// its quality in one), payload.
func encodeMessage(m Message) []byte {
	out := make([]byte, 0, 4+len(m.Application)+len(m.Topic)+len(m.Payload))
	flags := m.QoS
	if m.Retain {
		flags |= 4
	}
	if !m.At.IsZero() {
		flags |= 8
	}
	out = append(out, flags, byte(len(m.Application)))
	out = append(out, m.Application...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(m.Topic)))
	out = append(out, m.Topic...)
	if !m.At.IsZero() {
		out = append(binary.BigEndian.AppendUint64(out, uint64(m.At.UnixMilli())), m.Clock)
	}
	return append(out, m.Payload...)
}

func outboxID(key []byte) (uint64, error) {
	if len(key) != 9 || key[0] != kindOutbox {
		return 0, fmt.Errorf("%w: outbox row %q has a malformed key", ErrDamaged, key)
	}
	return binary.BigEndian.Uint64(key[1:]), nil
}

func decodeMessage(key, value []byte) (Message, error) {
	id, err := outboxID(key)
	if err != nil {
		return Message{}, err
	}
	m := Message{ID: id}
	if len(value) < 2 || value[0] > 15 || value[0]&3 == 3 {
		return Message{}, fmt.Errorf("%w: outbox message %d is malformed", ErrDamaged, m.ID)
	}
	m.QoS, m.Retain = value[0]&3, value[0]&4 != 0
	n, rest := int(value[1]), value[2:]
	if len(rest) < n+2 {
		return Message{}, fmt.Errorf("%w: outbox message %d is cut short", ErrDamaged, m.ID)
	}
	m.Application, rest = string(rest[:n]), rest[n:]
	n, rest = int(binary.BigEndian.Uint16(rest)), rest[2:]
	if len(rest) < n {
		return Message{}, fmt.Errorf("%w: outbox message %d is cut short", ErrDamaged, m.ID)
	}
	m.Topic, rest = string(rest[:n]), rest[n:]
	if value[0]&8 != 0 {
		if len(rest) < 9 {
			return Message{}, fmt.Errorf("%w: outbox message %d is cut short", ErrDamaged, m.ID)
		}
		m.At, m.Clock, rest = time.UnixMilli(int64(binary.BigEndian.Uint64(rest))), rest[8], rest[9:]
		if m.At.IsZero() {
			return Message{}, fmt.Errorf("%w: outbox message %d is malformed", ErrDamaged, m.ID)
		}
	}
	m.Payload = append([]byte{}, rest...)
	return m, nil
}
