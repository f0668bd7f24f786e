package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

func recordKey(key string) []byte { return append([]byte{kindRecord}, key...) }

// Get a record. Keys are "area/name": "trust/state", "install/greenhouse". value is the caller's own.
func (s *Store) Get(key string) (value []byte, ok bool, err error) {
	err = s.read(func(t table) error { value, ok, err = t.value(recordKey(key), MaxRecord); return err })
	if err != nil {
		return nil, false, fmt.Errorf("read record %q: %w", key, err)
	}
	return value, ok, nil
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
	err = s.read(func(t table) error {
		return t.scan(recordKey(prefix), nil, func(k, row []byte) (bool, error) {
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
