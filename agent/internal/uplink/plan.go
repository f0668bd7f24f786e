package uplink

import (
	"cmp"
	"slices"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
)

// rank of a lane: what is sent before what. High priorities go first, live or not; then what is live, so that nothing of the present
// waits behind a month of history; then history. Within a topic the order holds, whatever its rank: its own history goes before it.
func rank(p store.Priority, live bool) int {
	switch {
	case p == store.High && live:
		return 0
	case p == store.High:
		return 1
	case live && p == store.Normal:
		return 2
	case live:
		return 3
	case p == store.Normal:
		return 4
	}
	return 5
}

// turn is a lane that has something to send.
type turn struct {
	lane  uint64
	rank  int
	after uint64 // sent up to here
	paced bool   // it is history that goes at the link's rate
}

// turns of lanes that have something to send, in their order: by rank, then by age. sent is how far each was sent; what is at most mark was
// published before the present session.
func turns(lanes []store.Lane, sent map[uint64]uint64, mark uint64) []turn {
	var out []turn
	for _, l := range lanes {
		after := max(sent[l.ID], l.First-1)
		if l.Last > after {
			live := after >= mark
			out = append(out, turn{l.ID, rank(l.Priority, live), after, !live && l.Priority != store.High})
		}
	}
	slices.SortFunc(out, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.after, b.after), cmp.Compare(a.lane, b.lane))
	})
	return out
}

// side is the first turns of one rank, and those behind them.
func side(turns []turn) (same, rest []turn) {
	n := 1
	for n < len(turns) && turns[n].rank == turns[0].rank {
		n++
	}
	return turns[:n], turns[n:]
}

// bucket paces history. All that is sent takes from it, what is live without asking, so history makes room for it.
type bucket struct {
	rate   float64 // bytes a second; 0: without limit
	tokens float64
	at     time.Time
}

func newBucket(rate int64, now time.Time) *bucket {
	return &bucket{rate: float64(rate), tokens: float64(rate), at: now}
}

// open says whether history may go now, and if not, how long it has to wait.
func (b *bucket) open(now time.Time) (wait time.Duration, ok bool) {
	if b.rate == 0 {
		return 0, true
	}
	b.tokens = min(b.rate, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.tokens > 0 {
		return 0, true
	}
	return time.Duration((1 - b.tokens) / b.rate * float64(time.Second)), false
}

// take bytes that are sent.
func (b *bucket) take(bytes int) { b.tokens -= float64(bytes) }
