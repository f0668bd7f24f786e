package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"dunlin.dev/dunlin/agent/internal/codecache"
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/files"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/link"
	"dunlin.dev/dunlin/agent/internal/runner"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	httptrigger "dunlin.dev/dunlin/agent/internal/trigger/http"
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"
	timertrigger "dunlin.dev/dunlin/agent/internal/trigger/timer"
	"dunlin.dev/dunlin/agent/internal/uplink"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// drainTime is how long a version that is replaced, or a source that stops, may finish what it began.
const drainTime = 10 * time.Second

// startTime is how long a start takes to be over, with all that it does once.
const startTime = 10 * time.Second

// Agent is one board's daemon.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	store  *store.Store
	inbox  *inbox.Box
	engine *engine.Engine
	host   *host.Host
	code   *codecache.Cache
	http   *httptrigger.Source
	bus    bus
	timers *timertrigger.Source
	apps   applications

	unpacked    *files.Unpacked
	directories directories

	link     *link.Link // nil without a fleet, as are manager, requests and uplink
	manager  *manager
	requests *requests
	uplink   *uplink.Sender

	deferred *uplink.Deferred
	disk     disk
	changed  chan struct{} // holds one: there is something new to report
	health   health
	self     *runner.Runner // of the agent's event to itself
	good     lastGood
	boot     [16]byte // the kernel's boot id
}

// bus is the board's MQTT: its own broker, a client of another, or none.
type bus interface {
	Set([]mqtttrigger.Subscription) error
	Look(trigger string)
	Run(context.Context) error
	Publish(context.Context, mqtttrigger.Message) (mqtttrigger.Taken, error)
	Status() trigger.Status
	Counters() mqtttrigger.Counters
}

// New wires an agent and restores what it had installed; nothing runs and nothing listens yet. Close what it returns.
func New(cfg Config, log *slog.Logger) (_ *Agent, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: log, changed: make(chan struct{}, 1), disk: disk{wake: make(chan struct{}, 1)}, health: health{patience: checkTime},
		apps: applications{all: map[string]*deployment{}}, boot: bootUUID(),
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if a.store, err = store.Open(cfg.State, log, time.Now); err != nil {
		return nil, err
	}
	a.store.SetUplinkLimits(cfg.Uplink.limits)
	a.disk.disk.Keep = cfg.Disk.keep
	a.loadGood()
	if a.inbox, err = inbox.Open(a.store, inbox.Limits{}, log.With("source", "mqtt")); err != nil {
		return nil, err
	}
	if a.engine, err = engine.New(engine.Config{SourceLines: cfg.local}); err != nil {
		return nil, err
	}
	if a.host, err = host.New(a.engine); err != nil {
		return nil, err
	}
	if a.code, err = codecache.Open(filepath.Join(cfg.State, "code"), a.engine, log); err != nil {
		return nil, err
	}
	if a.unpacked, err = files.OpenUnpacked(filepath.Join(cfg.State, "files"), log); err != nil {
		return nil, err
	}
	a.http = httptrigger.New(httptrigger.Config{Address: cfg.Listen, WellKnown: a.wellKnown(), Drain: drainTime, MaxBody: wire.MaxPayload}, log.With("source", "http"))
	a.bus = newBus(cfg, a.inbox, a.now, log.With("source", "mqtt"))
	a.host.Guard(func() (string, []string) {
		routes, broker := a.Addresses()
		return routes, []string{broker}
	})
	a.host.Clock(a.now)
	a.self = a.newSelfEvent()
	a.deferred = a.newDeferred()
	a.timers = timertrigger.New(timertrigger.Config{Trusted: a.clockSynced, Memory: a.store, Drain: drainTime}, log.With("source", "timer"))
	if cfg.Fleet == nil {
		return a, nil
	}
	return a, a.join(*cfg.Fleet)
}

// join adds the fleet's side: what is trusted, what is installed, and the link.
func (a *Agent) join(f Fleet) error {
	token, err := os.ReadFile(f.TokenFile)
	if err != nil {
		return fmt.Errorf("read join token: %w", err)
	}
	if trimmed(token) == "" {
		return fmt.Errorf("read join token: %s is empty", f.TokenFile)
	}
	g, err := openGuard(a, f)
	if err != nil {
		return err
	}
	if a.manager, err = newManager(a, g); err != nil {
		return err
	}
	a.requests = newRequests(a)
	a.link = link.New(link.Config{
		URL: f.URL, Fleet: f.Name, Device: f.Device, Token: trimmed(token),
		KeepAlive: a.cfg.keepAlive,
		Silence:   a.cfg.silence,
		Now:       a.now,
		Hello:     a.hello,
		OnUp:      func() { a.manager.linkUp(); a.uplink.Up(); a.deferred.Up(); a.report() },
		OnDesired: a.manager.offer,
		OnDo:      a.requests.offer,
	}, a.log.With("source", "fleet"))
	a.uplink = a.newUplink()
	return a.restore(g.state)
}

