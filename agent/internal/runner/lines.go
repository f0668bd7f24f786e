package runner

import (
	"sync"
	"time"
)

const (
	linesPerSecond = 50
	linesBurst     = 200
)

// lineLimit is a token bucket for a component's log lines: a handler that talks too much costs no flash and no uplink.
type lineLimit struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
	lost   uint64 // in all
	unsaid uint64 // since the last line that passed
}

func newLineLimit() *lineLimit { return &lineLimit{tokens: linesBurst} }

// take asks to log a line. dropped: lines since the last one that may pass.
func (l *lineLimit) take(now time.Time) (ok bool, dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.at.IsZero() {
		l.tokens = min(linesBurst, l.tokens+max(0, now.Sub(l.at).Seconds())*linesPerSecond)
	}
	l.at = now
	if l.tokens < 1 {
		l.lost++
		l.unsaid++
		return false, 0
	}
	l.tokens--
	dropped, l.unsaid = l.unsaid, 0
	return true, dropped
}

func (l *lineLimit) dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
