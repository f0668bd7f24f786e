// Package store is what survives a power cut: one bbolt file with typed records.
package store

// SKELETON: the exported API that others are being written against. The store's author replaces each panic.

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"
)

// Store is the board's database. Safe for concurrent use.
type Store struct{}

// Open the database in dir, made through a temporary file, fsync and rename. A damaged one is set aside under
// store.damaged-<time>.db, logged, named by Recovered, and a new one is started.
func Open(dir string, log *slog.Logger, now func() time.Time) (*Store, error) { panic("skeleton") }
func (s *Store) Close() error                                                 { panic("skeleton") }
func (s *Store) Recovered() string                                            { panic("skeleton") } // path of the damaged file, or ""
func (s *Store) Check(ctx context.Context) error                              { panic("skeleton") } // bbolt's and our own invariants

// Content by digest ("sha256:<hex>"): components, releases, and transfers that are under way.

// PutBlob stores what r gives when its size and SHA-256 are the ones named; else an error and nothing is kept.
func (s *Store) PutBlob(digest string, size int64, r io.Reader) error { panic("skeleton") }
func (s *Store) Blob(digest string) (data []byte, ok bool, err error) { panic("skeleton") }
func (s *Store) HasBlob(digest string) (bool, error)                  { panic("skeleton") }
func (s *Store) Blobs() (digests []string, err error)                 { panic("skeleton") }
func (s *Store) DeleteBlob(digest string) error                       { panic("skeleton") }

// Transfer is a fetch that was begun: which encoding, and the blocks so far. Meta is the owner's bytes (the offer).
type Transfer struct {
	Target string // digest of what is fetched
	Meta   []byte
	Have   []int // indices of stored blocks, ascending
}

func (s *Store) BeginTransfer(target string, meta []byte) error          { panic("skeleton") } // forgets an earlier one with other meta
func (s *Store) Transfer(target string) (t Transfer, ok bool, err error) { panic("skeleton") }
func (s *Store) PutBlocks(target string, blocks map[int][]byte) error    { panic("skeleton") } // one commit
func (s *Store) TransferReader(target string, blocks int) (io.ReadCloser, error) {
	panic("skeleton")
}
func (s *Store) EndTransfer(target string) error { panic("skeleton") }
func (s *Store) Transfers() ([]string, error)    { panic("skeleton") }

// Records: small values of other packages, committed together. Keys are "area/name": "trust/state", "install/greenhouse".
func (s *Store) Get(key string) (value []byte, ok bool, err error)      { panic("skeleton") }
func (s *Store) Put(changes map[string][]byte) error                    { panic("skeleton") } // nil value deletes; one transaction
func (s *Store) List(prefix string) (values map[string][]byte, e error) { panic("skeleton") }

// ErrConflict: something that the transaction read has changed since; run the event again.
var ErrConflict = errors.New("conflict with a concurrent event")

// Tx is one event's transaction over one application's keyvalue data and the outbox. It holds all writes in memory until
// Commit. Not safe for concurrent use.
type Tx struct{}

func (s *Store) Begin(application string) *Tx                                { panic("skeleton") }
func (t *Tx) Get(store, key string) (value []byte, ok bool, err error)       { panic("skeleton") }
func (t *Tx) Set(store, key string, value []byte) error                      { panic("skeleton") }
func (t *Tx) Delete(store, key string) error                                 { panic("skeleton") }
func (t *Tx) Keys(store, after string, limit int) (keys []string, err error) { panic("skeleton") }

// Publish adds a message that leaves after the commit.
func (t *Tx) Publish(topic string, payload []byte, qos byte, retain bool) error { panic("skeleton") }

// Writes reports whether there is anything to commit.
func (t *Tx) Writes() bool { panic("skeleton") }

// Commit everything or nothing; returns when it is durable. Commits of many events share one fsync. A transaction that
// wrote nothing but read is not validated and costs nothing.
func (t *Tx) Commit(ctx context.Context) error { panic("skeleton") }

// Message in the outbox.
type Message struct {
	ID      uint64 // grows
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Outbox gives up to n messages with an ID above after, oldest first. Notify's channel receives after commits that add any.
func (s *Store) Outbox(after uint64, n int) ([]Message, error) { panic("skeleton") }
func (s *Store) Notify() <-chan struct{}                       { panic("skeleton") }

// Delivered removes messages; it shares a coming commit where it can.
func (s *Store) Delivered(ids ...uint64) error { panic("skeleton") }
