package store

import (
	"fmt"
	"strings"
)

// With changes a record of the board's own in the transaction, whatever its application; nil deletes. once: the change says
// that the event takes effect, and where the record is there already, or is gone already, Commit gives ErrDone and nothing
// happens.
func (t *Tx) With(key string, value []byte, once bool) error {
	if err := checkRecord(key, value); err != nil {
		return err
	}
	k := string(recordKey(key))
	if err := t.grow(len(k) + len(value)); err != nil {
		return err
	}
	t.writes[k] = value
	if once {
		t.once = append(t.once, k)
	}
	return nil
}

// Take a message out of the outbox in the transaction, which is the event that the message has become. Where it has left the
// outbox already, Commit gives ErrDone and nothing happens.
func (t *Tx) Take(id uint64) { t.taken = append(t.taken, id) }

// checkFirst that the event has not taken effect before.
func (t *Tx) checkFirst(rows table) error {
	for _, k := range t.once {
		if there, wanted := rows.get([]byte(k)) != nil, t.writes[k] != nil; there == wanted {
			return ErrDone
		}
	}
	for _, id := range t.taken {
		if rows.get(outboxKey(id)) == nil {
			return ErrDone
		}
	}
	return nil
}

func checkRecord(key string, value []byte) error {
	area, name, ok := strings.Cut(key, "/")
	if !ok || area == "" || name == "" || len(key) > MaxKey {
		return fmt.Errorf("put record %q: a key is area/name, at most %d bytes", key, MaxKey)
	}
	if len(value) > MaxRecord {
		return fmt.Errorf("put record %q: %w: %d bytes, at most %d", key, ErrTooLarge, len(value), MaxRecord)
	}
	return nil
}

// Record is one of Scan's.
type Record struct {
	Key   string
	Value []byte
}

// Scan gives up to n records whose keys begin with prefix and are above after ("" from the start), in order.
func (s *Store) Scan(prefix, after string, n int) (records []Record, err error) {
	from := []byte(nil)
	if after != "" {
		from = recordKey(after)
	}
	err = s.read(func(t table) error {
		return t.scan(recordKey(prefix), from, func(k, row []byte) (bool, error) {
			if len(records) == n {
				return false, nil
			}
			v, err := unseal(k, row)
			records = append(records, Record{string(k[1:]), append([]byte{}, v...)})
			return true, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("scan records %q: %w", prefix, err)
	}
	return records, nil
}
