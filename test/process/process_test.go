package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func sh(t *testing.T, script string) (p *Process, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "sh.log")
	p, err := Start(log, "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p, log
}

func TestALineIsFoundHoweverLongAndHoweverSoonTheEnd(t *testing.T) {
	p, log := sh(t, `printf '%0100000d\n' 7; echo ready http=a:1 mqtt=b:2 >&2; printf 'no line feed'`)
	for range 2 { // also a line that was read before
		m, err := p.Line(t.Context(), `ready http=(\S+) mqtt=(\S+)`)
		if err != nil || m[1] != "a:1" || m[2] != "b:2" {
			t.Fatalf("%q, %v", m, err)
		}
	}
	if _, err := p.Line(t.Context(), `^no line feed$`); err != nil {
		t.Error(err)
	}
	<-p.done
	if b, err := os.ReadFile(log); err != nil || string(b) != strings.Join(p.Lines(), "\n") || len(b) < 100_000 {
		t.Errorf("the log has %d bytes, %v", len(b), err)
	}
}

func TestWaitingEndsWithTheProcessAndWithTheContext(t *testing.T) {
	p, log := sh(t, `echo one`)
	if _, err := p.Line(t.Context(), `two`); err == nil || !strings.Contains(err.Error(), "ended before") || !strings.Contains(err.Error(), log) {
		t.Errorf("got %v", err)
	}
	p, _ = sh(t, `echo one; exec sleep 1000`)
	ctx, cancel := context.WithCancelCause(t.Context())
	late := errors.New("too late")
	cancel(late)
	if _, err := p.Line(ctx, `two`); !errors.Is(err, late) {
		t.Errorf("got %v", err)
	}
}

func TestStopLetsAProcessEndByItself(t *testing.T) {
	p, _ := sh(t, `trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done`)
	if _, err := p.Line(t.Context(), `up`); err != nil {
		t.Fatal(err)
	}
	u, err := p.Memory()
	if err != nil || u.PSS <= 0 || u.Anonymous <= 0 {
		t.Errorf("memory %+v, %v", u, err)
	}
	if peak, err := p.Peak(); err != nil || peak < u.Anonymous {
		t.Errorf("peak %d, %v", peak, err)
	}
	p.Stop()
	p.Stop()
	if _, err := p.Line(t.Context(), `bye`); err != nil {
		t.Error(err)
	}
	(*Process)(nil).Stop()
}

func TestAProgramThatIsNotThereIsNamed(t *testing.T) {
	if _, err := Start(filepath.Join(t.TempDir(), "log"), "/no/such/program"); err == nil || !strings.Contains(err.Error(), "start /no/such/program") {
		t.Errorf("got %v", err)
	}
}

func TestFieldsAreReadByTheirWholeNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "smaps_rollup")
	if err := os.WriteFile(file, []byte("00-ff ---p 0 00:00 0 [rollup]\nPss:   12 kB\nPss_File:  7 kB\nAnonymous: 3 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := kilobytes(file, "Anonymous", "Pss", "Pss_File")
	if err != nil || !slices.Equal(got, []int64{3 << 10, 12 << 10, 7 << 10}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := kilobytes(file, "Pss", "Rss"); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a field that is absent gave %v", err)
	}
}

func TestEachWakeIsCounted(t *testing.T) {
	p, _ := sh(t, `echo up; while :; do sleep 0.001; done`)
	if _, err := p.Line(t.Context(), `up`); err != nil {
		t.Fatal(err)
	}
	first, err := Wakes(p.PID())
	for n := first; err == nil && n < first+10; {
		n, err = Wakes(p.PID())
	}
	if err != nil {
		t.Error(err)
	}
	if n, err := Wakes(1 << 30); n != 0 || err != nil {
		t.Errorf("a process that isn't there woke %d times, %v", n, err)
	}
}
