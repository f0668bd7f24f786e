package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A board whose store takes no commit any more is one that systemd has to restart.
func TestTheWatchdogIsFedOnlyWhileTheStoreTakesCommits(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { must(t, systemd.Close()) })
	heard := func() string {
		b := make([]byte, 128)
		must(t, systemd.SetReadDeadline(time.Now().Add(patience)))
		n, err := systemd.Read(b)
		must(t, err)
		return string(b[:n])
	}
	mark := func(text string) { // arrives after all that was said before
		_, err := daemon.SdNotify(false, text)
		must(t, err)
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "30000")

	log := &lines{}
	a, err := New(Config{State: filepath.Join(t.TempDir(), "state"), Listen: off, Bus: Bus{Listen: off}}, slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	defer a.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.watch(ctx) }()
	for range 3 {
		if got := heard(); got != daemon.SdNotifyWatchdog {
			t.Fatalf("systemd heard %q", got)
		}
	}

	must(t, a.store.Close())
	failures := func() int { return strings.Count(log.String(), "the health check failed") }
	eventually(t, "the check fails", func() bool { return failures() > 0 })
	mark("STATUS=stuck")
	for heard() != "STATUS=stuck" { // what was fed before
	}
	begun := failures()
	eventually(t, "three more checks fail", func() bool { return failures() >= begun+3 })
	mark("STATUS=still stuck")
	if got := heard(); got != "STATUS=still stuck" {
		t.Errorf("systemd heard %q of a board that can't commit", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch = %v", err)
	}
}
