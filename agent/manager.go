package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
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
	waits    map[string]waiting           // what some of those only wait for
	progress map[string]wire.AppReport    // by application: what is under way or has failed
	refused  *wire.Refusal
	attempts int       // of the envelope that could not be judged
	retryAt  time.Time // when it is judged again
	frozen   bool
	versions wire.TrustReport
	root     []byte      // trusted, as it is stored
	state    trust.State // the guard's; its newest signed time is the clock's floor
}

// waiting is what a step that failed waits for, with nothing wrong with its release.
type waiting byte

const (
	waitsForLink waiting = iota + 1
	waitsForRoom
)

func newManager(a *Agent, g *guard) (*manager, error) {
	m := &manager{agent: a, guard: g, wake: make(chan struct{}, 1), failed: map[string]reconcile.Failure{},
		waits: map[string]waiting{}, progress: map[string]wire.AppReport{}}
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
	m.state = m.guard.state // which replaces it, and changes nothing in it
	m.frozen = m.guard.frozen
	m.versions = versionsOf(m.guard.state)
	if m.root = m.guard.state.Root; m.root == nil {
		m.root = m.guard.root
	}
}

// trusted is the root by which the fleet's requests are judged.
func (m *manager) trusted() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.root
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
	m.envelope, m.attempts, m.retryAt = envelope, 0, time.Time{}
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
	m.retryAt = time.Time{}
	m.mu.Unlock()
	m.retry(waitsForLink)
}

// retry at once what only waited for one thing.
func (m *manager) retry(what waiting) {
	m.mu.Lock()
	for release, w := range m.waits {
		if w == what {
			delete(m.failed, release)
			delete(m.waits, release)
		}
	}
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
		var again time.Duration
		if o.Expired, again, err = m.agent.expired(); err != nil {
			return err
		}
		want := m.want()
		at := m.nextAlarm(o, want, again)
		if step, ok := reconcile.Next(o, want, time.Now()); ok && ctx.Err() == nil {
			err := m.take(ctx, step)
			housekeeping := step.Kind == reconcile.Retire || step.Kind == reconcile.Purge || step.Kind == reconcile.Sweep
			switch {
			case err == nil:
				m.succeed(step)
				continue
			case !housekeeping:
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

// nextAlarm: removed is when those are to be looked at again; 0: there are none.
func (m *manager) nextAlarm(o reconcile.Observed, want reconcile.Desired, removed time.Duration) time.Time {
	at := reconcile.Wake(o, want, time.Now())
	if look := time.Now().Add(removed); removed > 0 && (at.IsZero() || look.Before(at)) {
		at = look
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.envelope != nil && !m.retryAt.IsZero() && (at.IsZero() || m.retryAt.Before(at)) {
		at = m.retryAt
	}
	return at
}

// judge verifies the envelope that waits. One that is refused is reported and forgotten; one that can't be judged now stays.
func (m *manager) judge(ctx context.Context) {
	m.mu.Lock()
	envelope := m.envelope
	wait := time.Now().Before(m.retryAt)
	m.mu.Unlock()
	if envelope == nil || wait {
		return
	}
	d, err := m.guard.accept(ctx, envelope, m.agent.now())
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.agent.report()
	newer := string(m.envelope) != string(envelope) // arrived meanwhile, and is judged next
	// Metadata that has expired is renewed by the fleet, or was only seen so by a clock that is wrong yet. What is no verdict (a
	// disk that is full, a server that answers nonsense) says nothing about the envelope.
	var verdict *trust.Error
	again := err != nil && (!errors.As(err, &verdict) || errors.Is(err, trust.Expired))
	switch {
	case newer:
	case again:
		m.attempts++
		m.retryAt = time.Now().Add(m.agent.cfg.rest(m.attempts, mathrand.Float64()))
	default:
		m.envelope = nil
	}
	if passing(err) {
		return
	}
	if err != nil && verdict == nil {
		m.agent.log.Warn("a desired state can't be judged yet", "cause", err)
		m.refused = &wire.Refusal{Reason: wire.Clip(err.Error())} // said, since it may stay so
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
		Content: map[string]bool{}, Prepared: map[string]bool{}, Partial: map[string]bool{}, Stopped: map[string]bool{}}
	_, up := m.agent.link.Session()
	o.Offline = !up
	_, missing := m.agent.short()
	o.Short = missing > 0
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
		if app := key[len(installArea):]; o.Running[app] == "" {
			o.Stopped[app] = true
		}
		var rec installed
		if json.Unmarshal(value, &rec) == nil && rec.Previous != "" {
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
		for _, c := range rel.Files() {
			r.Files = append(r.Files, reconcile.Content{Digest: wire.Digest(c.Digest).String(), Size: c.Size})
		}
		o.Releases[key[len(manifestArea):]] = r
	}
	digests, err := m.agent.store.Blobs()
	if err != nil {
		return o, err
	}
	for _, d := range digests {
		o.Content[d] = true
		if m.agent.code.Has(d) {
			o.Prepared[d] = true
		}
	}
	partial, err := m.agent.store.Transfers()
	if err != nil {
		return o, err
	}
	for _, d := range partial {
		o.Partial[d] = true
	}
	return o, nil
}

// succeed forgets the failures of a release that made progress; one that runs and was made whole is under way no longer.
func (m *manager) succeed(s reconcile.Step) {
	whole := false
	for _, d := range m.agent.apps.list() {
		whole = whole || wire.Digest(d.release.Digest()).String() == s.Release
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.failed, s.Release)
	delete(m.waits, s.Release)
	if whole {
		delete(m.progress, s.Application)
		m.agent.report()
	}
}

// fail writes a failed step down: the release rests, and the report says why.
func (m *manager) fail(s reconcile.Step, err error) {
	if errors.Is(err, context.Canceled) {
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
	switch {
	case passing(err):
		phase = wire.PhaseFetching // it goes on by itself
		m.waits[s.Release] = waitsForLink
	case spaceless(err):
		m.waits[s.Release] = waitsForRoom
	}
	m.agent.log.Warn("a step of an install failed", "step", s.Kind, "application", s.Application, "cause", err, "attempts", f.Attempts)
	p := m.report(s, phase)
	p.Error = wire.Clip(err.Error())
	m.progress[s.Application] = p
}
