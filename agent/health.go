package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// health is the check that is under way.
type health struct {
	mu       sync.Mutex
	now      *checkup
	patience time.Duration // what a check may take
}

// checkup is one look at every part. One that is stuck is not begun again: who asks meanwhile waits for it.
type checkup struct {
	at      atomic.Value // string: what it is at
	ended   chan struct{}
	sources []trigger.Status
	err     error
}

// checkTime is what a check may take, unless a test has less patience. A busy board is slow, and no reason to start it anew.
const checkTime = 10 * time.Second

// watch feeds systemd's watchdog, and only after a real check, which the scheduler fires as it fires any timer: a stuck
// scheduler, source, engine, disk or committer ends in a restart. Without a watchdog it does nothing, so an idle agent wakes for nothing.
func (a *Agent) watch(ctx context.Context) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err == nil && every > 0 {
		err = a.everySelf(every/3, func(ctx context.Context) {
			if _, err := a.check(ctx); err == nil {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		})
		if err != nil {
			return fmt.Errorf("watch over the agent: %w", err)
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// check asks every part whether it lives, at most for checkTime. What a source says of itself comes with it, where it answers.
func (a *Agent) check(ctx context.Context) ([]trigger.Status, error) {
	c := a.checkup()
	expired := time.NewTimer(a.health.patience)
	defer expired.Stop()
	select {
	case <-c.ended:
		return c.sources, c.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-expired.C:
		err := fmt.Errorf("check health: %s has not answered in %s", c.at.Load(), a.health.patience)
		a.log.Error("the health check failed", "cause", err)
		return nil, err
	}
}

// checkup joins the check that is under way, or begins one.
func (a *Agent) checkup() *checkup {
	a.health.mu.Lock()
	defer a.health.mu.Unlock()
	if c := a.health.now; c != nil {
		return c
	}
	c := &checkup{ended: make(chan struct{})}
	c.at.Store("the store")
	a.health.now = c
	go func() {
		c.err = a.examine(c)
		if c.err != nil {
			a.log.Error("the health check failed", "cause", c.err)
		}
		a.health.mu.Lock()
		a.health.now = nil
		a.health.mu.Unlock()
		close(c.ended)
	}()
	return c
}

// examine asks the store for a round trip through its committer, the sources whether they answer, and handles an event of
// the agent's own.
func (a *Agent) examine(c *checkup) error {
	ctx, cancel := context.WithTimeout(context.Background(), a.health.patience)
	defer cancel()
	err := a.store.Ping(ctx)
	for _, s := range a.sources() {
		c.at.Store("the source " + s.name)
		c.sources = append(c.sources, s.status())
	}
	if err != nil {
		return err
	}
	for _, s := range c.sources {
		if s.Health == trigger.Stuck {
			return fmt.Errorf("source %s is stuck: %s", s.Source, s.Detail)
		}
	}
	c.at.Store("an event of the agent's own")
	return a.handleSelf(ctx)
}

// source is one of those that Run keeps.
type source struct {
	name   string
	run    func(context.Context) error
	status func() trigger.Status
}

func (a *Agent) sources() []source {
	return []source{{"http", a.http.Run, a.http.Status}, {"mqtt", a.bus.Run, a.bus.Status}, {"timer", a.timers.Run, a.timers.Status}}
}

// healthReport is what /.well-known/dunlin/health answers.
type healthReport struct {
	OK           bool              `json:"ok"`
	Cause        string            `json:"cause,omitempty"`
	Version      string            `json:"version"`
	Sources      map[string]string `json:"sources"` // "ok", or "degraded: why"
	Fleet        string            `json:"fleet"`   // "none", "connected", or "down: why"
	Disk         string            `json:"disk"`    // "ok", or "degraded: why"
	Applications map[string]string `json:"applications"`
	Goroutines   int               `json:"goroutines"`
}

// wellKnown serves the agent's own page: 200 while the check holds, whatever the sources and the link do.
func (a *Agent) wellKnown() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/dunlin/health", func(w http.ResponseWriter, r *http.Request) {
		report := healthReport{OK: true, Version: a.cfg.Version, Sources: map[string]string{}, Fleet: "none", Disk: a.diskHealth(), Applications: map[string]string{}, Goroutines: runtime.NumGoroutine()}
		sources, err := a.check(r.Context())
		if err != nil {
			report.OK, report.Cause = false, err.Error()
		}
		for _, s := range sources {
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
