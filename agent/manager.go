package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/reconcile"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// manager brings the board from what it runs to what the fleet desires. One goroutine runs it; the link's callbacks only
// leave notes.
type manager struct {
	agent *Agent
	guard *guard
	wake  chan struct{} // holds one

	mu       sync.Mutex
	envelope []byte // newest that arrived and was not judged yet

	// What the manager's goroutine knows, and reports read under mu.
	desired  trust.Desired
	failed   map[string]reconcile.Failure // by release digest
	offline  map[string]bool              // of those, the ones that only wait for the link
	progress map[string]wire.AppReport    // by application: what is under way or has failed
	refused  *wire.Refusal
	attempts int       // of the envelope that could not be judged
	retry    time.Time // when it is judged again
	frozen   bool
	versions wire.TrustReport
	issued   time.Time // newest signed time: the clock's floor
}

func newManager(a *Agent, g *guard) (*manager, error) {
	m := &manager{agent: a, guard: g, wake: make(chan struct{}, 1), failed: map[string]reconcile.Failure{},
		offline: map[string]bool{}, progress: map[string]wire.AppReport{}}
	d, ok, err := trust.ReopenDesired(g.state)
	if err != nil {
		return nil, fmt.Errorf("read desired state: %w", err)
	}
	if ok {
		m.desired = d
	}
	m.learn()
	return m, m.interrupted()
}

// learn copies what reports need of the guard, which only the manager's goroutine may touch.
func (m *manager) learn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen, m.issued = m.guard.frozen, m.guard.state.Issued
	m.versions = versionsOf(m.guard.state)
}

// interrupted finds activations that ended the agent: the release rests, and what served before goes on.
func (m *manager) interrupted() error {
	attempts, err := m.agent.store.List(attemptArea)
	if err != nil {
		return err
	}
	for key, release := range attempts {
		app := key[len(attemptArea):]
		m.agent.log.Error("the agent ended while it started a release; it rests", "application", app, "release", string(release))
		const cause = "the agent ended while it started this release"
		m.failed[string(release)] = reconcile.Failure{Generation: m.desired.Generation, Attempts: 3,
			Retry: time.Now().Add(m.agent.cfg.rest(3, mathrand.Float64())), Err: cause}
		if p := m.report(reconcile.Step{Application: app}, wire.PhaseFailed); p.Release.String() == string(release) {
			p.Error = cause
			m.progress[app] = p
		}
		if err := m.agent.store.Put(map[string][]byte{key: nil}); err != nil {
			return err
		}
	}
	return nil
}

// offer leaves an envelope to be judged. A newer one replaces it.
func (m *manager) offer(envelope []byte) {
	m.mu.Lock()
	m.envelope, m.attempts, m.retry = envelope, 0, time.Time{}
	m.mu.Unlock()
	m.poke()
}

