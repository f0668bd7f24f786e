package store

import (
	"encoding/json"
	"fmt"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
	"go.etcd.io/bbolt"
)

// Device is all that the server knows of one board but whether it is online now.
type Device struct {
	Name       string            `json:"name"`
	FirstSeen  time.Time         `json:"first_seen"`
	LastSeen   time.Time         `json:"last_seen"`
	Hello      wire.Hello        `json:"hello"` // newest
	Reported   *wire.Reported    `json:"reported,omitempty"`
	Generation uint64            `json:"generation"` // of Envelope; 0 before the first assignment
	Assigned   map[string]Choice `json:"assigned,omitempty"`
	Envelope   []byte            `json:"envelope,omitempty"` // signed desired state, as published
}

// Choice is the release of one application that a device should run, and the rule that said so. Without a version it should run none:
// older rules, which would have it run one, don't count any more.
type Choice struct {
	wire.Pointer
	Rule uint64 `json:"rule"`
}

// Rule assigns a release to every device that its selector matches, now or later.
type Rule struct {
	Sequence uint64         `json:"sequence"` // the newest matching rule of an application wins
	At       time.Time      `json:"at"`
	Selector model.Selector `json:"selector"`
	Release  wire.Pointer   `json:"release"`
}

// Devices gives all devices.
func (s *Store) Devices() (list []Device, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketDevices).ForEach(func(k, v []byte) error {
			var d Device
			if err := json.Unmarshal(v, &d); err != nil {
				return fmt.Errorf("read device %q: %w", k, err)
			}
			list = append(list, d)
			return nil
		})
	})
	return list, err
}

// PutDevices writes devices, in one transaction.
func (s *Store) PutDevices(list ...Device) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return putDevices(tx, list) })
}

func putDevices(tx *bbolt.Tx, list []Device) error {
	for _, d := range list {
		if err := putJSON(tx.Bucket(bucketDevices), []byte(d.Name), d); err != nil {
			return err
		}
	}
	return nil
}

// PutRule writes a rule, the devices that it changed, and deletes the rules that it made pointless, in one transaction.
func (s *Store) PutRule(r Rule, changed []Device, drop []uint64) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if err := putDevices(tx, changed); err != nil {
			return err
		}
		for _, n := range drop {
			if err := tx.Bucket(bucketRules).Delete(number(n)); err != nil {
				return err
			}
		}
		return putJSON(tx.Bucket(bucketRules), number(r.Sequence), r)
	})
}

// Rules gives all rules, oldest first.
func (s *Store) Rules() (list []Rule, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketRules).ForEach(func(k, v []byte) error {
			var r Rule
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("read rule %x: %w", k, err)
			}
			list = append(list, r)
			return nil
		})
	})
	return list, err
}

// Offer is how an offer's encoding is found again after a restart.
type Offer struct {
	Kind       wire.EncodingKind `json:"kind"`
	Target     wire.Digest       `json:"target"`
	Base       wire.Digest       `json:"base"`
	BlockBytes int               `json:"block_bytes"`
}

// maxOffers bounds the bucket; ids are digests, so what is dropped is arbitrary, and asked for again at no great cost.
const maxOffers = 10_000

// PutOffer remembers an offer by its id.
func (s *Store) PutOffer(id wire.Digest, o Offer) error {
	return s.db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketOffers)
		if b.Get(id[:]) != nil {
			return nil
		}
		// The bucket's sequence counts its records.
		if n := b.Sequence(); n < maxOffers {
			if err := b.SetSequence(n + 1); err != nil {
				return err
			}
		} else if k, _ := b.Cursor().First(); k != nil {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return putJSON(b, id[:], o)
	})
}

// Offer gives an offer by its id.
func (s *Store) Offer(id wire.Digest) (o Offer, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketOffers).Get(id[:])
		if v == nil {
			return fmt.Errorf("offer %s: %w", id.Short(), ErrNotFound)
		}
		return json.Unmarshal(v, &o)
	})
	return o, err
}
