package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
)

// Tx is one event's transaction over one application's keyvalue data and the outbox. It holds all writes in memory until
// Commit; its reads see them. What it read is compared with what is there when it commits, so transactions are
// serialisable. A transaction that is never committed leaves nothing and needs no end. Not safe for concurrent use.
//
// An application's data outlives its versions: it is kept under the application's name.
type Tx struct {
	s           *Store
	application string
	writes      map[string][]byte // by row key; nil deletes
	reads       map[string]digest // what was there at the first read
	lists       []listed
	messages    []Message
	uplinks     []Message // to the fleet and to deferred hosts
	once        []string  // rows that must not be as they are written
	taken       []uint64  // messages that must be in the outbox still, and leave it
	quota       *quota    // nil: none
	stamp       func() Stamp
	durability  Durability
	after       *job      // the commit that this one follows; nil: none
	placed      func(any) // told of this one's place; nil: nobody
	size        int
	conflict    bool
	over        bool
}

// digest of a value, or the zero digest where there is none.
type digest [sha256.Size]byte

func digestOf(value []byte, ok bool) digest {
	if !ok {
		return digest{}
	}
	return sha256.Sum256(value)
}

// listed: the keys in (after, upto] with prefix, at the time; upto nil is the end.
type listed struct {
	prefix, after, upto []byte
	keys                digest
}

// Begin an event's transaction for one application.
func (s *Store) Begin(application string) *Tx {
	return &Tx{s: s, application: application, writes: map[string][]byte{}, reads: map[string]digest{}}
}

// row key of a key in one of the application's stores.
func (t *Tx) row(store, key string) ([]byte, error) {
	prefix, err := t.prefix(store)
	if err != nil {
		return nil, err
	}
	if key == "" || len(key) > MaxKey {
		return nil, fmt.Errorf("key of %d bytes, want 1 to %d", len(key), MaxKey)
	}
	return append(prefix, key...), nil
}

func (t *Tx) prefix(store string) ([]byte, error) {
	if t.over {
		return nil, errors.New("the transaction is over")
	}
	if t.application == "" || len(t.application) > MaxName {
		return nil, fmt.Errorf("application name of %d bytes, want 1 to %d", len(t.application), MaxName)
	}
	if store == "" || len(store) > MaxName {
		return nil, fmt.Errorf("store name of %d bytes, want 1 to %d", len(store), MaxName)
	}
	return valuePrefix(t.application, store), nil
}

// Get a value; it is the caller's own. ErrConflict when the key was read before and has changed since: the transaction is
// lost, and Commit says so too.
func (t *Tx) Get(store, key string) (value []byte, ok bool, err error) {
	k, err := t.row(store, key)
	if err != nil {
		return nil, false, fmt.Errorf("get: %w", err)
	}
	if v, mine := t.writes[string(k)]; mine {
		return bytes.Clone(v), v != nil, nil
	}
	value, ok, err = t.s.latest(k)
	if err != nil {
		return nil, false, fmt.Errorf("get %q from %q: %w", key, store, err)
	}
	d := digestOf(value, ok)
	if before, again := t.reads[string(k)]; again && before != d {
		t.conflict = true
		return nil, false, fmt.Errorf("get %q from %q: %w", key, store, ErrConflict)
	}
	t.reads[string(k)] = d
	return value, ok, nil
}

// Set a value of at most MaxValue bytes; the store keeps a copy.
func (t *Tx) Set(store, key string, value []byte) error {
	k, err := t.row(store, key)
	if err != nil {
		return fmt.Errorf("set: %w", err)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("set %q in %q: %w: value of %d bytes, at most %d", key, store, ErrTooLarge, len(value), MaxValue)
	}
	if err := t.write(k, append([]byte{}, value...)); err != nil {
		return fmt.Errorf("set %q in %q: %w", key, store, err)
	}
	return nil
}

// Delete a key; one that isn't there is no error.
func (t *Tx) Delete(store, key string) error {
	k, err := t.row(store, key)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := t.write(k, nil); err != nil {
		return fmt.Errorf("delete %q from %q: %w", key, store, err)
	}
	return nil
}

func (t *Tx) write(k, value []byte) error {
	grow := len(k) + len(value)
	if old, mine := t.writes[string(k)]; mine {
		grow = len(value) - len(old)
	}
	if err := t.grow(grow); err != nil {
		return err
	}
	if err := t.admit(k, value); err != nil {
		t.size -= grow
		return err
	}
	t.writes[string(k)] = value
	return nil
}

func (t *Tx) grow(n int) error {
	if t.size+n > MaxTx {
		return fmt.Errorf("%w: the event would write %d bytes in all, at most %d", ErrTxTooLarge, t.size+n, MaxTx)
	}
	t.size += n
	return nil
}

