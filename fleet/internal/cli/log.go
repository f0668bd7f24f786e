package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Log writes what happens for a developer's eyes: a line starts with the time, the trigger and the event that it is about, and
// a failure's backtrace stands below it, a frame a line.
type Log struct {
	level slog.Level
	attrs []slog.Attr
	group string

	mu *sync.Mutex
	w  io.Writer
}

// NewLog makes a handler that writes records of at least level to w.
func NewLog(w io.Writer, level slog.Level) *Log { return &Log{level: level, w: w, mu: new(sync.Mutex)} }

// Enabled implements slog.Handler.
func (l *Log) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

// WithAttrs implements slog.Handler.
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *l
	next.attrs = slices.Clone(l.attrs)
	for _, a := range attrs {
		next.attrs = append(next.attrs, slog.Attr{Key: l.group + a.Key, Value: a.Value})
	}
	return &next
}

// WithGroup implements slog.Handler.
func (l *Log) WithGroup(name string) slog.Handler {
	next := *l
	next.group += name + "."
	return &next
}

// said are the attributes that a line shows in a place of their own, or not at all: there is one application, and a trigger's name
// says which component handles it.
var said = []string{"application", "component", "trigger", "event", "backtrace", "source"}

// Handle implements slog.Handler.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	special := map[string]slog.Value{}
	var rest []slog.Attr
	put := func(a slog.Attr) bool {
		if slices.Contains(said, a.Key) {
			special[a.Key] = a.Value.Resolve()
		} else {
			rest = append(rest, a)
		}
		return true
	}
	for _, a := range l.attrs {
		put(a)
	}
	r.Attrs(func(a slog.Attr) bool { return put(slog.Attr{Key: l.group + a.Key, Value: a.Value}) })
	var b bytes.Buffer
	b.WriteString(r.Time.Format("15:04:05.000 "))
	if r.Level != slog.LevelInfo {
		fmt.Fprintf(&b, "%s ", strings.ToLower(r.Level.String()))
	}
	b.WriteString(subject(special))
	b.WriteString(strings.Map(plain, r.Message))
	for _, a := range rest {
		fmt.Fprintf(&b, " %s=%s", a.Key, value(a.Value.Resolve()))
	}
	b.WriteByte('\n')
	if trace, ok := special["backtrace"].Any().([]string); ok {
		for _, frame := range trace {
			fmt.Fprintf(&b, "               in %s\n", frame)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(b.Bytes())
	return err
}

// subject of a line: "guard.mqtt (3f2a-17): ", or the source, or nothing.
func subject(special map[string]slog.Value) string {
	trigger, ok := special["trigger"]
	if !ok {
		if source, ok := special["source"]; ok {
			return source.String() + ": "
		}
		return ""
	}
	_, id, found := strings.Cut(trigger.String(), "/")
	if !found {
		id = trigger.String()
	}
	if event, ok := special["event"]; ok {
		return id + " (" + event.String() + "): "
	}
	return id + ": "
}

// plain keeps a guest's line from moving the cursor or faking others.
func plain(r rune) rune {
	if unicode.IsControl(r) && r != '\t' {
		return unicode.ReplacementChar
	}
	return r
}

// value as text, quoted where it would not be told from what stands beside it.
func value(v slog.Value) string {
	s := v.String()
	if v.Kind() == slog.KindTime {
		s = v.Time().Format(time.RFC3339)
	}
	if s == "" || strings.ContainsAny(s, " \"=\n\t") {
		return fmt.Sprintf("%q", s)
	}
	return s
}
