package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"dunlin.dev/dunlin/agent/internal/link"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// trustArea is where the store keeps trust.State, one record a field.
const trustArea = "trust/"

// guard holds what the board believes: the pinned root, and the state that grows from it. Only the manager's goroutine uses it.
type guard struct {
	agent  *Agent
	root   []byte
	device string
	state  trust.State
	stored map[string][]byte // records of state that are in the store
	frozen bool              // the newest metadata has expired: nothing is installed until newer comes
}

// openGuard reads the pinned root and the stored state.
func openGuard(a *Agent, f Fleet) (*guard, error) {
	root, err := os.ReadFile(f.Root)
	if err != nil {
		return nil, fmt.Errorf("read root of trust: %w (it is the root.json that `dunlin keys init` wrote)", err)
	}
	info, err := trust.InspectRoot(root)
	if err != nil {
		return nil, fmt.Errorf("read root of trust %s: %w", f.Root, err)
	}
	if info.Fleet != f.Name {
		return nil, fmt.Errorf("check root of trust: %s is of fleet %q, the config says %q", f.Root, info.Fleet, f.Name)
	}
	records, err := a.store.List(trustArea)
	if err != nil {
		return nil, err
	}
	g := &guard{agent: a, root: root, device: f.Device, stored: map[string][]byte{}}
	for key, value := range records {
		g.stored[key[len(trustArea):]] = value
	}
	if g.state, err = trust.ParseState(g.stored); err != nil {
		return nil, fmt.Errorf("read trusted state: %w", err)
	}
	// A board that was given to another fleet by its config alone would refuse all that this one desires.
	if _, err := g.verifier(a.now()); errors.Is(err, trust.WrongFleet) {
		return nil, fmt.Errorf("check root of trust: %w (the store is %s)", err, a.store.Path())
	}
	return g, nil
}

func (g *guard) verifier(now time.Time) (*trust.Verifier, error) {
	return trust.Open(g.root, g.state, now)
}

// save commits the state in one transaction, together with other records.
func (g *guard) save(s trust.State, with map[string][]byte) error {
	changes := maps.Clone(with)
	if changes == nil {
		changes = map[string][]byte{}
	}
	next := s.Records()
	for key, value := range next {
		if old, ok := g.stored[key]; !ok || string(old) != string(value) {
			changes[trustArea+key] = value
		}
	}
	for key := range g.stored {
		if _, kept := next[key]; !kept {
			changes[trustArea+key] = nil
		}
	}
	if len(changes) > 0 {
		if err := g.agent.store.Put(changes); err != nil {
			return err
		}
	}
	g.state, g.stored = s, next
	return nil
}

// refresh fetches newer metadata in TUF's order. What was verified is kept even when it stops half-way: it still protects
// against going back.
func (g *guard) refresh(ctx context.Context, now time.Time) (*trust.Verifier, error) {
	v, err := g.verifier(now)
	if err != nil {
		return nil, err
	}
	err = g.pull(ctx, v)
	if !passing(err) { // a link that broke off says nothing about the metadata
		g.frozen = errors.Is(err, trust.Expired)
	}
	return v, errors.Join(err, g.save(v.State(), nil))
}

func (g *guard) pull(ctx context.Context, v *trust.Verifier) error {
	for f, more := v.Next(); more; f, more = v.Next() {
		b, err := g.agent.link.Meta(ctx, wire.Role(f.Role), f.Version, f.MaxBytes)
		var answer *wire.Error
		switch {
		case err == nil:
			err = v.Update(f.Role, b)
		case f.Role == trust.Root && errors.As(err, &answer) && answer.Code == wire.CodeNotFound:
			err = v.NoNewerRoot()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// accept judges a desired envelope with fresh metadata, and keeps it when it is good.
func (g *guard) accept(ctx context.Context, envelope []byte, now time.Time) (trust.Desired, error) {
	v, err := g.refresh(ctx, now)
	if err != nil {
		return trust.Desired{}, err
	}
	d, err := v.Desired(envelope, g.device)
	if err != nil {
		return d, err
	}
	return d, g.save(v.State(), nil)
}

// admit fetches a release's manifest, verifies it with fresh metadata and stores it.
func (g *guard) admit(ctx context.Context, p trust.Pointer, now time.Time) (trust.Release, error) {
	v, err := g.refresh(ctx, now)
	if err != nil {
		return trust.Release{}, err
	}
	b, err := g.agent.link.Release(ctx, wire.Digest(p.Digest))
	if err != nil {
		return trust.Release{}, err
	}
	rel, err := v.Release(p.Target, b)
	if err != nil {
		return trust.Release{}, err
	}
	// Together: a manifest without the state that vouches for it could not be opened again.
	return rel, g.save(v.State(), map[string][]byte{manifestArea + wire.Digest(rel.Digest()).String(): rel.Manifest()})
}

// passing reports whether trying the same again later may succeed, with nothing changed on either side.
func passing(err error) bool {
	var answer *wire.Error
	switch {
	case errors.Is(err, link.ErrDown), errors.Is(err, context.Canceled):
		return true
	case errors.As(err, &answer):
		return answer.Retryable()
	}
	return link.Silent(err)
}
