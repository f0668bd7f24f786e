// Package devices knows every board of the fleet: what it said last, whether it is connected, what it should run, and the
// rules that decide that. Desired states are signed here, for one board each, with a generation that only grows.
package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// ErrTooMany is in the chain of an error about a board beyond the fleet's limit.
var ErrTooMany = errors.New("the fleet has as many devices as it may")

// ErrOffline is in the chain of an error about a board that is not connected.
var ErrOffline = errors.New("it is not connected")

// Config of Devices.
type Config struct {
	Store      *store.Store
	Director   trust.Key
	Publish    func(device string, envelope []byte) error // retained, to the board; may block for seconds
	Now        func() time.Time
	Log        *slog.Logger
	MaxDevices int // 0 is 10,000
}

// Devices is all boards of a fleet. Safe for concurrent use.
type Devices struct {
	cfg   Config
	group sync.WaitGroup

	mu       sync.Mutex
	fleet    string
	all      map[string]*device
	rules    []store.Rule      // oldest first
	pending  map[string][]byte // envelopes to publish; a key without a value while its goroutine runs
	revision uint64
	changed  chan struct{} // closed and replaced at each change
}

type device struct {
	store.Device
	connection uint64 // that said hello; 0 when offline
	online     bool
	dirty      bool // reported since it was written
	published  time.Time
}

// Open loads all devices; all are offline.
func Open(cfg Config) (*Devices, error) {
	if cfg.MaxDevices == 0 {
		cfg.MaxDevices = 10_000
	}
	d := &Devices{cfg: cfg, all: map[string]*device{}, pending: map[string][]byte{}, changed: make(chan struct{})}
	list, err := cfg.Store.Devices()
	if err != nil {
		return nil, fmt.Errorf("load devices: %w", err)
	}
	for _, r := range list {
		d.all[r.Name] = &device{Device: r}
	}
	if d.rules, err = cfg.Store.Rules(); err != nil {
		return nil, fmt.Errorf("load rules: %w", err)
	}
	return d, nil
}

// SetFleet names the fleet; before that, nothing can be assigned.
func (d *Devices) SetFleet(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fleet = name
}

// Envelopes gives all desired states as they were signed, by device.
func (d *Devices) Envelopes() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string][]byte{}
	for name, v := range d.all {
		if v.Envelope != nil {
			out[name] = v.Envelope
		}
	}
	return out
}

// Admits reports whether a board of that name is known, or would be taken.
func (d *Devices) Admits(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[name] != nil || len(d.all) < d.cfg.MaxDevices
}

// Hello registers a board, or says that a known one is back, and assigns what rules say.
// A new board and a new assignment are durable when it returns.
func (d *Devices) Hello(name string, connection uint64, h wire.Hello) error {
	if connection == 0 {
		return nil // of a connection that a newer one has replaced
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	old, known := d.all[name]
	if !known {
		if len(d.all) >= d.cfg.MaxDevices {
			return fmt.Errorf("register device %s: %w (%d)", name, ErrTooMany, d.cfg.MaxDevices)
		}
		old = &device{Device: store.Device{Name: name, FirstSeen: now}}
	}
	next := *old
	next.Hello, next.LastSeen, next.connection, next.online = h, now, connection, true
	changed, err := d.assign(&next)
	if err != nil {
		return err
	}
	// A thousand boards that come back at once would each wait for an fsync: what has nothing new goes with the next flush.
	if next.dirty = known && !changed; !next.dirty {
		if err := d.cfg.Store.PutDevices(next.Device); err != nil {
			return fmt.Errorf("register device %s: %w", name, err)
		}
	}
	d.all[name] = &next
	if changed {
		d.publish(&next)
	}
	d.bump()
	d.cfg.Log.Info("device is here", "device", name, "agent", h.Agent, "session", h.Session, "new", !known)
	return nil
}

// State takes a board's word, or its last will's, that it is online or not. Only the session that said hello last counts:
// a will of an older connection comes late.
func (d *Devices) State(name string, s wire.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.all[name]
	if v == nil || v.Hello.Session != s.Session || v.connection == 0 || v.online == s.Online {
		return
	}
	v.online = s.Online
	v.LastSeen, v.dirty = d.cfg.Now(), true
	d.bump()
	d.cfg.Log.Info("device changed state", "device", name, "online", s.Online, "session", s.Session)
}

// Disconnected says that a connection is gone. A newer one of the same board is not touched.
func (d *Devices) Disconnected(name string, connection uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.all[name]
	if v == nil || connection == 0 || v.connection != connection {
		return
	}
	v.connection = 0
	if !v.online {
		return
	}
	v.online, v.LastSeen, v.dirty = false, d.cfg.Now(), true
	d.bump()
	d.cfg.Log.Info("device is gone", "device", name)
}

// republishAfter is how long a board may be behind its desired generation before that is published again.
const republishAfter = 10 * time.Second

// Reported takes a board's report of itself, unless a newer one came before it.
func (d *Devices) Reported(name string, r wire.Reported) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.all[name]
	if v == nil || v.Hello.Session != r.Session {
		return nil // hello comes first, and what it starts ends what was before
	}
	if v.Reported != nil && v.Reported.Session == r.Session && r.Sequence <= v.Reported.Sequence {
		return nil
	}
	v.Reported, v.LastSeen, v.dirty = &r, d.cfg.Now(), true
	d.bump()
	switch {
	case r.Generation > v.Generation:
		return d.catchUp(v, r.Generation)
	case r.Generation < v.Generation && (r.Refused == nil || r.Refused.Generation < v.Generation) && d.cfg.Now().Sub(v.published) > republishAfter:
		d.publish(v) // it was lost: a full queue, say
	}
	return nil
}

