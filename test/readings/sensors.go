// Package readings is what proofs of exactly-once share: sensors that publish numbered readings, the books of what was
// acknowledged to them, and the books of the board that handled them with the ledger of test/guests.
package readings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	window  = 8   // readings of one sensor that wait for their acknowledgement
	failing = 5   // one in so many multiples of 97 is published, and four times fewer after the tenth: each holds up its topic for two seconds
	maxDead = 500 // of at most two letters each; the board keeps 1000
)

// Sensors publish numbered readings; no number is used twice.
type Sensors struct {
	mu    sync.Mutex
	next  uint64
	acks  int
	want  Books
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

// Start sensors, which run until Finish or ctx's end.
func Start(ctx context.Context, way Way, sensors ...*Sensor) *Sensors {
	s := &Sensors{want: Books{Dead: map[uint64]int{}, Up: map[uint64]int{}}}
	way.Silent = cmp.Or(way.Silent, time.Minute)
	for _, one := range sensors {
		one.way, one.all = way, s
		s.ended.Go(func() { one.run(ctx) })
	}
	return s
}

// take a number, unless it is over. Only so many fail as the board keeps dead letters of.
func (s *Sensors) take() (n uint64, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last {
		return 0, false
	}
	s.next++
	if n := s.next / 97; s.next%97 == 0 && (n%failing != 0 || n > 10*failing && n%(4*failing) != 0 || n > maxDead*failing) {
		s.next++
	}
	return s.next, true
}

// acknowledge reading n of a sensor.
func (s *Sensors) acknowledge(n uint64, by *Sensor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acks++
	if n%97 == 0 {
		s.want.Dead[n] = by.Handlers
	} else {
		s.want.Count += uint64(by.Handlers)
		s.want.Sum += n * uint64(by.Handlers)
		if strings.HasPrefix(by.Topic, "up/") {
			s.want.Up[n] = by.Handlers
		}
	}
	s.want.AuditCount, s.want.AuditSum = s.want.Count, s.want.Sum
	if s.due.done != nil && s.acks >= s.due.acks {
		close(s.due.done)
		s.due.done = nil
	}
}

func (s *Sensors) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

// Acknowledged counts the readings that are.
func (s *Sensors) Acknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acks
}

// After gives a channel that is closed after n more acknowledgements, of the newest call.
func (s *Sensors) After(n int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := make(chan struct{})
	s.due = waiter{s.acks + n + 1, done}
	return done
}

// Finish lets the sensors come to their end, with every reading acknowledged within patience, and gives what the board owes.
func (s *Sensors) Finish(ctx context.Context, patience time.Duration) (Books, error) {
	s.mu.Lock()
	s.last = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.ended.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		return Books{}, fmt.Errorf("a reading was not acknowledged in %s", patience)
	case <-ctx.Done():
		return Books{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want, errors.Join(s.errs...)
}
