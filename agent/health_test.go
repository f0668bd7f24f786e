package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/test/guests"
)

// hungBus stands for a source whose lock is held for ever.
type hungBus struct {
	bus
	hangs atomic.Bool
	freed chan struct{}
}

func (b *hungBus) Status() trigger.Status {
	if b.hangs.Load() {
		<-b.freed
	}
	return b.bus.Status()
}

// systemd is the socket on which it hears from a service.
type systemd struct {
	*testing.T
	socket *net.UnixConn
}

// hearSystemd makes this process a service with a watchdog of 30 ms.
func hearSystemd(t *testing.T) systemd {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { must(t, socket.Close()) })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	return systemd{t, socket}
}

func (s systemd) heard() string {
	b := make([]byte, 128)
	must(s.T, s.socket.SetReadDeadline(time.Now().Add(patience)))
	n, err := s.socket.Read(b)
	must(s.T, err)
	return string(b[:n])
}

// mark arrives after all that was said before.
func (s systemd) mark(text string) {
	_, err := daemon.SdNotify(false, text)
	must(s.T, err)
}

// A board that can't commit, can't run a handler or whose source hangs is one that systemd has to restart.
func TestTheWatchdogIsFedOnlyWhileTheBoardCanHandleEvents(t *testing.T) {
	for name, breakIt := range map[string]func(*Agent){
		"no commits":     func(a *Agent) { must(t, a.store.Close()) },
		"no handlers":    func(a *Agent) { must(t, a.self.Close(t.Context())) },
		"a source hangs": func(a *Agent) { a.bus.(*hungBus).hangs.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			systemd := hearSystemd(t)
			log := &lines{}
			a, err := New(Config{State: filepath.Join(t.TempDir(), "state"), Listen: off, Bus: Bus{Listen: off}}, slog.New(slog.NewTextHandler(log, nil)))
			must(t, err)
			defer a.Close()
			bus := &hungBus{bus: a.bus, freed: make(chan struct{})}
			a.bus, a.health.patience = bus, 100*time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 2)
			go func() { ended <- a.watch(ctx) }()
			go func() { ended <- a.timers.Run(ctx) }()
			for range 3 {
				if got := systemd.heard(); got != daemon.SdNotifyWatchdog {
					t.Fatalf("systemd heard %q", got)
				}
			}
			failures := func() int { return strings.Count(log.String(), "the health check failed") }

			breakIt(a)
			begun := failures()
			eventually(t, "a check fails", func() bool { return failures() > begun })
			systemd.mark("STATUS=broken")
			for systemd.heard() != "STATUS=broken" { // what was fed before
			}
			begun = failures()
			eventually(t, "three more checks fail", func() bool { return failures() >= begun+3 })
			systemd.mark("STATUS=still broken")
			if got := systemd.heard(); got != "STATUS=still broken" {
				t.Errorf("systemd heard %q of a board that is broken", got)
			}
			close(bus.freed)
			cancel()
			for range cap(ended) {
				if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
}

// The watchdog is fed by a tick of the scheduler, not by a clock of its own.
func TestTheWatchdogIsNotFedWhileTheSchedulerSleeps(t *testing.T) {
	systemd := hearSystemd(t)
	a, err := New(Config{State: filepath.Join(t.TempDir(), "state"), Listen: off, Bus: Bus{Listen: off}}, slog.New(slog.DiscardHandler))
	must(t, err)
	defer a.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.watch(ctx) }()
	for range 100 {
		_, err := a.check(t.Context())
		must(t, err)
	}
	systemd.mark("STATUS=asleep")
	if got := systemd.heard(); got != "STATUS=asleep" {
		t.Errorf("systemd heard %q of a board that fires no timer", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch = %v", err)
	}
}

func TestTheAgentsEventToItselfIsTheVectorOfTheGuests(t *testing.T) {
	if !bytes.Equal(selfEventWASM, guests.SelfEvent) {
		t.Error("copy test/guests/vectors/self-event.wasm to agent/selfevent.wasm")
	}
}
