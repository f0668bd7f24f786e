package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestALogLineNamesItsEventAndShowsTheBacktrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(NewLog(&out, slog.LevelInfo)).With("application", "cold", "component", "guard")
	event := log.With("trigger", "cold/guard.mqtt", "event", "3f2a-17")
	event.Info("door is open", "context", "stdout")
	event.Error("event failed", "reason", "trap", "error", errors.New("a b"), "backtrace", []string{"m!f at lib.rs:1:2", "m!g"})
	event.Debug("not asked for")
	log.With("source", "http").Warn("late", "by", "")
	log.WithGroup("x").Info("bare", "n", 1)
	var lines []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, " ") {
			line = line[len("15:04:05.000 "):]
		}
		lines = append(lines, line)
	}
	want := []string{
		"guard.mqtt (3f2a-17): door is open context=stdout\n",
		"error guard.mqtt (3f2a-17): event failed reason=trap error=\"a b\"\n",
		"               in m!f at lib.rs:1:2\n",
		"               in m!g\n",
		"warn http: late by=\"\"\n",
		"bare x.n=1\n",
	}
	if strings.Join(lines, "") != strings.Join(want, "") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, ""), strings.Join(want, ""))
	}
}
