package runner

import (
	"math"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Counters of one runner. Durations are of handled events, from being taken to their end, waiting included; they are
// bucketed, so within 10 %.
type Counters struct {
	Handled   uint64
	Failed    uint64 // of any reason
	Reasons   map[trigger.Reason]uint64
	Conflicts uint64 // runs that were repeated
	Dropped   uint64 // log lines over the rate limit
	Active    int    // events that hold an instance
	Waiting   int    // events that wait for one
	P50, P99  time.Duration
}

// buckets grow by a fifth, from 1 us; the last one ends after an hour.
const (
	growth  = 1.2
	buckets = 125
)

// stats of events. The zero value is ready.
type stats struct {
	mu       sync.Mutex
	durs     [buckets]uint64
	handled  uint64
	reasons  map[trigger.Reason]uint64
	conflict uint64
}

func bucket(d time.Duration) int {
	us := float64(d) / float64(time.Microsecond)
	if us <= 1 {
		return 0
	}
	return min(int(math.Log(us)/math.Log(growth))+1, buckets-1)
}

// middle of a bucket.
func middle(i int) time.Duration {
	return time.Duration(math.Pow(growth, float64(i)-0.5) * float64(time.Microsecond))
}

func (s *stats) ended(err error, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.handled++
		s.durs[bucket(d)]++
		return
	}
	if r := trigger.ReasonOf(err); r == trigger.Repeated || r == trigger.Early {
		return // counted when it was handled, or will be
	}
	if s.reasons == nil {
		s.reasons = map[trigger.Reason]uint64{}
	}
	s.reasons[trigger.ReasonOf(err)]++
}

func (s *stats) conflicted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conflict++
}

func (s *stats) read() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Counters{Handled: s.handled, Conflicts: s.conflict, Reasons: map[trigger.Reason]uint64{}}
	for k, n := range s.reasons {
		c.Reasons[k] = n
		c.Failed += n
	}
	c.P50, c.P99 = s.quantile(0.50), s.quantile(0.99)
	return c
}

func (s *stats) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(s.handled)))
	var seen uint64
	for i, n := range s.durs {
		if seen += n; n > 0 && seen >= rank {
			return middle(i)
		}
	}
	return 0
}
