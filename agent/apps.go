package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/files"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/runner"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	httptrigger "dunlin.dev/dunlin/agent/internal/trigger/http"
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"
	timertrigger "dunlin.dev/dunlin/agent/internal/trigger/timer"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// deployment is one release that is ready to serve events, or serves them.
type deployment struct {
	release  trust.Release
	manifest wire.Release
	runners  map[string]*runner.Runner // by component
	files    []*files.Directory        // of its components

	durability map[string]store.Durability // by trigger, as events name it
}

// applications are the deployments that serve, one for each application.
type applications struct {
	mu      sync.Mutex
	all     map[string]*deployment
	retired wire.Counters // of deployments that serve no more, since the agent started
	own     []timertrigger.Timer
	commits sync.Map // *sync.RWMutex by application: its versions share data
}

// retire adds what d counted to the totals.
func (s *applications) retire(d *deployment) {
	n := d.counters()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired.Handled += n.Handled
	s.retired.Failed += n.Failed
}

// counters of one deployment.
func (d *deployment) counters() (c wire.Counters) {
	for _, r := range d.runners {
		n := r.Counters()
		c.Handled += n.Handled
		c.Failed += n.Failed
	}
	return c
}

func (s *applications) list() []*deployment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*deployment
	for _, name := range slices.Sorted(maps.Keys(s.all)) {
		out = append(out, s.all[name])
	}
	return out
}

// installed is the record of what an application runs and can go back to: digests of releases.
type installed struct {
	Current  string `json:"current"`
	Previous string `json:"previous,omitempty"`
}

const (
	installArea  = "install/"
	attemptArea  = "attempt/" // written before an activation, removed after: one that is found at start ended the agent
	manifestArea = "manifest/"
)

// componentNames are the names under which a stored release has a component, or its files.
func (a *Agent) componentNames(release, digest string) map[string]bool {
	names := map[string]bool{}
	b, _, err := a.store.Get(manifestArea + release)
	if err != nil {
		return names
	}
	manifest, err := wire.ParseRelease(b)
	if err != nil {
		return names // it is fetched again; which bases are tried first is no matter of right or wrong
	}
	for name, c := range manifest.Components {
		names[name] = slices.ContainsFunc(contents(c), func(d wire.Digest) bool { return d.String() == digest })
	}
	return names
}

