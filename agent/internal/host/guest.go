package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// Guest is one instance of one component in one event. Not safe for concurrent use.
type Guest struct {
	ctx      context.Context
	started  time.Time // zero of the monotonic clock
	client   *http.Client
	env      *Env
	limits   Limits
	store    *engine.Store
	instance *engine.Instance
	table    table
	log      logger
	wake     chan struct{} // one token: something that the guest may wait for has changed
	timer    *time.Timer   // of wait, reused
	held     int64         // bytes, see hold
	requests int           // outgoing requests so far
	open     int           // files and folders that it holds open
	inFlight atomic.Int32  // of them, under way
	told     [][2]string   // see moment
	over     *LimitError   // the first limit that the guest was told of
	stdin    *source
	cursors  []string  // of wasi:keyvalue's first draft
	seed     [2]uint64 // wasi:random's insecure one: the same for the whole event; zero until it is asked for
}

// Instantiate c for one event. When ctx ends the guest is interrupted wherever it is, in wasm or waiting in the host.
func (h *Host) Instantiate(ctx context.Context, e *engine.Engine, c *engine.Component, l Limits, env *Env) (*Guest, error) {
	g := newGuest(ctx, h.client, l, env)
	g.store = e.NewStore(ctx, l.Engine, g)
	instance, err := h.linker.Instantiate(g.store, c)
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("instantiate component: %w", err)
	}
	g.instance = instance
	return g, nil
}

// newGuest is the host's side of a guest.
func newGuest(ctx context.Context, client *http.Client, l Limits, env *Env) *Guest {
	g := &Guest{ctx: ctx, started: time.Now(), client: client, env: env, limits: l, wake: make(chan struct{}, 1)}
	g.log = logger{to: env.Log, left: l.Stderr}
	if g.log.to == nil {
		g.log.to = func(slog.Level, string, string) {}
	}
	if g.log.left == 0 {
		g.log.left = defaultLogged
	}
	if env.Client != nil {
		g.client = withoutRedirects(env.Client)
	}
	return g
}

// Close ends the guest: what it left open is closed, requests under way are given up, and the last of its output is logged.
func (g *Guest) Close() {
	g.store.Close()
	g.end()
}

// end the host's side of a guest.
func (g *Guest) end() {
	g.table.sweep()
	if g.timer != nil {
		g.timer.Stop()
	}
	g.log.close()
}

// Over is the first limit that the guest was told it had reached; nil if there was none.
func (g *Guest) Over() *LimitError { return g.over }

// note a limit that the guest is about to be told of. It is logged: what a guest makes of it may not show it.
func (g *Guest) note(about string, err error) error {
	var limit *LimitError
	if errors.As(err, &limit) && g.over == nil {
		g.over = limit
		g.log.emit(slog.LevelWarn, about, err.Error())
	}
	return err
}

// call an export.
func (g *Guest) call(x *engine.Export, args ...engine.Val) (engine.Val, error) {
	if x == nil {
		return engine.Val{}, errors.New("call component: it does not export the handler")
	}
	return g.instance.Call(x, args...)
}

// HandlersOf c.
func HandlersOf(c *engine.Component) Handlers {
	find := func(path ...string) *engine.Export {
		if x, ok := c.Export(path...); ok {
			return x
		}
		return nil
	}
	return Handlers{
		HTTP:     find("wasi:http/incoming-handler"+wasi, "handle"),
		MQTT:     find("wasi:messaging/incoming-handler@0.2.0-draft", "handle"),
		Timer:    find("dunlin:timer/handler@0.1.0", "handle"),
		Command:  find("wasi:cli/run"+wasi, "run"),
		SpinMQTT: find("handle-message"),
		SpinCron: find("handle-cron-event"),
	}
}

// HandleMessage calls Handlers.MQTT or .SpinMQTT. A guest's own error result is a *GuestError.
func (g *Guest) HandleMessage(h Handlers, m Message) error {
	if h.MQTT != nil {
		v, err := own(g, typMessage, &message{topic: m.Topic, data: m.Payload, metadata: slices.Clone(g.moment())})
		if err != nil {
			return err
		}
		return outcome(g.call(h.MQTT, v))
	}
	return outcome(g.call(h.SpinMQTT, engine.Bytes(m.Payload), engine.Record(engine.Field{Name: "topic", Val: engine.String(m.Topic)})))
}

// HandleTick calls Handlers.Timer, .SpinCron or .Command, the first that there is. A command that exits with a code other than 0
// is a *GuestError.
func (g *Guest) HandleTick(h Handlers, t Tick) error {
	switch {
	case h.Timer != nil:
		return outcome(g.call(h.Timer, engine.Record(
			engine.Field{Name: "timer", Val: engine.String(t.Timer)},
			engine.Field{Name: "scheduled", Val: engine.U64(unixMilli(t.Scheduled))},
			engine.Field{Name: "actual", Val: engine.U64(unixMilli(t.Actual))},
			engine.Field{Name: "missed", Val: engine.U32(t.Missed)},
			engine.Field{Name: "clock-trusted", Val: engine.Bool(t.ClockTrusted)},
		)))
	case h.SpinCron != nil:
		seconds := unixMilli(t.Scheduled) / 1000
		return outcome(g.call(h.SpinCron, engine.Record(engine.Field{Name: "timestamp", Val: engine.U64(seconds)})))
	}
	v, err := g.call(h.Command)
	var exit exitError
	if errors.As(err, &exit) {
		if exit.code == 0 {
			return nil
		}
		return &GuestError{fmt.Sprintf("exit code %d", exit.code)}
	}
	if err == nil && !v.IsSet() {
		return &GuestError{"run failed"}
	}
	return err
}

// unixMilli of t; the contract's times start at 1970.
func unixMilli(t time.Time) uint64 { return uint64(max(0, t.UnixMilli())) }

// outcome of a handler that returns result<_, E>, where E is a string or a variant.
func outcome(v engine.Val, err error) error {
	if err != nil || v.IsSet() {
		return err
	}
	p := v.Payload()
	switch {
	case p.Kind() == engine.KindVariant && p.Payload().Kind() == engine.KindString:
		return &GuestError{p.Text() + ": " + p.Payload().Text()}
	case p.Text() != "":
		return &GuestError{p.Text()}
	}
	return &GuestError{"no reason given"}
}
