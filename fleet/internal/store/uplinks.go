package store

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
	"go.etcd.io/bbolt"
)

// Uplink is one message that a board sent up, with the server's number for it.
type Uplink struct {
	Sequence uint64      `json:"sequence"`
	Device   string      `json:"device"`
	Received time.Time   `json:"received"`
	Missing  uint64      `json:"missing,omitempty"` // messages of its topic before it that never came, and won't: a topic is sent in its order
	Data     wire.Uplink `json:"data"`
}

// outbox is what a device's messages are told apart by: with another one, ids and sequences start again.
type outbox struct {
	ID     uint64 `json:"id"`
	Topics int    `json:"topics"` // that have a stream
}

// Stream is how far the messages of one topic have come.
type Stream struct {
	Application string `json:"application"`
	Topic       string `json:"topic"`
	ID          uint64 `json:"id"`       // of the newest message
	Sequence    uint64 `json:"sequence"` // of the newest message
	Missing     uint64 `json:"missing"`  // messages before it that never came
}

// maxTopics of one device whose streams are remembered: more than a board gives sequences to.
const maxTopics = 10_000

// AddUplinks keeps what a device sent, in one transaction, but for what had come already; added says how many. The oldest messages go when
// there are more than limit.
func (s *Store) AddUplinks(device string, received time.Time, d wire.Data, limit int) (added int, err error) {
	err = s.db.Batch(func(tx *bbolt.Tx) error {
		added = 0
		b := tx.Bucket(bucketData)
		streams, err := openStreams(tx, device, d.Outbox)
		if err != nil {
			return err
		}
		for _, m := range d.Messages {
			missing, isNew, err := streams.next(m)
			if err != nil {
				return err
			}
			if !isNew {
				continue
			}
			n, err := b.NextSequence()
			if err != nil {
				return err
			}
			if err := putJSON(b, number(n), Uplink{Sequence: n, Device: device, Received: received, Missing: missing, Data: m}); err != nil {
				return err
			}
			if n > uint64(limit) {
				if err := b.Delete(number(n - uint64(limit))); err != nil {
					return err
				}
			}
			added++
		}
		return streams.save()
	})
	return added, err
}

// streams of one device, in one transaction.
type streams struct {
	bucket  *bbolt.Bucket
	device  string
	outbox  outbox
	changed map[string]*Stream // by key
}

func openStreams(tx *bbolt.Tx, device string, id uint64) (*streams, error) {
	s := &streams{bucket: tx.Bucket(bucketSeen), device: device, changed: map[string]*Stream{}}
	if json.Unmarshal(s.bucket.Get([]byte(device)), &s.outbox) == nil && s.outbox.ID == id {
		return s, nil
	}
	// The board was set up anew, or has never sent anything.
	s.outbox = outbox{ID: id}
	return s, s.each(func(key []byte, _ Stream) error { return s.bucket.Delete(key) })
}

func (s *streams) prefix() string { return s.device + "\x00" }

// each stream that is stored.
func (s *streams) each(do func(key []byte, st Stream) error) error {
	var keys [][]byte
	var all []Stream
	c := s.bucket.Cursor()
	for k, v := c.Seek([]byte(s.prefix())); k != nil && strings.HasPrefix(string(k), s.prefix()); k, v = c.Next() {
		var st Stream
		if err := json.Unmarshal(v, &st); err != nil {
			return fmt.Errorf("read stream %q: %w", k, err)
		}
		keys, all = append(keys, clone(k)), append(all, st)
	}
	for i, k := range keys {
		if err := do(k, all[i]); err != nil {
			return err
		}
	}
	return nil
}

// next takes a message into its stream. isNew is false for one that has come already.
func (s *streams) next(m wire.Uplink) (missing uint64, isNew bool, err error) {
	sum := sha256.Sum256([]byte(m.Application + "\x00" + m.Topic))
	key := s.prefix() + string(sum[:8])
	st := s.changed[key]
	if st == nil {
		st = &Stream{Application: m.Application, Topic: m.Topic}
		if v := s.bucket.Get([]byte(key)); v == nil {
			s.outbox.Topics++
		} else if err := json.Unmarshal(v, st); err != nil {
			return 0, false, fmt.Errorf("read stream of %s %s: %w", m.Application, m.Topic, err)
		}
		s.changed[key] = st
	}
	if m.ID <= st.ID {
		return 0, false, nil
	}
	if m.Sequence > st.Sequence+1 {
		missing = m.Sequence - st.Sequence - 1
	}
	st.Missing += missing
	st.ID = m.ID
	if m.Sequence != 0 {
		st.Sequence = m.Sequence // a lower one: the board had forgotten the topic, and counts anew
	}
	return missing, true, nil
}

// save what has changed, and forget the topics that were used longest ago when there are too many.
func (s *streams) save() error {
	for key, st := range s.changed {
		if err := putJSON(s.bucket, []byte(key), st); err != nil {
			return err
		}
	}
	if s.outbox.Topics > maxTopics {
		var ids []uint64
		if err := s.each(func(_ []byte, st Stream) error { ids = append(ids, st.ID); return nil }); err != nil {
			return err
		}
		slices.Sort(ids)
		oldest := ids[len(ids)/2]
		s.outbox.Topics = 0
		err := s.each(func(key []byte, st Stream) error {
			if st.ID < oldest {
				return s.bucket.Delete(key)
			}
			s.outbox.Topics++
			return nil
		})
		if err != nil {
			return err
		}
	}
	return putJSON(s.bucket, []byte(s.device), s.outbox)
}

// Streams gives the topics of one device, those with messages that never came first, then by name.
func (s *Store) Streams(device string) (list []Stream, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		st := &streams{bucket: tx.Bucket(bucketSeen), device: device}
		return st.each(func(_ []byte, one Stream) error { list = append(list, one); return nil })
	})
	slices.SortFunc(list, func(a, b Stream) int {
		return cmp.Or(cmp.Compare(b.Missing, a.Missing), cmp.Compare(a.Application, b.Application), cmp.Compare(a.Topic, b.Topic))
	})
	return list, err
}

// Uplinks gives up to n messages after a sequence number, oldest first; of one device if it is named.
func (s *Store) Uplinks(after uint64, n int, device string) (list []Uplink, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketData).Cursor()
		for k, v := c.Seek(number(after + 1)); k != nil && len(list) < n; k, v = c.Next() {
			var u Uplink
			if err := json.Unmarshal(v, &u); err != nil {
				return fmt.Errorf("read uplink %x: %w", k, err)
			}
			if device == "" || device == u.Device {
				list = append(list, u)
			}
		}
		return nil
	})
	return list, err
}