// deploy makes a release ready: loads its components, checks their imports against their grants and their exports against
// its triggers, and instantiates each once. Nothing serves yet, and on an error nothing is left.
func (a *Agent) deploy(ctx context.Context, rel trust.Release, probe bool) (_ *deployment, err error) {
	manifest, err := wire.ParseRelease(rel.Manifest())
	if err != nil {
		return nil, fmt.Errorf("deploy %s %s: %w", rel.Application(), rel.Version(), err)
	}
	d := &deployment{release: rel, manifest: manifest, runners: map[string]*runner.Runner{}, durability: map[string]store.Durability{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("deploy %s %s: %w", rel.Application(), rel.Version(), err)
			d.close(ctx)
		}
	}()
	if err := a.checkRoutes(manifest); err != nil {
		return nil, err
	}
	for id, durability := range manifest.Triggers.Durabilities() {
		if d.durability[manifest.Application+"/"+id], err = store.ParseDurability(string(durability)); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(manifest.Components)) {
		if err := a.add(ctx, d, name, probe); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// add checks one component and makes its runner. probe: instantiate it, which an install does and a start doesn't.
func (a *Agent) add(ctx context.Context, d *deployment, name string, probe bool) error {
	c := d.manifest.Components[name]
	load := func() (*engine.Component, error) {
		digest := c.Digest.String()
		return a.code.Load(digest, func() ([]byte, error) { return a.blob("component", digest) })
	}
	mounts, err := a.mounts(d, name)
	if err != nil {
		return err
	}
	if probe {
		comp, err := load()
		if err != nil {
			return fmt.Errorf("component %q: %w", name, err)
		}
		defer comp.Close()
		if err := checkComponent(a.host, comp, name, d.manifest); err != nil {
			return err
		}
		if err := a.probe(ctx, comp, c, mounts); err != nil {
			return fmt.Errorf("component %q does not start: %w", name, err)
		}
	}
	commits, _ := a.apps.commits.LoadOrStore(d.manifest.Application, new(sync.RWMutex))
	l := c.Limits.Complete()
	quota := store.Quota{Stores: grantsOf(c).KeyvalueStores(), Bytes: l.KeyValue}
	d.runners[name] = runner.New(runner.Config{
		Engine: a.engine, Host: a.host, Load: load,
		Application: d.manifest.Application, Name: name, Grants: grantsOf(c), Environ: c.Environment, Mounts: mounts,
		Limits: runner.Limits{Memory: uint64(l.Memory), Time: time.Duration(l.Time), CPU: time.Duration(l.CPU), Payload: l.Payload,
			Concurrency: l.Concurrency, Queue: l.Queue, LogLines: l.LogLines, Requests: l.Requests},
		Begin: func(e *trigger.Event) runner.Tx {
			return a.store.Begin(d.manifest.Application).Within(quota).Durable(d.durability[e.Trigger]).Stamp(a.stamp)
		},
		Commits: commits.(*sync.RWMutex), Log: a.log, Quiet: a.quiet, Moment: a.moment,
	})
	return nil
}

// probe instantiates a component once, within its own limits.
func (a *Agent) probe(ctx context.Context, comp *engine.Component, c wire.Component, mounts []host.Mount) error {
	limit := time.Duration(c.Limits.Time)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than its time limit of %s", limit))
	defer cancel()
	g, err := a.host.Instantiate(ctx, a.engine, comp, host.Limits{Engine: engine.Limits{Memory: uint64(c.Limits.Memory)}}, &host.Env{Grants: grantsOf(c), Environ: c.Environment, Mounts: mounts})
	var trap *engine.Trap
	if errors.As(err, &trap) && trap.Code == engine.TrapMemory {
		return fmt.Errorf("memory limit of %d bytes: %w", c.Limits.Memory, err)
	}
	if err != nil {
		return err
	}
	g.Close()
	return nil
}

// blob of a component or its files.
func (a *Agent) blob(what, digest string) ([]byte, error) {
	b, ok, err := a.store.Blob(digest)
	if err == nil && !ok {
		err = fmt.Errorf("read %s %s: it is not on the board", what, digest)
	}
	return b, err
}

func grantsOf(c wire.Component) host.Grants {
	return host.Grants{OutboundHosts: c.Outbound, DeferredHosts: c.Deferred, Stores: c.KeyValue, BlobStores: c.BlobStores, Publish: c.Publish, Variables: c.Variables}
}

// checkComponent reports every import of a component that its grants don't cover, and every trigger that it can't serve.
func checkComponent(h *host.Host, comp *engine.Component, name string, m wire.Release) error {
	errs := []error{h.Check(comp, name, grantsOf(m.Components[name]))}
	can := host.HandlersOf(comp)
	need := func(kind, id string, ok bool, exports string) {
		if !ok {
			errs = append(errs, fmt.Errorf("component %q can't serve [[trigger.%s]] %s: it exports no %s", name, kind, id, exports))
		}
	}
	for _, t := range m.Triggers.HTTP {
		if t.Component == name {
			need("http", t.Route, can.HTTP != nil, "wasi:http/incoming-handler@0.2.x")
		}
	}
	for _, t := range m.Triggers.MQTT {
		if t.Component == name {
			need("mqtt", t.Topic, can.MQTT != nil || can.SpinMQTT != nil, "wasi:messaging/incoming-handler@0.2.0-draft (or Spin's handle-message)")
		}
	}
	for _, t := range m.Triggers.Timer {
		if t.Component == name {
			need("timer", t.ID, can.Timer != nil || can.SpinCron != nil || can.Command != nil,
				"dunlin:timer/handler@0.1.0 (or wasi:cli/run@0.2.x, or Spin's handle-cron-event)")
		}
	}
	return errors.Join(errs...)
}

// checkRoutes refuses a route that matches the same paths as one that another application serves already.
func (a *Agent) checkRoutes(m wire.Release) error {
	matches := func(route string) string {
		same, err := wire.CheckRoute(route)
		if err != nil {
			return route // no release was parsed with it
		}
		return same
	}
	var errs []error
	for _, d := range a.apps.list() {
		if d.manifest.Application == m.Application {
			continue
		}
		for _, theirs := range d.manifest.Triggers.HTTP {
			for _, ours := range m.Triggers.HTTP {
				if matches(ours.Route) == matches(theirs.Route) {
					errs = append(errs, fmt.Errorf("route %q is served by application %q already (trigger %s)", ours.Route, d.manifest.Application, theirs.ID))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// serve puts d in the place of its application's present deployment, writes that down, and then lets the old one finish what
// it began. No event falls between: the sources replace their bindings at once and events in flight end where they began.
func (a *Agent) serve(ctx context.Context, d *deployment) error {
	app := d.manifest.Application
	next := wire.Digest(d.release.Digest()).String()
	record, _, err := a.installed(app)
	if err != nil {
		return err
	}
	if record.Current != next {
		record = installed{Current: next, Previous: record.Current}
	}
	b, err := json.Marshal(record)
	if err != nil {
		return err
	}
	old, err := a.replace(app, d)
	if err != nil {
		return err
	}
	crash.At("activated")
	if err := a.store.Put(map[string][]byte{installArea + app: b, attemptArea + app: nil, removedArea + app: nil}); err != nil {
		_, undo := a.replace(app, old)
		return errors.Join(err, undo)
	}
	a.log.Info("application serves", "application", app, "version", d.manifest.Version)
	if old != nil {
		old.close(ctx)
		a.apps.retire(old)
	}
	return nil
}

func (a *Agent) installed(app string) (installed, bool, error) {
	var rec installed
	b, ok, err := a.store.Get(installArea + app)
	if err != nil || !ok {
		return rec, false, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&rec); err != nil {
		return rec, false, fmt.Errorf("read install record of %s: %w", app, err)
	}
	return rec, true, nil
}

// replace changes what serves and rebinds the sources; it returns what served before. On an error all is as it was.
func (a *Agent) replace(app string, d *deployment) (old *deployment, err error) {
	a.apps.mu.Lock()
	defer a.apps.mu.Unlock()
	old = a.apps.all[app]
	put := func(d *deployment) {
		delete(a.apps.all, app)
		if d != nil {
			a.apps.all[app] = d
		}
	}
	put(d)
	if err := a.bind(); err != nil {
		put(old)
		return nil, errors.Join(err, a.bind())
	}
	var rules []store.UplinkRule // what a retired application left behind waits by the board's own
	if d != nil {
		rules = uplinkRules(d.manifest)
	}
	a.store.SetUplinkRules(app, rules)
	return old, nil
}

// bind gives the sources the triggers of every application that serves.
func (a *Agent) bind() error {
	var routes []httptrigger.Route
	var subs []mqtttrigger.Subscription
	var ids []string // of these
	timers := slices.Clone(a.apps.own)
	for _, name := range slices.Sorted(maps.Keys(a.apps.all)) {
		d := a.apps.all[name]
		id := func(t string) string { return name + "/" + t }
		for _, t := range d.manifest.Triggers.HTTP {
			r := httptrigger.Route{ID: id(t.ID), Pattern: t.Route, Spin: t.Spin}
			if t.Static != nil {
				r.Handle = httptrigger.Static(t.Static.Status, t.Static.Headers, t.Static.Body)
			} else {
				r.Handle = d.runners[t.Component].Handle
			}
			routes = append(routes, r)
		}
		for _, t := range d.manifest.Triggers.MQTT {
			where, err := wire.ParseMessageID(t.MessageID)
			if err != nil {
				return err
			}
			ids = append(ids, id(t.ID))
			subs = append(subs, mqtttrigger.Subscription{ID: id(t.ID), Filter: t.Topic, QoS: t.QoS, MessageID: where, Unordered: t.Unordered, Handle: d.runners[t.Component].Handle})
		}
		for _, t := range d.manifest.Triggers.Timer {
			timers = append(timers, timertrigger.Timer{ID: id(t.ID), Every: time.Duration(t.Every), Cron: t.Cron, Timezone: t.Timezone,
				Missed: timertrigger.Missed(t.Missed), Overlap: timertrigger.Overlap(t.Overlap), Jitter: time.Duration(t.Jitter), Handle: d.runners[t.Component].Handle})
		}
	}
	a.inbox.Serve(ids)
	return errors.Join(a.http.Set(routes), a.bus.Set(subs), a.timers.Set(timers))
}

// close lets the deployment's events end, at most for drainTime, and frees it.
func (d *deployment) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	for _, r := range d.runners {
		_ = r.Close(ctx) // its error says that events were cut off, and each of those has said so itself
	}
	for _, f := range d.files {
		_ = f.Close() // nothing was written to it
	}
}
