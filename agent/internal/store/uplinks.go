package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"time"
)

// Stamp is when something was published, as well as the board knew.
type Stamp struct {
	At    time.Time     // by the wall clock, in milliseconds; zero: nobody said
	Clock byte          // how good At is, in the board's own terms; 0 is sure
	Boot  [16]byte      // the kernel's boot id; zero: nobody said
	Up    time.Duration // since that boot, in milliseconds
}

// Since is the time that has passed from then to s; not ok where the board can't know. A wall clock that is not sure may be months off.
func (s Stamp) Since(then Stamp) (d time.Duration, ok bool) {
	switch {
	case s.Boot == then.Boot && s.Boot != [16]byte{}:
		return s.Up - then.Up, true
	case s.Clock == 0 && then.Clock == 0 && !s.At.IsZero() && !then.At.IsZero():
		return s.At.Sub(then.At), true
	}
	return 0, false
}

// UplinkStats are facts about what waits for the fleet and for deferred hosts.
type UplinkStats struct {
	Messages int
	Bytes    int64
	Dropped  map[string]uint64 // since Open, by why
}

// UplinkStats as of the last commit.
func (s *Store) UplinkStats() UplinkStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := UplinkStats{Bytes: s.lanes.bytes, Dropped: maps.Clone(s.uplinkDrops)}
	for _, l := range s.lanes.all {
		st.Messages += l.Messages
	}
	return st
}

// OutboxID is drawn with each new database: ids and sequences of messages start again with it.
func (s *Store) OutboxID() uint64 {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("outbox"), s.mark.salt))
	return binary.BigEndian.Uint64(sum[:])
}

// Newest is the newest id of a message that is on the disk.
func (s *Store) Newest() uint64 { return s.durable.Load() }

// Lanes that something waits in, in no order.
func (s *Store) Lanes() []Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Lane, 0, len(s.lanes.all))
	for _, l := range s.lanes.all {
		if l.Last > s.cuts[l.ID] {
			out = append(out, *l)
		}
	}
	return out
}

// Uplinks gives messages of a lane with an id above after, oldest first, up to n of them and about as many bytes: only such as are on the
// disk. upto is how far it has read: a damaged message is logged and left out.
func (s *Store) Uplinks(lane, after uint64, n int, bytes int64) (messages []Message, upto uint64, err error) {
	s.mu.Lock()
	upto = max(after, s.cuts[lane])
	s.mu.Unlock()
	newest := s.durable.Load()
	err = s.read(func(t table) error {
		return t.scan(lanePrefix(lane), uplinkKey(lane, upto), func(k, row []byte) (bool, error) {
			_, id, err := parseUplinkKey(k)
			if err != nil || id > newest || len(messages) >= n || len(messages) > 0 && bytes < int64(len(row)) {
				return false, err
			}
			upto = id
			m, err := readUplink(k, row)
			if err != nil {
				s.log.Error("a message to the fleet is damaged and left out", "id", id, "error", s.wrap(err))
				return true, nil
			}
			bytes -= int64(len(row))
			messages = append(messages, m)
			return true, nil
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read outbox to the fleet: %w", err)
	}
	return messages, upto, nil
}

// DeliveredUplinks removes the messages of lanes up to an id each, as Delivered does.
func (s *Store) DeliveredUplinks(upto map[uint64]uint64) error {
	if err := s.usable(); err != nil {
		return fmt.Errorf("remove delivered messages: %w", err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("remove delivered messages: %w", ErrClosed)
	}
	for lane, id := range upto {
		s.cuts[lane] = max(s.cuts[lane], id)
	}
	s.mu.Unlock()
	s.signal()
	return nil
}

// ExpireUplinks drops what is too old now.
func (s *Store) ExpireUplinks(now Stamp) error {
	err := s.do(context.Background(), &job{with: func(g *grouping) error { return g.expire(now) }})
	if err != nil {
		return fmt.Errorf("drop old messages: %w", err)
	}
	return nil
}

// RefusedUplink counts a message as dropped whose receiver takes it neither now nor later. DeliveredUplinks removes it.
func (s *Store) RefusedUplink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uplinkDrops[DroppedRefused]++
}

// ShedOutbox drops messages of a lower priority than below, the lowest first and of each the oldest first, until as many bytes of rows
// are gone; what a rule forbids to drop stays. freed is what there was, and is room in the database when it returns, if that can be written.
func (s *Store) ShedOutbox(below Priority, bytes int64) (freed int64, err error) {
	err = s.do(context.Background(), &job{with: func(g *grouping) error {
		freed, err = g.shed(bytes, DroppedDisk, func(l *Lane) bool { return l.Priority < below && !l.class.Reject })
		g.fold = g.fold || freed > 0
		return err
	}})
	if err != nil {
		return 0, fmt.Errorf("drop messages to the fleet: %w", err)
	}
	return freed, nil
}
