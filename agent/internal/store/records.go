package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

func recordKey(key string) []byte { return append([]byte{kindRecord}, key...) }

// scan calls f for each row of the data bucket whose key begins with prefix and is above after (nil: from the start), in
// order, until f says stop. Rows are f's only while it runs.
func scan(tx *bolt.Tx, prefix, after []byte, f func(key, row []byte) (more bool, err error)) error {
	c := tx.Bucket(bucketData).Cursor()
	if after == nil {
		after = prefix
	}
	for k, v := c.Seek(after); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if bytes.Equal(k, after) && len(after) > len(prefix) {
			continue
		}
		if more, err := f(k, v); err != nil || !more {
			return err
		}
	}
	return nil
}

// Get a record. Keys are "area/name": "trust/state", "install/greenhouse". value is the caller's own.
func (s *Store) Get(key string) (value []byte, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		value, ok, err = getRow(tx, recordKey(key), MaxRecord)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read record %q: %w", key, err)
	}
	return value, ok, nil
}

// getRow copies a row's value out.
func getRow(tx *bolt.Tx, key []byte, limit int) ([]byte, bool, error) {
	row := tx.Bucket(bucketData).Get(key)
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

// Put changes records in one transaction, all or none; a nil value deletes. It is durable when Put returns.
func (s *Store) Put(changes map[string][]byte) error {
	size := 0
	for key, value := range changes {
		if err := checkRecord(key, value); err != nil {
			return err
		}
		size += len(key) + len(value)
	}
	if len(changes) == 0 {
		return nil
	}
	writes := make(map[string][]byte, len(changes))
	for key, value := range changes {
		writes[string(recordKey(key))] = value
	}
	if err := s.do(context.Background(), &job{writes: writes, size: size}); err != nil {
		return fmt.Errorf("put records %q: %w", slices.Sorted(maps.Keys(changes)), err)
	}
	return nil
}

// List the records whose keys begin with prefix.
func (s *Store) List(prefix string) (values map[string][]byte, err error) {
	values = map[string][]byte{}
	err = s.view(func(tx *bolt.Tx) error {
		return scan(tx, recordKey(prefix), nil, func(k, row []byte) (bool, error) {
			v, err := unseal(k, row)
			values[string(k[1:])] = append([]byte{}, v...)
			return true, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list records %q: %w", prefix, err)
	}
	return values, nil
}
