package host

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const (
	defaultLogged = 64 << 10 // bytes of one event's output that are kept
	maxLine       = 4 << 10  // bytes after which a line is cut in two
	outputRoom    = 64 << 10 // bytes that check-write permits on stdout and stderr
)

// levels of wasi:logging.
var levels = map[string]slog.Level{
	"trace": slog.LevelDebug - 4, "debug": slog.LevelDebug, "info": slog.LevelInfo,
	"warn": slog.LevelWarn, "error": slog.LevelError, "critical": slog.LevelError + 4,
}

func loggingInterfaces() []*iface {
	return []*iface{{name: "wasi:logging/logging@0.1.0-draft", funcs: map[string]fn{
		"log": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			g.log.emit(levels[a[0].Text()], a[1].Text(), a[2].Text())
			return none, nil
		}, kEnum, kString, kString),
	}}}
}

// logger takes everything that one guest says, up to a number of bytes; it counts the rest.
type logger struct {
	to      func(level slog.Level, context, message string)
	left    int
	kept    int
	dropped int64
	lines   []*lineSink // stdout and stderr, once used
}

// stream is the sink that turns a guest's stdout or stderr into lines.
func (l *logger) stream(name string, level slog.Level) *lineSink {
	for _, s := range l.lines {
		if s.name == name {
			return s
		}
	}
	s := &lineSink{log: l, name: name, level: level}
	l.lines = append(l.lines, s)
	return s
}

func (l *logger) emit(level slog.Level, context, message string) {
	n := len(context) + len(message)
	if n > l.left {
		// What does not fit ends the log: a later, shorter line would read as if nothing were missing before it.
		l.left = 0
		l.dropped += int64(n)
		return
	}
	l.left -= n
	l.kept += n
	l.to(level, context, message)
}

// close writes what has no line end yet, and says how much was dropped.
func (l *logger) close() {
	for _, s := range l.lines {
		s.end()
	}
	if l.dropped > 0 {
		l.to(slog.LevelWarn, "log", fmt.Sprintf("%d bytes of output dropped after the first %d", l.dropped, l.kept))
		l.dropped = 0
	}
}

// lineSink writes a stream's lines to the log.
type lineSink struct {
	log     *logger
	name    string
	level   slog.Level
	partial []byte
}

func (s *lineSink) room() (int, error)     { return outputRoom, nil }
func (s *lineSink) flushed() (bool, error) { return true, nil }

func (s *lineSink) write(p []byte) error {
	if s.log.left == 0 {
		s.log.dropped += int64(len(p))
		return nil
	}
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		whole := i >= 0
		if !whole {
			i = len(p)
		}
		if n := maxLine - len(s.partial); i > n {
			i, whole = n, false
		}
		s.partial = append(s.partial, p[:i]...)
		p = p[i:]
		if whole {
			p = p[1:]
		}
		if whole || len(s.partial) == maxLine {
			s.emit()
		}
	}
	return nil
}

func (s *lineSink) emit() {
	line := strings.ToValidUTF8(strings.TrimSuffix(string(s.partial), "\r"), "�")
	s.partial = s.partial[:0]
	s.log.emit(s.level, s.name, line)
}

func (s *lineSink) end() {
	if len(s.partial) > 0 {
		s.emit()
	}
}
