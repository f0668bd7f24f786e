package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// health is the last check's outcome.
type health struct {
	mu    sync.Mutex
	at    time.Time
	cause error
}

// watch feeds systemd's watchdog, and only after a real check: the store commits, so a stuck disk or a dead committer ends in
// a restart. Without a watchdog it does nothing, so an idle agent wakes for nothing.
func (a *Agent) watch(ctx context.Context) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if a.check(ctx) == nil {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}
	}
}

// check asks the store for a round trip through its committer.
func (a *Agent) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := a.store.Ping(ctx)
	a.health.mu.Lock()
	a.health.at, a.health.cause = time.Now(), err
	a.health.mu.Unlock()
	if err != nil {
		a.log.Error("the health check failed", "cause", err)
	}
	return err
}

// healthReport is what /.well-known/dunlin/health answers.
type healthReport struct {
	OK           bool              `json:"ok"`
	Cause        string            `json:"cause,omitempty"`
	Version      string            `json:"version"`
	Sources      map[string]string `json:"sources"` // "ok", or "degraded: why"
	Fleet        string            `json:"fleet"`   // "none", "connected", or "down: why"
	Applications map[string]string `json:"applications"`
}

// wellKnown serves the agent's own page: 200 while the check holds, whatever the sources and the link do.
func (a *Agent) wellKnown() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/dunlin/health", func(w http.ResponseWriter, r *http.Request) {
		report := healthReport{OK: true, Version: a.cfg.Version, Sources: map[string]string{}, Fleet: "none", Applications: map[string]string{}}
		if err := a.check(r.Context()); err != nil {
			report.OK, report.Cause = false, err.Error()
		}
		for _, s := range []trigger.Status{a.http.Status(), a.bus.Status(), a.timers.Status()} {
			report.Sources[s.Source] = string(s.Health)
			if s.Detail != "" {
				report.Sources[s.Source] += ": " + s.Detail
			}
		}
		if a.link != nil {
			report.Fleet = "connected"
			if _, up := a.link.Session(); !up {
				report.Fleet = "down: " + a.link.Detail()
			}
		}
		for _, d := range a.apps.list() {
			report.Applications[d.manifest.Application] = d.manifest.Version
		}
		w.Header().Set("Content-Type", "application/json")
		if !report.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(report)
	})
	return mux
}
