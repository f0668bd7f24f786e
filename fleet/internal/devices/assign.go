package devices

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// ErrNoFleet is in the chain of an error about a fleet that has no root yet.
var ErrNoFleet = errors.New("the fleet has no keys yet")

// maxRules bounds the rules that are kept. Rules that newer ones cover are dropped first, so only that many different
// selectors reach it.
const maxRules = 10_000

// choose applies the rules that a device hasn't followed yet: of each application, the newest that matches. What is
// assigned stays until a newer rule says otherwise, also when a label goes away: a board never loses an application because
// of a typing error on it. It reports whether anything changed.
func choose(assigned map[string]store.Choice, rules []store.Rule, name string, labels map[string]string) (map[string]store.Choice, bool) {
	next, changed := maps.Clone(assigned), false
	if next == nil {
		next = map[string]store.Choice{}
	}
	for _, r := range rules {
		old, ok := next[r.Release.Application]
		if !r.Selector.Matches(name, labels) || ok && old.Rule >= r.Sequence {
			continue
		}
		if !ok && len(next) >= wire.MaxReleases {
			continue
		}
		next[r.Release.Application] = store.Choice{Pointer: r.Release, Rule: r.Sequence}
		changed = changed || old.Pointer != r.Release && (old.Version != "" || r.Release.Version != "")
	}
	return next, changed
}

// covered gives the rules that a newer one made pointless: of the same application with the same selector, or any of it
// after one for all devices.
func covered(rules []store.Rule, newest store.Rule) (keep []store.Rule, drop []uint64) {
	for _, r := range rules {
		same := r.Selector.All == newest.Selector.All && r.Selector.Device == newest.Selector.Device && maps.Equal(r.Selector.Labels, newest.Selector.Labels)
		if r.Release.Application == newest.Release.Application && (newest.Selector.All || same) {
			drop = append(drop, r.Sequence)
			continue
		}
		keep = append(keep, r)
	}
	return append(keep, newest), drop
}

// assign brings v up to date with the rules, and signs its desired state if that changed.
func (d *Devices) assign(v *device) (changed bool, err error) {
	v.Assigned, changed = choose(v.Assigned, d.rules, v.Name, v.Hello.Labels)
	if !changed {
		return false, nil
	}
	return true, d.sign(v)
}

// sign the desired state of v in its next generation.
func (d *Devices) sign(v *device) error {
	desired := wire.Desired{Fleet: d.fleet, Device: v.Name, Generation: v.Generation + 1, Issued: d.cfg.Now().UTC().Truncate(time.Second)}
	for _, c := range v.Assigned {
		if c.Version != "" {
			desired.Releases = append(desired.Releases, c.Pointer)
		}
	}
	slices.SortFunc(desired.Releases, func(a, b wire.Pointer) int { return strings.Compare(a.Application, b.Application) })
	payload, err := wire.MarshalDesired(desired)
	if err != nil {
		return fmt.Errorf("sign desired state of %s: %w", v.Name, err)
	}
	envelope, err := trust.SignDesired(payload, d.cfg.Director)
	if err != nil {
		return fmt.Errorf("sign desired state of %s: %w", v.Name, err)
	}
	v.Generation, v.Envelope = desired.Generation, envelope
	return nil
}

// Assign makes a rule of it that the devices which s picks run release (without a version: nothing of its application), applies it to those that are known, and returns
// them when all of that is durable.
func (d *Devices) Assign(release wire.Pointer, s model.Selector) (model.Assigned, error) {
	if err := s.Check(); err != nil {
		return model.Assigned{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fleet == "" {
		return model.Assigned{}, fmt.Errorf("assign %s: %w", release.Target, ErrNoFleet)
	}
	rule := store.Rule{Sequence: 1, At: d.cfg.Now().UTC(), Selector: s, Release: release}
	if n := len(d.rules); n > 0 {
		rule.Sequence = d.rules[n-1].Sequence + 1
	}
	if release.Version == "" && !slices.ContainsFunc(d.rules, func(r store.Rule) bool { return r.Release.Application == release.Application }) {
		return model.Assigned{}, fmt.Errorf("remove application %s, which no board was ever to run: %w", release.Application, store.ErrNotFound)
	}
	rules, drop := covered(d.rules, rule)
	if len(rules) > maxRules {
		return model.Assigned{}, fmt.Errorf("assign %s: %d rules, limit is %d: assign by label or to all", release.Target, len(rules), maxRules)
	}
	out := model.Assigned{Devices: []model.AssignedState{}}
	var records []store.Device
	var changes []*device
	for _, name := range slices.Sorted(maps.Keys(d.all)) {
		v := d.all[name]
		if !s.Matches(name, v.Hello.Labels) {
			continue
		}
		next := *v
		var changed bool
		next.Assigned, changed = choose(v.Assigned, []store.Rule{rule}, name, v.Hello.Labels)
		if changed {
			if err := d.sign(&next); err != nil {
				return model.Assigned{}, err
			}
			changes = append(changes, &next)
		}
		records = append(records, next.Device)
		out.Devices = append(out.Devices, model.AssignedState{Name: name, Generation: next.Generation, Online: v.online})
	}
	if err := d.cfg.Store.PutRule(rule, records, drop); err != nil {
		return model.Assigned{}, fmt.Errorf("assign %s: %w", release.Target, err)
	}
	d.rules = rules
	for _, r := range records {
		d.all[r.Name].Device, d.all[r.Name].dirty = r, false
	}
	for _, v := range changes {
		d.publish(d.all[v.Name])
	}
	d.bump()
	out.Revision = d.revision
	return out, nil
}