// restore deploys what was installed, from the store alone: a start needs no network. A release that can't be deployed is
// logged and stops no other; the manager tries it again.
func (a *Agent) restore(s trust.State) error {
	records, err := a.store.List(installArea)
	if err != nil {
		return err
	}
	for key := range records {
		app := key[len(installArea):]
		rec, _, err := a.installed(app)
		if err == nil {
			err = a.redeploy(s, app, rec)
		}
		if err != nil {
			a.log.Error("an installed application does not start", "application", app, "cause", err)
		}
	}
	a.inbox.Serve(a.triggerNames()) // also where there is none
	return nil
}

func (a *Agent) redeploy(s trust.State, app string, rec installed) error {
	rel, err := a.reopen(s, rec.Current)
	if err != nil {
		return err
	}
	d, err := a.deploy(context.Background(), rel, false)
	if err != nil {
		return err
	}
	_, err = a.replace(app, d)
	return err
}

// reopen gives a stored release that was verified at its install.
func (a *Agent) reopen(s trust.State, digest string) (trust.Release, error) {
	manifest, ok, err := a.store.Get(manifestArea + digest)
	if err == nil && !ok {
		err = fmt.Errorf("read release %s: it is not on the board", digest)
	}
	if err != nil {
		return trust.Release{}, err
	}
	return trust.Reopen(s, manifest)
}

// Run serves until ctx ends, then lets what it began end. One part's failure stops no other: a port that is taken or a broker
// that is away makes its source degraded, and it is tried again.
func (a *Agent) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range a.sources() {
		if s.name == "http" && a.cfg.Listen == off {
			continue
		}
		group.Go(func() error { return a.keep(ctx, s.name, s.run) })
	}
	local, up, later := make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	group.Go(func() error { return fanOut(ctx, a.store.Notify(), local, up, later) })
	group.Go(func() error { return a.deferred.Run(ctx, later) })
	group.Go(func() error { return newDeliverer(a.store, a.publish, a.log).run(ctx, local) })
	if a.link != nil {
		group.Go(func() error { return a.uplink.Run(ctx, up) })
		group.Go(func() error { return a.link.Run(ctx) })
		group.Go(func() error { return a.manager.run(ctx) })
		group.Go(func() error { return a.requests.run(ctx) })
		group.Go(func() error { return a.reporter(ctx) })
	}
	group.Go(func() error {
		a.code.VerifyAll(ctx)
		select {
		case <-time.After(startTime):
			engine.Trim()
		case <-ctx.Done():
		}
		return nil
	})
	group.Go(func() error { return a.watch(ctx) })
	group.Go(func() error { return a.saveGood(ctx) })
	group.Go(func() error { return a.watchDisk(ctx) })
	group.Go(func() error { return a.control(ctx) })
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil // cancelling is how an agent is stopped
	}
	return err
}

// keep runs a source again and again until ctx ends. In the local runtime a source that can't run is the developer's to know.
func (a *Agent) keep(ctx context.Context, name string, run func(context.Context) error) error {
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if a.cfg.local {
			return err
		}
		a.log.Error("a source stopped and is started again in 5s", "source", name, "cause", err)
		a.report()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
		time.AfterFunc(time.Second, a.report) // if it runs by then, the fleet hears of it
	}
}

func fanOut(ctx context.Context, from <-chan struct{}, to ...chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-from:
			for _, c := range to {
				select {
				case c <- struct{}{}:
				default:
				}
			}
		}
	}
}

func (a *Agent) publish(ctx context.Context, m store.Message) (mqtttrigger.Taken, error) {
	return a.bus.Publish(ctx, mqtttrigger.Message{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Outbox: m.ID})
}

// Close frees everything, the database last. Run has returned by then.
func (a *Agent) Close() {
	for _, d := range a.apps.list() {
		d.close(context.Background())
	}
	if a.self != nil {
		_ = a.self.Close(context.Background())
	}
	if err := a.directories.close(); err != nil {
		a.log.Error("a directory did not close", "cause", err)
	}
	if a.host != nil {
		a.host.Close()
	}
	if a.engine != nil {
		a.engine.Close()
	}
	if a.inbox != nil {
		a.inbox.Close()
	}
	if a.store != nil {
		if err := a.store.Close(); err != nil {
			a.log.Error("the store did not close", "cause", err)
		}
	}
}

// Addresses that the agent listens on, once it does; empty where it doesn't.
func (a *Agent) Addresses() (http, broker string) {
	text := func(addr net.Addr) string {
		if addr == nil {
			return ""
		}
		return addr.String()
	}
	if b, own := a.bus.(*mqtttrigger.Broker); own {
		broker = text(b.Addr())
	}
	return text(a.http.Addr()), broker
}

// Ready waits until the agent's own listeners listen. A port that is taken does not end the wait with an error at once: the
// source may yet get it.
func (a *Agent) Ready(ctx context.Context) error {
	var waits []<-chan struct{}
	if a.cfg.Listen != off {
		waits = append(waits, a.http.Ready())
	}
	if b, own := a.bus.(*mqtttrigger.Broker); own {
		waits = append(waits, b.Ready())
	}
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
