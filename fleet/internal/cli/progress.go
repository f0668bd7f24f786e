package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// progress shows steps: a line each, and on a terminal a bar while one goes on.
type progress struct {
	w        io.Writer
	terminal bool
}

func newProgress(w io.Writer, terminal bool) *progress { return &progress{w: w, terminal: terminal} }

func (p *progress) line(step, format string, args ...any) {
	fmt.Fprintf(p.w, "%-8s %s\n", step, fmt.Sprintf(format, args...))
}

// bar is one step with a known end.
type bar struct {
	p          *progress
	step, name string
	total      int64
	begun      time.Time
	drawn      time.Time
}

func (p *progress) bar(step, name string, total int64) *bar {
	return &bar{p: p, step: step, name: name, total: total, begun: time.Now()}
}

const (
	barWidth  = 30
	redrawGap = 100 * time.Millisecond
)

// set draws the bar at n of total, ten times a second at most.
func (b *bar) set(n int64) {
	if !b.p.terminal || b.total <= 0 || n < b.total && time.Since(b.drawn) < redrawGap {
		return
	}
	b.drawn = time.Now()
	full := int(min(n, b.total) * barWidth / b.total)
	fmt.Fprintf(b.p.w, "\r\x1b[K%-8s %s [%s%s] %3d %%", b.step, b.name, strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), min(n, b.total)*100/b.total)
}

// clear takes the bar away.
func (b *bar) clear() {
	if b.p.terminal {
		fmt.Fprint(b.p.w, "\r\x1b[K")
	}
}

// abort leaves the bar where it is and ends its line.
func (b *bar) abort() {
	if b.p.terminal {
		fmt.Fprintln(b.p.w)
	}
}

// done replaces the bar by a line that says what was done and how long it took.
func (b *bar) done(what string) {
	b.skip(fmt.Sprintf("%s in %s", what, time.Since(b.begun).Round(time.Millisecond)))
}

// skip replaces the bar by a line that says why there was nothing to do.
func (b *bar) skip(why string) {
	b.clear()
	b.p.line(b.step, "%s: %s", b.name, why)
}