// poke makes the manager look again, at once.
func (m *manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// linkUp tries again what only waited for the link.
func (m *manager) linkUp() {
	m.mu.Lock()
	for release := range m.offline {
		delete(m.failed, release)
		delete(m.offline, release)
	}
	m.retry = time.Time{}
	m.mu.Unlock()
	m.poke()
}

// run judges and installs until ctx ends.
func (m *manager) run(ctx context.Context) error {
	for {
		m.judge(ctx)
		m.learn()
		o, err := m.observe()
		if err != nil {
			return err
		}
		want := m.want()
		at := m.nextAlarm(o, want)
		if step, ok := reconcile.Next(o, want, time.Now()); ok && ctx.Err() == nil {
			err := m.take(ctx, step)
			housekeeping := step.Kind == reconcile.Retire || step.Kind == reconcile.Sweep
			if err == nil || !housekeeping {
				m.fail(step, err)
				continue
			}
			// Housekeeping that fails has no release that could rest: the board's own disk is at fault.
			m.agent.log.Warn("housekeeping failed", "step", step.Kind, "cause", err)
			at = time.Now().Add(time.Minute)
		}
		var alarm <-chan time.Time
		if !at.IsZero() {
			alarm = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-alarm:
		}
	}
}

func (m *manager) nextAlarm(o reconcile.Observed, want reconcile.Desired) time.Time {
	at := reconcile.Wake(o, want, time.Now())
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.envelope != nil && !m.retry.IsZero() && (at.IsZero() || m.retry.Before(at)) {
		at = m.retry
	}
	return at
}

// judge verifies the envelope that waits. One that is refused is reported and forgotten; one that can't be judged now stays.
func (m *manager) judge(ctx context.Context) {
	m.mu.Lock()
	envelope := m.envelope
	wait := time.Now().Before(m.retry)
	m.mu.Unlock()
	if envelope == nil || wait {
		return
	}
	d, err := m.guard.accept(ctx, envelope, m.agent.now())
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.agent.report()
	newer := string(m.envelope) != string(envelope) // arrived meanwhile, and is judged next
	// Metadata that has expired is renewed by the fleet, or was only seen so by a clock that is wrong yet.
	again := passing(err) || errors.Is(err, trust.Expired)
	switch {
	case newer:
	case again:
		m.attempts++
		m.retry = time.Now().Add(m.agent.cfg.rest(m.attempts, mathrand.Float64()))
	default:
		m.envelope = nil
	}
	if passing(err) {
		return
	}
	if err != nil {
		m.agent.log.Warn("a desired state is refused; what is installed goes on", "cause", err)
		m.refused = &wire.Refusal{Generation: d.Generation, Reason: wire.Clip(err.Error())}
		return
	}
	m.refused = nil
	m.desired = d
	if !d.Repeated { // what was said about this generation's failures stays said
		m.agent.log.Info("a desired state is accepted", "generation", d.Generation, "releases", len(d.Releases))
		m.progress = map[string]wire.AppReport{}
	}
}

func (m *manager) want() reconcile.Desired {
	want := reconcile.Desired{Generation: m.desired.Generation, Apps: map[string]string{}}
	for _, p := range m.desired.Releases {
		want.Apps[p.Application] = wire.Digest(p.Digest).String()
	}
	if m.desired.Generation == 0 {
		// Nothing was desired yet: what is installed stays.
		for _, d := range m.agent.apps.list() {
			want.Apps[d.manifest.Application] = wire.Digest(d.release.Digest()).String()
		}
	}
	return want
}

// observe reads what the board has and runs.
func (m *manager) observe() (reconcile.Observed, error) {
	o := reconcile.Observed{Running: map[string]string{}, Previous: map[string]string{}, Releases: map[string]reconcile.Release{},
		Content: map[string]bool{}, Prepared: map[string]bool{}}
	_, up := m.agent.link.Session()
	o.Offline = !up
	m.mu.Lock()
	o.Failed = maps.Clone(m.failed)
	m.mu.Unlock()
	for _, d := range m.agent.apps.list() {
		o.Running[d.manifest.Application] = wire.Digest(d.release.Digest()).String()
	}
	records, err := m.agent.store.List(installArea)
	if err != nil {
		return o, err
	}
	for key, value := range records {
		var rec installed
		if err := json.Unmarshal(value, &rec); err != nil {
			return o, fmt.Errorf("read install record %s: %w", key, err)
		}
		if rec.Previous != "" {
			o.Previous[key[len(installArea):]] = rec.Previous
		}
	}
	manifests, err := m.agent.store.List(manifestArea)
	if err != nil {
		return o, err
	}
	for key, value := range manifests {
		rel, err := trust.Reopen(m.guard.state, value)
		if err != nil {
			continue // not vouched for by what is trusted now: it is fetched and judged again if it is wanted
		}
		r := reconcile.Release{Application: rel.Application()}
		for _, c := range rel.Components() {
			r.Components = append(r.Components, reconcile.Content{Digest: wire.Digest(c.Digest).String(), Size: c.Size})
		}
		o.Releases[key[len(manifestArea):]] = r
	}
	digests, err := m.agent.store.Blobs()
	if err != nil {
		return o, err
	}
	for _, d := range digests {
		o.Content[d] = true
		o.Prepared[d] = m.agent.code.Has(d)
	}
	return o, nil
}

// take does one step.
func (m *manager) take(ctx context.Context, s reconcile.Step) error {
	a := m.agent
	switch s.Kind {
	case reconcile.FetchRelease:
		m.phase(s, wire.PhaseVerifying, nil)
		_, err := m.guard.admit(ctx, m.pointer(s.Application), a.now())
		return err
	case reconcile.FetchComponent:
		return m.fetch(ctx, s)
	case reconcile.Prepare:
		m.phase(s, wire.PhaseCompiling, nil)
		comp, err := a.code.Load(s.Content.Digest, func() ([]byte, error) { return a.component(s.Content.Digest) })
		if err != nil {
			return err
		}
		comp.Close()
		return nil
	case reconcile.Activate:
		m.phase(s, wire.PhaseStarting, nil)
		return m.activate(ctx, s)
	case reconcile.Retire:
		defer a.report()
		return a.retire(ctx, s.Application)
	case reconcile.Sweep:
		return m.sweep(s.Drop)
	}
	return fmt.Errorf("take step: unknown kind %q", s.Kind)
}

func (m *manager) fetch(ctx context.Context, s reconcile.Step) error {
	target, err := wire.ParseDigest(s.Content.Digest)
	if err != nil {
		return err
	}
	have, err := m.bases(s)
	if err != nil {
		return err
	}
	return m.agent.link.Fetch(ctx, m.agent.store, target, s.Content.Size, have, func(done, total int64) {
		m.phase(s, wire.PhaseFetching, &wire.Progress{Done: done, Total: total})
	})
}

// bases are the components that a patch could start from, likeliest first: the fleet tries a few. What the component's own
// name stands for now is its predecessor; then come its neighbours, and what other applications have.
func (m *manager) bases(s reconcile.Step) ([]wire.Digest, error) {
	held, err := m.agent.store.Blobs()
	if err != nil {
		return nil, err
	}
	names := m.agent.componentNames(s.Release, s.Content.Digest)
	rank := map[string]int{}
	for _, d := range m.agent.apps.list() {
		for name, c := range d.manifest.Components {
			switch {
			case d.manifest.Application != s.Application:
			case names[name]:
				rank[c.Digest.String()] = 2
			default:
				rank[c.Digest.String()] = max(rank[c.Digest.String()], 1)
			}
		}
	}
	slices.SortStableFunc(held, func(a, b string) int { return rank[b] - rank[a] })
	var have []wire.Digest
	for _, h := range held {
		if d, err := wire.ParseDigest(h); err == nil && len(have) < wire.MaxHave {
			have = append(have, d)
		}
	}
	return have, nil
}

func (m *manager) activate(ctx context.Context, s reconcile.Step) error {
	a := m.agent
	rel, err := a.reopen(m.guard.state, s.Release)
	if err != nil {
		return err
	}
	if err := m.guard.state.Allows(rel.Application(), rel.Version()); err != nil {
		return err
	}
	if err := a.store.Put(map[string][]byte{attemptArea + s.Application: []byte(s.Release)}); err != nil {
		return err
	}
	d, err := a.deploy(ctx, rel, true)
	if err == nil {
		if err = a.serve(ctx, d); err != nil {
			d.close(ctx)
		}
	}
	if err != nil {
		return errors.Join(err, a.store.Put(map[string][]byte{attemptArea + s.Application: nil}))
	}
	m.mu.Lock()
	delete(m.progress, s.Application)
	delete(m.failed, s.Release)
	m.mu.Unlock()
	a.report()
	return nil
}

func (m *manager) sweep(digests []string) error {
	for _, d := range digests {
		if err := m.agent.store.DeleteBlob(d); err != nil {
			return err
		}
		if err := m.agent.code.Drop(d); err != nil {
			return err
		}
		if err := m.agent.store.Put(map[string][]byte{manifestArea + d: nil}); err != nil {
			return err
		}
	}
	return nil
}

// fail writes a failed step down: the release rests, and the report says why.
func (m *manager) fail(s reconcile.Step, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.agent.report()
	f := m.failed[s.Release]
	if f.Generation != m.desired.Generation {
		f = reconcile.Failure{Generation: m.desired.Generation}
	}
	f.Attempts++
	f.Err = err.Error()
	f.Retry = time.Now().Add(m.agent.cfg.rest(f.Attempts, mathrand.Float64()))
	m.failed[s.Release] = f
	phase := wire.PhaseFailed
	if passing(err) {
		phase = wire.PhaseFetching // it goes on by itself
		m.offline[s.Release] = true
	}
	m.agent.log.Warn("a step of an install failed", "step", s.Kind, "application", s.Application, "cause", err, "attempts", f.Attempts)
	p := m.report(s, phase)
	p.Error = wire.Clip(err.Error())
	m.progress[s.Application] = p
}
