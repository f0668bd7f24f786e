package agent

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"dunlin.dev/dunlin/agent/internal/link"
	"dunlin.dev/dunlin/agent/internal/reconcile"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// report makes the reporter send a new report soon.
func (a *Agent) report() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// reporter sends the board's whole state when it changed, at most five times a second, and every minute while connected.
func (a *Agent) reporter(ctx context.Context) error {
	const apart, always = 200 * time.Millisecond, time.Minute
	for sequence := uint64(1); ; sequence++ {
		var periodic <-chan time.Time // nothing wakes an agent that has nobody to report to
		if _, up := a.link.Session(); up {
			periodic = time.After(always)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.changed:
		case <-periodic:
		}
		session, up := a.link.Session()
		if !up {
			continue
		}
		if err := a.link.Report(ctx, fit(a.reported(session, sequence))); err != nil && !errors.Is(err, link.ErrDown) && ctx.Err() == nil {
			a.log.Warn("a report could not be sent", "cause", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(apart):
		}
	}
}

func (a *Agent) hello(session string) wire.Hello {
	h := wire.Hello{Version: wire.Version, Session: session, Agent: a.cfg.Version, Arch: runtime.GOARCH, Boot: bootID(), Labels: a.cfg.Labels, Operations: wire.Operations()}
	for _, d := range a.apps.list() {
		h.Installed = append(h.Installed, wire.Installed{Application: d.manifest.Application, Version: d.manifest.Version, Release: wire.Digest(d.release.Digest())})
	}
	return h
}

func (a *Agent) reported(session string, sequence uint64) wire.Reported {
	now, clock := a.time()
	r := wire.Reported{Session: session, Sequence: sequence, At: now.UTC(), Clock: clock, Triggers: a.triggers(), Counters: a.counters(), Outbox: a.outboxReport(), Disk: a.diskReport(), Removed: a.removedReport()}
	apps := map[string]wire.AppReport{}
	for _, d := range a.apps.list() {
		apps[d.manifest.Application] = wire.AppReport{Application: d.manifest.Application, Version: d.manifest.Version,
			Release: wire.Digest(d.release.Digest()), Phase: wire.PhaseRunning}
	}
	a.manager.describe(&r, apps)
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		r.Apps = append(r.Apps, apps[name])
	}
	return r
}

// fit cuts a report down to what one message holds: first the triggers that serve go, then as many others as it takes, and at
// last the ends of the errors. What runs and what was refused always stays.
func fit(r wire.Reported) wire.Reported {
	fits := func() bool {
		b, err := json.Marshal(r) // escapes more than the wire does, so it is never the shorter one
		return err == nil && len(b) <= wire.MaxMessageBytes
	}
	if fits() {
		return r
	}
	r.Triggers = slices.DeleteFunc(slices.Clone(r.Triggers), func(t wire.TriggerReport) bool { return t.Status == wire.TriggerServing })
	for !fits() && len(r.Triggers) > 0 {
		r.Triggers = r.Triggers[:len(r.Triggers)/2]
	}
	r.Apps = slices.Clone(r.Apps)
	for limit := wire.MaxErrorBytes / 2; !fits() && limit > 0; limit /= 2 {
		for i, app := range r.Apps {
			r.Apps[i].Error = wire.Clip(app.Error[:min(len(app.Error), limit)])
		}
	}
	return r
}

// describe adds what the manager knows: what is under way stands over what runs.
func (m *manager) describe(r *wire.Reported, apps map[string]wire.AppReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Generation = m.desired.Generation
	r.Refused = m.refused
	r.Frozen = m.frozen
	r.Trust = m.versions
	maps.Copy(apps, m.progress)
}

// phase says how far a step has come.
func (m *manager) phase(s reconcile.Step, phase wire.Phase, p *wire.Progress) {
	m.mu.Lock()
	r := m.report(s, phase)
	r.Progress = p
	m.progress[s.Application] = r
	m.mu.Unlock()
	m.agent.report()
}

func (m *manager) report(s reconcile.Step, phase wire.Phase) wire.AppReport {
	p := m.pointer(s.Application)
	return wire.AppReport{Application: s.Application, Version: p.Version, Release: wire.Digest(p.Digest), Phase: phase}
}

func (m *manager) pointer(app string) trust.Pointer {
	for _, p := range m.desired.Releases {
		if p.Application == app {
			return p
		}
	}
	return trust.Pointer{Application: app}
}

// triggers reports each trigger of each application in the health of its source.
func (a *Agent) triggers() []wire.TriggerReport {
	var out []wire.TriggerReport
	add := func(app, id string, s trigger.Status) {
		status := wire.TriggerServing
		switch s.Health {
		case trigger.Degraded:
			status = wire.TriggerDegraded
		case trigger.Stopped:
			status = wire.TriggerStopped
		}
		out = append(out, wire.TriggerReport{Application: app, ID: id, Status: status, Detail: wire.Clip(s.Detail)})
	}
	http, mqtt, timer := a.http.Status(), a.bus.Status(), a.timers.Status()
	for _, d := range a.apps.list() {
		for _, t := range d.manifest.Triggers.HTTP {
			add(d.manifest.Application, t.ID, http)
		}
		for _, t := range d.manifest.Triggers.MQTT {
			add(d.manifest.Application, t.ID, mqtt)
		}
		for _, t := range d.manifest.Triggers.Timer {
			add(d.manifest.Application, t.ID, timer)
		}
	}
	return out
}

func (a *Agent) counters() wire.Counters {
	bus := a.bus.Counters()
	a.apps.mu.Lock()
	c := a.apps.retired
	a.apps.mu.Unlock()
	for _, d := range a.apps.list() {
		n := d.counters()
		c.Handled += n.Handled
		c.Failed += n.Failed
	}
	c.Retried, c.Dropped, c.Dead = bus.Retried, bus.Dropped, uint64(a.inbox.Counts().Dead)
	return c
}

// bootID tells a reconnect from a reboot: proc_sys_kernel(5), random/boot_id.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return trimmed(b)
}

func trimmed(b []byte) string { return strings.TrimSpace(string(b)) }

func versionsOf(s trust.State) wire.TrustReport {
	return wire.TrustReport{Root: s.Version(trust.Root), Timestamp: s.Version(trust.Timestamp), Snapshot: s.Version(trust.Snapshot), Targets: s.Version(trust.Targets)}
}
