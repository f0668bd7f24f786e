// Package alarm calls functions after a time that most often doesn't come: limits of what is over sooner.
//
// To start a timer that is the next one to fire wakes a thread, which waits for the network until then. The alarms of a clock
// share one timer, which an alarm moves only when it is earlier; at thousands of events a second that is once in a few
// milliseconds. Where no alarm is set, nothing runs.
package alarm

import (
	"math"
	"sync"
	"time"
)

// Clock that alarms are set on. The zero value is ready.
type Clock struct {
	mu      sync.Mutex
	zero    time.Time // of what follows
	pending []*Alarm
	timer   *time.Timer
	armed   time.Duration // when timer fires; maximal: it doesn't
}

// Alarm that was set.
type Alarm struct {
	clock *Clock
	at    time.Duration
	f     func()
	index int // in pending; -1: stopped or rung
}

// After calls f on a goroutine of its own once d has passed, unless it is stopped before.
func (c *Clock) After(d time.Duration, f func()) *Alarm {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.zero.IsZero() {
		c.zero, c.armed = time.Now(), math.MaxInt64
	}
	now := time.Since(c.zero)
	a := &Alarm{c, now + min(max(d, 0), math.MaxInt64-now-1), f, len(c.pending)}
	c.pending = append(c.pending, a)
	if a.at < c.armed {
		c.arm(a.at, now)
	}
	return a
}

// Stop tells whether f was kept from being called.
func (a *Alarm) Stop() bool {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	if a.index < 0 {
		return false
	}
	a.clock.remove(a)
	return true
}

// remove from pending. The caller holds mu.
func (c *Clock) remove(a *Alarm) {
	last := len(c.pending) - 1
	c.pending[a.index] = c.pending[last]
	c.pending[a.index].index = a.index
	c.pending[last] = nil
	c.pending = c.pending[:last]
	a.index = -1
}

// arm the timer. The caller holds mu.
func (c *Clock) arm(at, now time.Duration) {
	c.armed = at
	if c.timer == nil {
		c.timer = time.AfterFunc(at-now, c.ring)
		return
	}
	c.timer.Reset(at - now)
}

// ring what is due, and see what is next.
func (c *Clock) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Since(c.zero)
	next := time.Duration(math.MaxInt64)
	c.armed = next
	for i := 0; i < len(c.pending); {
		a := c.pending[i]
		if a.at <= now {
			c.remove(a) // another one is at i now
			go a.f()
			continue
		}
		next = min(next, a.at)
		i++
	}
	if next < c.armed {
		c.arm(next, now)
	}
}
