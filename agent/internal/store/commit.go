package store

import (
	"context"
	"slices"
	"strings"
)

// A group is what one sync takes from the queue.
const (
	maxGroup      = 4096     // jobs
	maxGroupBytes = 16 << 20 // of keys and values; one job may be larger than what is left
)

// job is one caller's share of a group. check runs before its writes, and sees those of the jobs before it; an error from it
// leaves out this job alone. The committer may read what check left in writes.
type job struct {
	check      func(table) error
	writes     map[string][]byte // by row key; nil deletes
	messages   []Message
	uplinks    []Message // that go to the fleet or to deferred hosts
	taken      []uint64  // messages of the outbox that this event was made of, and that leave it with it
	size       int
	quota      *quota                // nil: none
	with       func(*grouping) error // changes what waits for the fleet; nil: nothing
	durability Durability
	after      *job      // it must have been accepted before; nil: none
	placed     func(any) // called when the job is in the queue; nil: nobody asks
	accepted   bool      // it is written, or will be with the group on its way; the committer's own

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
	s.hurry(j)
	s.mu.Unlock()
	if j.placed != nil {
		j.placed(j)
	}
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

// latest value of a row: that of the newest job that waits to be written, else the one in the table. Events that follow one
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
	err := s.read(func(t table) (err error) { value, ok, err = t.value(key, MaxValue); return err })
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
