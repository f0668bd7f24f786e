package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/reconcile"
	"dunlin.dev/dunlin/fleet/wire"
)

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
		if err := a.fits(0, compiled*s.Content.Size); err != nil {
			return fmt.Errorf("compile %s: %w", s.Content.Digest, err)
		}
		comp, err := a.code.Load(s.Content.Digest, func() ([]byte, error) { return a.blob("component", s.Content.Digest) })
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
	case reconcile.Purge:
		defer a.report()
		return a.purge(s.Application)
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
	return m.agent.link.Fetch(ctx, transfers{m.agent.store, m.agent.fits}, target, s.Content.Size, have, func(done, total int64) {
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
			for _, digest := range contents(c) {
				switch {
				case d.manifest.Application != s.Application:
				case names[name]:
					rank[digest.String()] = 2
				default:
					rank[digest.String()] = max(rank[digest.String()], 1)
				}
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
	crash.At("activate")
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

// drop a blob and what was made of it.
func (a *Agent) drop(digest string) error {
	return errors.Join(a.unpacked.Drop(digest), a.code.Drop(digest), a.store.DeleteBlob(digest))
}

func (m *manager) sweep(digests []string) error {
	for _, d := range digests {
		if err := m.agent.drop(d); err != nil {
			return err
		}
		if err := m.agent.store.EndTransfer(d); err != nil {
			return err
		}
		if err := m.agent.store.Put(map[string][]byte{manifestArea + d: nil}); err != nil {
			return err
		}
	}
	return nil
}
