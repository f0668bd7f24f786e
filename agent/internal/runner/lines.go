package runner

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	linesBurst = 4                // seconds' worth of lines that may come at once
	sayApart   = 10 * time.Second // between two lines about those that were dropped
)

// lineLimit is a token bucket for a component's log lines: a handler that talks too much costs no flash and no uplink.
type lineLimit struct {
	rate   float64 // a second
	mu     sync.Mutex
	tokens float64
	at     time.Time
	lost   uint64 // in all
	unsaid uint64
	said   time.Time // when dropped lines were last said
}

func newLineLimit(rate int) *lineLimit {
	return &lineLimit{rate: float64(rate), tokens: float64(rate) * linesBurst}
}

// take asks to log a line.
func (l *lineLimit) take(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.at.IsZero() {
		l.tokens = min(l.rate*linesBurst, l.tokens+max(0, now.Sub(l.at).Seconds())*l.rate)
	}
	l.at = now
	if l.tokens < 1 {
		l.lost++
		l.unsaid++
		return false
	}
	l.tokens--
	return true
}

// lose a line that nobody is to be told of.
func (l *lineLimit) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost++
}

// due gives the lines that were dropped and are to be said now: not often, unless it is the last time.
func (l *lineLimit) due(now time.Time, last bool) (dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unsaid == 0 || !last && !l.said.IsZero() && now.Sub(l.said) < sayApart {
		return 0
	}
	dropped, l.unsaid, l.said = l.unsaid, 0, now
	return dropped
}

func (l *lineLimit) dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// sayDropped logs that lines were dropped, once in a while.
func (r *Runner) sayDropped(last bool) {
	if n := r.lines.due(time.Now(), last); n > 0 {
		r.log.Warn("log lines dropped: log_lines limit", "dropped", n, "log_lines", r.cfg.Limits.LogLines)
	}
}

// guestLog writes a line of the guest's to the log.
func (x *run) guestLog(level slog.Level, about, message string) {
	x.said.Store(&message)
	if level < slog.LevelWarn && x.cfg.Quiet != nil && x.cfg.Quiet() {
		x.lines.lose()
		return
	}
	if !x.lines.take(time.Now()) {
		x.sayDropped(false)
		return
	}
	var attrs []slog.Attr
	if about != "" {
		attrs = []slog.Attr{slog.String("context", about)}
	}
	x.log.LogAttrs(context.Background(), level, message, attrs...) //nolint:sloglint // the guest's line is the message
}