// Keys of a store in order, strictly after `after` ("" from the start), at most limit (0 or less: all).
func (t *Tx) Keys(store, after string, limit int) (keys []string, err error) {
	prefix, err := t.prefix(store)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var from []byte
	if after != "" {
		from = append(bytes.Clone(prefix), after...)
	}
	theirs := t.s.pendingIn(prefix, from)
	h := newKeyHash()
	var upto []byte
	visit := func(k []byte, there bool) (more bool) {
		if there {
			h.add(k)
		}
		if v, mine := t.writes[string(k)]; mine {
			there = v != nil
		}
		if there {
			keys = append(keys, string(k[len(prefix):]))
		}
		if limit > 0 && len(keys) >= limit {
			upto = bytes.Clone(k)
			return false
		}
		return true
	}
	// Rows on the disk, merged with the keys that only this transaction or a waiting one writes.
	extra := t.extraKeys(prefix, from, theirs)
	more := true
	err = t.s.read(func(rows table) error {
		return rows.scan(prefix, from, func(k, _ []byte) (bool, error) {
			for more && len(extra) > 0 && extra[0] < string(k) {
				more = visit([]byte(extra[0]), theirs[extra[0]])
				extra = extra[1:]
			}
			if !more {
				return false, nil
			}
			there, waiting := theirs[string(k)]
			if len(extra) > 0 && extra[0] == string(k) {
				extra = extra[1:]
			}
			more = visit(k, there || !waiting)
			return more, nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list keys of %q: %w", store, err)
	}
	for more && len(extra) > 0 {
		more = visit([]byte(extra[0]), theirs[extra[0]])
		extra = extra[1:]
	}
	t.lists = append(t.lists, listed{prefix, from, upto, h.sum()})
	return keys, nil
}

func (t *Tx) extraKeys(prefix, from []byte, theirs map[string]bool) []string {
	all := map[string]bool{}
	for k := range theirs {
		all[k] = true
	}
	for k := range t.writes {
		if strings.HasPrefix(k, string(prefix)) && k > string(from) {
			all[k] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Writes reports whether there is anything to commit.
func (t *Tx) Writes() bool {
	return len(t.writes) > 0 || len(t.messages) > 0 || len(t.uplinks) > 0 || len(t.taken) > 0
}

// Commit everything or nothing; returns when it is durable, if Durable says nothing else. Commits of many events share one fsync, and one that is alone
// waits for nobody. ErrConflict: run the event again. When ctx ends before the commit was taken up, it is withdrawn and the
// error is ctx's; after that it goes to its end. Any other error means that it is not known to be on the disk.
//
// A transaction that only read costs no write: it waits for the commits under way that it may have seen, and checks that
// all it read was there together.
func (t *Tx) Commit(ctx context.Context) error {
	if t.over {
		return errors.New("commit: the transaction is over")
	}
	t.over = true
	if t.conflict {
		return fmt.Errorf("commit: %w", ErrConflict)
	}
	var err error
	switch {
	case t.Writes():
		err = t.s.do(ctx, &job{check: t.check, writes: t.writes, messages: t.messages, uplinks: t.uplinks, taken: t.taken, size: t.size, quota: t.quota, durability: t.durability, after: t.after, placed: t.placed})
	default:
		err = t.settle(ctx)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Stale reports whether something that the transaction read has changed since. A handler that failed on stale data may
// have seen two moments at once: run it again before holding the failure against it.
func (t *Tx) Stale() (bool, error) {
	if t.conflict {
		return true, nil
	}
	err := t.s.read(t.check)
	if errors.Is(err, ErrConflict) {
		return true, nil
	}
	return false, err
}

// check that what was read is what is in rows.
func (t *Tx) check(rows table) error {
	if err := t.checkFirst(rows); err != nil {
		return err
	}
	for k, want := range t.reads {
		v, ok, err := rows.value([]byte(k), MaxValue)
		if err != nil {
			return err
		}
		if digestOf(v, ok) != want {
			return ErrConflict
		}
	}
	for _, l := range t.lists {
		h := newKeyHash()
		err := rows.scan(l.prefix, l.after, func(k, _ []byte) (bool, error) {
			if l.upto != nil && bytes.Compare(k, l.upto) > 0 {
				return false, nil
			}
			h.add(k)
			return true, nil
		})
		if err != nil {
			return err
		}
		if h.sum() != l.keys {
			return ErrConflict
		}
	}
	return nil
}

// touches reports whether key is one that the transaction read or listed.
func (t *Tx) touches(key string) bool {
	if _, ok := t.reads[key]; ok {
		return true
	}
	return slices.ContainsFunc(t.lists, func(l listed) bool {
		return strings.HasPrefix(key, string(l.prefix)) && key > string(l.after) && (l.upto == nil || key <= string(l.upto))
	})
}

type keyHash struct{ h hash.Hash }

func newKeyHash() keyHash { return keyHash{sha256.New()} }

func (h keyHash) add(k []byte) {
	h.h.Write([]byte{byte(len(k) >> 8), byte(len(k))})
	h.h.Write(k)
}

func (h keyHash) sum() (d digest) {
	h.h.Sum(d[:0])
	return d
}

// deleteBatch is how many rows go in one transaction: events of others are committed between.
const deleteBatch = 4096

// DeleteApplication removes the keyvalue data of an application that was uninstalled for good. Interrupted, it is begun again.
func (s *Store) DeleteApplication(application string) error {
	if application == "" || len(application) > MaxName {
		return fmt.Errorf("delete data of application: name of %d bytes, want 1 to %d", len(application), MaxName)
	}
	prefix := append([]byte{kindValue, byte(len(application))}, application...)
	for last := []byte(nil); ; {
		j := &job{}
		from := last
		j.check = func(rows table) error {
			j.writes, last = map[string][]byte{}, from
			return rows.scan(prefix, from, func(k, _ []byte) (bool, error) {
				last = bytes.Clone(k)
				j.writes[string(k)] = nil
				return len(j.writes) < deleteBatch, nil
			})
		}
		if err := s.do(context.Background(), j); err != nil {
			return fmt.Errorf("delete data of application %q: %w", application, err)
		}
		if len(j.writes) < deleteBatch {
			return nil
		}
	}
}
