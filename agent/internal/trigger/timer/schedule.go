package timer

import (
	"math"
	"time"
)

const (
	maxCatchUp = 100              // ticks fired at once for missed ones, and ticks that wait for their turn
	maxCount   = 100_000          // firings looked at in one gap; the rest are not counted
	onTime     = 10 * time.Second // a firing this late is not a missed one
	bigStep    = 3 * time.Hour    // a clock set by more is corrected, not late: cron daemons have drawn the line here
)

// schedule gives the next firing strictly after a time; zero: never again. It is an interval or a wire.Schedule.
type schedule interface {
	Next(after time.Time) time.Time
}

// interval fires every d from its anchor, on the anchor's monotonic clock.
type interval struct {
	anchor time.Time
	d      time.Duration
}

func (i interval) Next(after time.Time) time.Time {
	n := after.Sub(i.anchor) / i.d
	if after.Before(i.anchor) {
		n = -1
	}
	return i.anchor.Add((n + 1) * i.d)
}

// firing is one tick to be handled.
type firing struct {
	scheduled time.Time
	missed    uint32 // firings before it that nothing handled
}

// due decides what to fire at now, when all firings up to last are accounted for. skipped are those that were dropped
// since the last tick; what remains of them is returned.
func due(s schedule, last, now time.Time, policy Missed, skipped uint32) (fire []firing, left uint32) {
	var newest []time.Time
	n := 0
	for t := s.Next(last); !t.IsZero() && !t.After(now) && n < maxCount; t = s.Next(t) {
		n++
		if len(newest) == maxCatchUp {
			copy(newest, newest[1:])
			newest = newest[:maxCatchUp-1]
		}
		newest = append(newest, t)
	}
	if n == 0 {
		return nil, skipped
	}
	latest := newest[len(newest)-1]
	switch {
	case policy == MissedAll:
		for _, t := range newest {
			fire = append(fire, firing{scheduled: t})
		}
		fire[0].missed = add(skipped, n-len(newest))
		return fire, 0
	case policy == MissedOnce || now.Sub(latest) <= onTime:
		return []firing{{scheduled: latest, missed: add(skipped, n-1)}}, 0
	}
	return nil, add(skipped, n)
}

func add(a uint32, n int) uint32 { return uint32(min(uint64(a)+uint64(n), math.MaxUint32)) }

// reading is the wall clock beside one that nobody sets.
type reading struct {
	wall    time.Time
	elapsed time.Duration
}

// afterStep says up to which time firings are accounted for, when the wall clock may have been set between two readings.
// A small step forward is as if the time had passed, a small one back does not fire anything twice; after a big one in
// either direction nothing was missed, and the new time counts.
func afterStep(last time.Time, before, now reading) time.Time {
	step := now.wall.Sub(before.wall) - (now.elapsed - before.elapsed)
	if step > bigStep || step < -bigStep {
		return now.wall
	}
	return last
}
