package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A group is what one bbolt commit takes from the queue. bbolt holds it in memory twice until it is written.
const (
	maxGroup      = 4096     // jobs
	maxGroupBytes = 16 << 20 // of keys and values; one job may be larger than what is left
	// deliveredDelay bounds how long rows of delivered messages stay when no other commit comes along to share.
	deliveredDelay = 5 * time.Second
)

// job is one caller's share of a group. check runs before its writes, in the same bbolt transaction, after the writes of
// the jobs before it; an error from it leaves out this job alone.
type job struct {
	check    func(*bolt.Tx) error
	writes   map[string][]byte // by row key; nil deletes
	messages []Message
	taken    []uint64 // messages of the outbox that this event was made of, and that leave it with it
	size     int
	quota    *quota // nil: none

	inGroup   bool // under Store.mu, like withdrawn
	withdrawn bool
	done      chan struct{}
	err       error
}

// do queues j and waits for its end.
func (s *Store) do(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j.done = make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.queue = append(s.queue, j)
	for k := range j.writes {
		s.pending[k] = append(s.pending[k], j)
	}
	s.mu.Unlock()
	s.signal()
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	if !j.inGroup {
		j.withdrawn = true
		s.unpend(j)
		s.mu.Unlock()
		return ctx.Err()
	}
	s.mu.Unlock()
	<-j.done
	return j.err
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// unpend takes j's writes out of what others read. Those that have read them fail their own check, because what they read
// isn't there. s.mu is held.
func (s *Store) unpend(j *job) {
	for k := range j.writes {
		left := slices.DeleteFunc(s.pending[k], func(o *job) bool { return o == j })
		if len(left) == 0 {
			delete(s.pending, k)
		} else {
			s.pending[k] = left
		}
	}
}

// finish gives j its result.
func (s *Store) finish(j *job, err error) {
	s.mu.Lock()
	s.unpend(j)
	s.mu.Unlock()
	j.err = err
	close(j.done)
}

// latest value of a row: that of the newest job that waits to be written, else the one on the disk. Events that follow one
// another on a key need not wait for each other's fsync that way.
func (s *Store) latest(key []byte) ([]byte, bool, error) {
	s.mu.Lock()
	if p := s.pending[string(key)]; len(p) > 0 {
		v := p[len(p)-1].writes[string(key)]
		s.mu.Unlock()
		return append([]byte{}, v...), v != nil, nil
	}
	s.mu.Unlock()
	var value []byte
	var ok bool
	err := s.view(func(tx *bolt.Tx) (err error) { value, ok, err = getRow(tx, key, MaxValue); return err })
	return value, ok, err
}

// pendingIn: the rows with prefix above after that waiting jobs write (true) or delete (false).
func (s *Store) pendingIn(prefix, after []byte) map[string]bool {
	out := map[string]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range s.pending {
		if strings.HasPrefix(k, string(prefix)) && k > string(after) {
			out[k] = p[len(p)-1].writes[k] != nil
		}
	}
	return out
}

// settle waits for the jobs that write what t read: t may have seen them, on their way or already in the mapped file, which
// shows a commit before its last fsync has ended.
func (s *Store) settle(ctx context.Context, t *Tx) error {
	s.mu.Lock()
	wait := map[*job]struct{}{}
	for k, p := range s.pending {
		if t.touches(k) {
			for _, j := range p {
				wait[j] = struct{}{}
			}
		}
	}
	s.mu.Unlock()
	for j := range wait {
		select {
		case <-j.done: // a withdrawn one never is, but its caller's ctx and ours end apart: see take
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// run is the committer. One goroutine drains what waits into one bbolt transaction, again and again.
func (s *Store) run() {
	defer close(s.stopped)
	delay := time.NewTimer(0)
	if !delay.Stop() {
		<-delay.C
	}
	defer delay.Stop()
	armed := false
	for {
		closing, flush := false, false
		select {
		case <-s.wake:
		case <-delay.C:
			armed, flush = false, true
		case <-s.quit:
			closing, flush = true, true
		}
		for {
			group, delivered := s.take()
			if len(group) == 0 && (!flush || len(delivered) == 0) {
				if len(delivered) > 0 && !armed {
					delay.Reset(deliveredDelay)
					armed = true
				}
				break
			}
			s.write(group, delivered)
			flush = false
		}
		if closing {
			return
		}
	}
}

// take the jobs of the next group off the queue, and the delivered rows to remove with them.
func (s *Store) take() (group []*job, delivered []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes, n := 0, 0
	for _, j := range s.queue {
		if len(group) == maxGroup || len(group) > 0 && bytes+j.size > maxGroupBytes {
			break
		}
		n++
		if j.withdrawn {
			close(j.done) // its caller has gone; readers that saw it wait for this
			continue
		}
		j.inGroup = true
		bytes += j.size
		group = append(group, j)
	}
	s.queue = slices.Delete(s.queue, 0, n)
	return group, slices.Sorted(maps.Keys(s.delivered))
}

// write a group in one bbolt transaction. A job whose check fails is left out. One that fails while it writes has left
// something behind, so the others are done again without it. A failed commit fails them all.
func (s *Store) write(group []*job, delivered []uint64) {
	tidy := true
	for {
		tx, err := s.begin()
		if err != nil {
			for _, j := range group {
				s.finish(j, err)
			}
			return
		}
		g := &grouping{s: s, tx: tx, outbox: s.outboxBytes.Load(), refused: map[*job]error{}, usage: usage{}}
		if culprit, err := g.apply(group); err != nil {
			_ = tx.Rollback()
			s.finish(culprit, s.wrap(err))
			group = slices.DeleteFunc(group, func(j *job) bool { return j == culprit })
			continue
		}
		if tidy {
			if err := guard(func() error { return g.tidy(delivered) }); err != nil {
				_ = tx.Rollback()
				s.log.Error("tidy outbox", "error", s.wrap(err)) // no job is to blame: go on without
				tidy = false
				continue
			}
		}
		for j, err := range g.refused {
			s.finish(j, s.wrap(err))
		}
		if len(g.accepted) == 0 && (len(delivered) == 0 || !tidy) {
			_ = tx.Rollback()
			return
		}
		err = s.commit(tx)
		if err == nil {
			s.committed(g)
			if tidy {
				s.forget(delivered)
			}
		} else if len(g.accepted) == 0 {
			s.log.Error("remove delivered messages", "error", err)
		}
		for _, j := range g.accepted {
			s.finish(j, err)
		}
		return
	}
}

// committed takes over the facts of a group that is on the disk, and tells who waits for messages.
func (s *Store) committed(g *grouping) {
	s.outboxBytes.Store(g.outbox)
	s.dropped.Add(g.dropped)
	s.mu.Lock()
	s.usage.add(g.usage)
	s.mu.Unlock()
	if g.last == 0 {
		return
	}
	s.durable.Store(g.last)
	select {
	case s.notify <- struct{}{}:
	default:
	}
}

// grouping is one attempt at a group.
type grouping struct {
	s        *Store
	tx       *bolt.Tx
	accepted []*job
	refused  map[*job]error
	usage    usage  // that the accepted add
	outbox   int64  // bytes in the outbox
	last     uint64 // newest outbox id
	dropped  uint64
}

func (g *grouping) apply(group []*job) (culprit *job, err error) {
	for _, j := range group {
		if j.check != nil {
			if err := guard(func() error { return j.check(g.tx) }); err != nil {
				g.refused[j] = err
				continue
			}
		}
		if err := guard(func() error { return g.accept(j) }); err != nil {
			g.refused[j] = err
			continue
		}
		if err := guard(func() error { return g.write(j) }); err != nil {
			return j, err
		}
		g.accepted = append(g.accepted, j)
	}
	return nil, nil
}

func (g *grouping) write(j *job) error {
	b := g.tx.Bucket(bucketData)
	if b == nil {
		return damaged("bucket %q is missing", bucketData)
	}
	for _, k := range slices.Sorted(maps.Keys(j.writes)) { // sorted: bbolt walks each leaf once
		key, value := []byte(k), j.writes[k]
		var err error
		if value == nil {
			err = b.Delete(key)
		} else {
			err = b.Put(key, seal(key, value))
		}
		if err != nil {
			return fmt.Errorf("write row %q: %w", k, err)
		}
	}
	if err := g.remove(j.taken); err != nil {
		return err
	}
	for _, m := range j.messages {
		id, err := b.NextSequence()
		if err != nil {
			return fmt.Errorf("number message to %q: %w", m.Topic, err)
		}
		key := outboxKey(id)
		row := seal(key, encodeMessage(m))
		if err := b.Put(key, row); err != nil {
			return fmt.Errorf("write message to %q: %w", m.Topic, err)
		}
		g.outbox += int64(len(row))
		g.last = id
	}
	return nil
}

func (g *grouping) remove(delivered []uint64) error {
	b := g.tx.Bucket(bucketData)
	for _, id := range delivered {
		key := outboxKey(id)
		g.outbox -= int64(len(b.Get(key)))
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes delivered messages, and drops the oldest while the outbox is over its limit.
func (g *grouping) tidy(delivered []uint64) error {
	if err := g.remove(delivered); err != nil {
		return err
	}
	if g.outbox <= g.s.outboxLimit {
		return nil
	}
	var drop []uint64
	left := g.outbox
	err := scan(g.tx, []byte{kindOutbox}, nil, func(k, row []byte) (bool, error) {
		id, err := outboxID(k)
		drop = append(drop, id)
		left -= int64(len(row))
		return left > g.s.outboxLimit, err
	})
	if err != nil {
		return err
	}
	g.dropped += uint64(len(drop))
	return g.remove(drop)
}
