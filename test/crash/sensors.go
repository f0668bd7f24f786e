package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	window  = 8   // readings of one sensor that wait for their acknowledgement
	failing = 5   // one in so many multiples of 97 is published: each holds up its topic for two seconds
	maxDead = 500 // of at most two letters each; the board keeps 1000
)

// sensors publish numbered readings; no number is used twice.
type sensors struct {
	mu    sync.Mutex
	next  uint64
	acks  int
	want  books
	due   waiter
	last  bool // no new readings
	ended sync.WaitGroup
	errs  []error
}

// waiter is told when acks are reached.
type waiter struct {
	acks int
	done chan struct{}
}

// startSensors that wait for pace before each reading.
func startSensors(ctx context.Context, addr string, pace time.Duration) *sensors {
	s := &sensors{want: books{dead: map[uint64]int{}}}
	for i := range 2 {
		for _, one := range []*sensor{
			{id: fmt.Sprintf("twice%d", i), topic: fmt.Sprintf("in/%d", i), qos: 2, format: "%d", handlers: 1 + i},
			{id: fmt.Sprintf("once%d", i), topic: fmt.Sprintf("id/%d", i), qos: 1, format: `{"id":%[1]d,"n":%[1]d}`, handlers: 1},
		} {
			one.addr, one.pace, one.all = addr, pace, s
			s.ended.Go(func() { one.run(ctx) })
		}
	}
	return s
}

// take a number, unless it is over. Only so many fail as the board keeps dead letters of.
func (s *sensors) take() (n uint64, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last {
		return 0, false
	}
	s.next++
	if n := s.next / 97; s.next%97 == 0 && (n > maxDead*failing || n%failing != 0) {
		s.next++
	}
	return s.next, true
}

// acknowledge reading n, which so many triggers handle.
func (s *sensors) acknowledge(n uint64, handlers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acks++
	if n%97 == 0 {
		s.want.dead[n] = handlers
	} else {
		s.want.count += uint64(handlers)
		s.want.sum += n * uint64(handlers)
	}
	if s.due.done != nil && s.acks >= s.due.acks {
		close(s.due.done)
		s.due.done = nil
	}
}

func (s *sensors) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

func (s *sensors) acknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acks
}

// after gives a channel that is closed after n more acknowledgements, of the newest call.
func (s *sensors) after(n int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := make(chan struct{})
	s.due = waiter{s.acks + n + 1, done}
	return done
}

// finish lets the sensors come to their end, with every reading acknowledged.
func (s *sensors) finish(ctx context.Context) (books, error) {
	s.mu.Lock()
	s.last = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.ended.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		return books{}, errors.New("a reading was not acknowledged in a minute")
	case <-ctx.Done():
		return books{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want, errors.Join(s.errs...)
}
