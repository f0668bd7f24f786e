package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const usage = `dunlin-fleet is the server of a fleet of boards: an MQTT broker for the boards, an HTTP API for the dunlin command,
and a database, in one process.

Usage:
  dunlin-fleet [flags]

Flags:
  --data DIR           everything that it keeps (default dunlin-fleet-data; DUNLIN_FLEET_DATA)
  --listen ADDR        HTTP API (default 127.0.0.1:8090; DUNLIN_FLEET_LISTEN). Put a TLS proxy before it on a network
  --mqtt ADDR          broker for the boards (default :1883; DUNLIN_FLEET_MQTT)
  --max-devices N      boards beyond that are refused (default 10000)
  --log-level LEVEL    debug, info, warn or error (default info; DUNLIN_FLEET_LOG_LEVEL)
  --json               log as JSON
  --version            print the version

On its first start it makes, in the data folder and readable by nobody else:
  admin.token          for the dunlin command: who has it may do everything
  join.token           for boards: their MQTT password
and keys of its own, which never leave the database. The keys that sign releases stay with you: dunlin keys init.

Example:
  dunlin-fleet --data /var/lib/dunlin-fleet --listen 127.0.0.1:8090

When it is up it prints "dunlin-fleet: ready http=... mqtt=... fleet=...". SIGTERM ends it, a second one at once.
`

// supervise tells systemd that the server is up, and feeds the watchdog for as long as the server is healthy.
func supervise(ctx context.Context, health func() error, log *slog.Logger) {
	notify := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("notify systemd", "error", err)
		}
	}
	if health() == nil {
		notify(daemon.SdNotifyReady)
	}
	defer notify(daemon.SdNotifyStopping)
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("read watchdog interval", "error", err)
	}
	if every <= 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := health(); err != nil {
			log.Error("not healthy: the watchdog is not fed", "error", err)
			continue
		}
		notify(daemon.SdNotifyWatchdog)
	}
}