// maxGeneration bounds what a board can make us count up to.
const maxGeneration = 1 << 53

// catchUp signs the desired state above a generation that the board has seen and we haven't: our database is older than
// the board's, a backup.
func (d *Devices) catchUp(v *device, seen uint64) error {
	if seen >= maxGeneration || v.Envelope == nil {
		return nil
	}
	next := *v
	next.Generation = seen
	if err := d.sign(&next); err != nil {
		return err
	}
	if err := d.cfg.Store.PutDevices(next.Device); err != nil {
		return fmt.Errorf("raise generation of %s: %w", v.Name, err)
	}
	d.cfg.Log.Warn("device has seen a newer generation than this server: was the database restored?", "device", v.Name, "seen", seen)
	next.dirty = false
	*v = next
	d.publish(v)
	return nil
}

// Flush writes what was reported since the last flush, in one transaction. Losing a few seconds of reports is harmless: a
// board's next one says everything again.
func (d *Devices) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []store.Device
	for _, v := range d.all {
		if v.dirty {
			list = append(list, v.Device)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := d.cfg.Store.PutDevices(list...); err != nil {
		return fmt.Errorf("write reports: %w", err)
	}
	for _, r := range list {
		d.all[r.Name].dirty = false
	}
	return nil
}

// Wait until no envelope is being published.
func (d *Devices) Wait() { d.group.Wait() }

// publish an envelope in a goroutine of the board's own: one that is stuck holds up nobody else. Of several that wait, the
// newest goes. Called with mu held.
func (d *Devices) publish(v *device) {
	v.published = d.cfg.Now()
	name := v.Name
	_, running := d.pending[name]
	d.pending[name] = v.Envelope
	if running {
		return
	}
	d.group.Go(func() {
		for {
			d.mu.Lock()
			envelope := d.pending[name]
			if envelope == nil {
				delete(d.pending, name)
				d.mu.Unlock()
				return
			}
			d.pending[name] = nil
			d.mu.Unlock()
			if err := d.cfg.Publish(name, envelope); err != nil {
				d.cfg.Log.Warn("publish desired state", "device", name, "error", err)
			}
		}
	})
}

func (d *Devices) bump() {
	d.revision++
	close(d.changed)
	d.changed = make(chan struct{})
}

// Online counts the boards that are connected.
func (d *Devices) Online() (online, all int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.all {
		if v.online {
			online++
		}
	}
	return online, len(d.all)
}

// List gives all devices by name, once the revision is above after or ctx is done.
func (d *Devices) List(ctx context.Context, after uint64) model.Devices {
	for {
		d.mu.Lock()
		if d.revision > after || ctx.Err() != nil {
			defer d.mu.Unlock()
			out := model.Devices{Revision: d.revision, Devices: []model.Device{}}
			for _, name := range slices.Sorted(maps.Keys(d.all)) {
				out.Devices = append(out.Devices, view(d.all[name]))
			}
			return out
		}
		changed := d.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// Get gives one device.
func (d *Devices) Get(name string) (model.Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.all[name]
	if v == nil {
		return model.Device{}, fmt.Errorf("device %s: %w", name, store.ErrNotFound)
	}
	return view(v), nil
}

// Present is what a connected board said last of itself. ErrOffline: it isn't connected.
func (d *Devices) Present(name string) (wire.Hello, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.all[name]
	switch {
	case v == nil:
		return wire.Hello{}, fmt.Errorf("device %s: %w", name, store.ErrNotFound)
	case !v.online:
		return wire.Hello{}, fmt.Errorf("device %s: %w: last seen %s", name, ErrOffline, v.LastSeen.UTC().Format(time.RFC3339))
	}
	return v.Hello, nil
}

func view(v *device) model.Device {
	m := model.Device{
		Name: v.Name, Online: v.online, FirstSeen: v.FirstSeen, LastSeen: v.LastSeen, Labels: maps.Clone(v.Hello.Labels),
		Agent: v.Hello.Agent, Arch: v.Hello.Arch, Boot: v.Hello.Boot, Generation: model.Generation{Desired: v.Generation},
	}
	apps := map[string]*model.Application{}
	for name, c := range v.Assigned {
		if c.Version == "" {
			continue
		}
		digest := c.Release
		apps[name] = &model.Application{Application: name, Desired: c.Version, Digest: &digest}
	}
	if r := v.Reported; r != nil {
		m.Generation.Reported, m.Refused, m.Frozen, m.Clock, m.ReportedAt = r.Generation, r.Refused, r.Frozen, r.Clock, r.At
		m.Triggers, m.Counters, m.Trust, m.Outbox, m.Removed, m.Disk = slices.Clone(r.Triggers), r.Counters, r.Trust, r.Outbox, slices.Clone(r.Removed), r.Disk
		for _, a := range r.Apps {
			app := apps[a.Application]
			if app == nil {
				app = &model.Application{Application: a.Application}
				apps[a.Application] = app
			}
			app.Version, app.Phase, app.Progress, app.Error = a.Version, a.Phase, a.Progress, a.Error
		}
	}
	for _, a := range apps {
		m.Applications = append(m.Applications, *a)
	}
	slices.SortFunc(m.Applications, func(a, b model.Application) int { return strings.Compare(a.Application, b.Application) })
	return m
}
