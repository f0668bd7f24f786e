// Package store is the fleet server's database: one bbolt file, mode 0600, with typed records. Large content (components
// and their encodings) lies in files beside it, see package content.
package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Format of the file. A server refuses a file of a newer format.
const Format = 1

// ErrNotFound is in the chain of an error about a record that isn't there.
var ErrNotFound = errors.New("not found")

var (
	bucketServer   = []byte("server")   // format, fleet, online keys
	bucketMetadata = []byte("metadata") // "<role>/<version, 8 bytes>" -> file
	bucketReleases = []byte("releases") // manifest digest, 32 bytes -> manifest
	bucketDevices  = []byte("devices")  // name -> Device
	bucketRules    = []byte("rules")    // sequence, 8 bytes -> Rule
	bucketOffers   = []byte("offers")   // offer id, 32 bytes -> Offer
	bucketData     = []byte("data")     // sequence, 8 bytes -> Uplink
	bucketSeen     = []byte("seen")     // device -> outbox; device, zero byte, hash of a topic (8 bytes) -> Stream

	buckets = [][]byte{bucketServer, bucketMetadata, bucketReleases, bucketDevices, bucketRules, bucketOffers, bucketData, bucketSeen}
)

// Store is the database. Safe for concurrent use.
type Store struct{ db *bbolt.DB }

// Open the database at path. A new one is made under another name and renamed when it is whole: bbolt's own first
// initialisation can be torn by a power cut.
func Open(path string) (*Store, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create database %s: %w", path, err)
		}
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open database %s: another fleet server has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s := &Store{db: db}
	if err := s.checkFormat(); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), db.Close())
	}
	return s, nil
}

func create(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(tmp, 0o600, &bbolt.Options{Timeout: 2 * time.Second})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketServer).Put([]byte("format"), []byte{Format})
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func (s *Store) checkFormat() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("no bucket %q: not a fleet server's database", name)
			}
		}
		if f := tx.Bucket(bucketServer).Get([]byte("format")); len(f) != 1 || f[0] > Format {
			return fmt.Errorf("format %v, this build reads up to %d", f, Format)
		}
		return nil
	})
}

// Close the database. Waits for transactions.
func (s *Store) Close() error { return s.db.Close() }

// Ping reads one record and so proves that the database answers.
func (s *Store) Ping() error { return s.checkFormat() }

// SyncDir makes a rename or a new file in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Server gives a value of the server itself: "fleet", "key/snapshot". Nil if it isn't there.
func (s *Store) Server(name string) (value []byte, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		value = clone(tx.Bucket(bucketServer).Get([]byte(name)))
		return nil
	})
	return value, err
}

// PutServer sets values of the server itself, in one transaction.
func (s *Store) PutServer(values map[string][]byte) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		for name, value := range values {
			if err := tx.Bucket(bucketServer).Put([]byte(name), value); err != nil {
				return err
			}
		}
		return nil
	})
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func putJSON(b *bbolt.Bucket, key []byte, v any) error {
	j, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, j)
}
