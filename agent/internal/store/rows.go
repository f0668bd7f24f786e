package store

import (
	"bytes"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// row of the data bucket as it lies on the disk: sealed. A nil value says that the row is gone.
type row struct {
	key   string
	value []byte
}

func byKey(r row, key string) int { return strings.Compare(r.key, key) }

// overlay is what the database doesn't have yet: changes over changes, the newest on top. It never changes, so whoever holds one
// has a moment of the store in hand. nil is nothing.
type overlay struct {
	rows  []row // by key
	under *overlay
}

// push rows, sorted by key, on top of o. Layers of about one size become one, so there are never more than a few.
func (o *overlay) push(rows []row) *overlay {
	for o != nil && len(o.rows) <= 2*len(rows) {
		rows = mergeRows(rows, o.rows)
		o = o.under
	}
	return &overlay{rows, o}
}

// all rows as one layer.
func (o *overlay) all() (rows []row) {
	for ; o != nil; o = o.under {
		rows = mergeRows(rows, o.rows)
	}
	return rows
}

func (o *overlay) find(key []byte) (value []byte, found bool) {
	for ; o != nil; o = o.under {
		if i, ok := slices.BinarySearchFunc(o.rows, string(key), byKey); ok {
			return o.rows[i].value, true
		}
	}
	return nil, false
}

// mergeRows of two layers; of two rows with one key, upper's stays.
func mergeRows(upper, lower []row) []row {
	out := make([]row, 0, len(upper)+len(lower))
	for len(upper) > 0 && len(lower) > 0 {
		c := strings.Compare(upper[0].key, lower[0].key)
		if c > 0 {
			out, lower = append(out, lower[0]), lower[1:]
			continue
		}
		out, upper = append(out, upper[0]), upper[1:]
		if c == 0 {
			lower = lower[1:]
		}
	}
	return append(append(out, upper...), lower...)
}

// table is the data bucket at one moment: what the database has, under what it doesn't have yet. Nothing else in this package reads
// the bucket.
type table struct {
	bucket *bolt.Bucket
	over   *overlay
}

func tableOf(tx *bolt.Tx, over *overlay) (table, error) {
	b := tx.Bucket(bucketData)
	if b == nil {
		return table{}, damaged("bucket %q is missing", bucketData)
	}
	return table{b, over}, nil
}

// read calls f with the table as it is now, once.
func (s *Store) read(f func(table) error) error {
	for {
		over, moved := s.over.Load(), false
		err := s.view(func(tx *bolt.Tx) error {
			// A fold in between would leave rows in neither: the transaction is from before it, and the overlay from after.
			if moved = s.over.Load() != over; moved {
				return nil
			}
			t, err := tableOf(tx, over)
			if err != nil {
				return err
			}
			return f(t)
		})
		if !moved {
			return err
		}
	}
}

// get a row, or nil. It is the caller's only while the table is.
func (t table) get(key []byte) []byte {
	if row, ok := t.over.find(key); ok {
		return row
	}
	return t.bucket.Get(key)
}

// value of a row, copied out.
func (t table) value(key []byte, limit int) ([]byte, bool, error) {
	row := t.get(key)
	if row == nil {
		return nil, false, nil
	}
	if len(row) > limit+4 {
		return nil, false, damaged("row %q of %d bytes", key, len(row))
	}
	v, err := unseal(key, row)
	if err != nil {
		return nil, false, err
	}
	return append([]byte{}, v...), true, nil
}

// scan calls f for each row whose key begins with prefix and is above after (nil: from the start), in order, until f says stop.
// Rows are f's only while it runs.
func (t table) scan(prefix, after []byte, f func(key, row []byte) (more bool, err error)) error {
	from := prefix
	if bytes.Compare(after, prefix) > 0 {
		from = append(bytes.Clone(after), 0) // the key that follows
	}
	var layers [][]row // newest first, each from where the scan is
	for o := t.over; o != nil; o = o.under {
		i, _ := slices.BinarySearchFunc(o.rows, string(from), byKey)
		n := 0
		for n < len(o.rows)-i && strings.HasPrefix(o.rows[i+n].key, string(prefix)) {
			n++
		}
		layers = append(layers, o.rows[i:i+n])
	}
	c := t.bucket.Cursor()
	k, v := c.Seek(from)
	for {
		if !bytes.HasPrefix(k, prefix) {
			k = nil
		}
		var top row // of the layers
		found := false
		for _, l := range slices.Backward(layers) { // of equal keys the newest wins
			if len(l) > 0 && (!found || l[0].key <= top.key) {
				top, found = l[0], true
			}
		}
		if k == nil && !found {
			return nil
		}
		if k != nil && (!found || string(k) < top.key) {
			if more, err := f(k, v); err != nil || !more {
				return err
			}
			k, v = c.Next()
			continue
		}
		for i, l := range layers {
			if len(l) > 0 && l[0].key == top.key {
				layers[i] = l[1:]
			}
		}
		if k != nil && string(k) == top.key {
			k, v = c.Next()
		}
		if top.value != nil {
			if more, err := f([]byte(top.key), top.value); err != nil || !more {
				return err
			}
		}
	}
}
