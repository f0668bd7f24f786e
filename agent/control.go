package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/agent/internal/runner"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// ControlSocket is the name, in the state directory, of the socket for whoever owns that directory: `dunlin send` and `dunlin events` talk to it.
const ControlSocket = "control.sock"

// Fired is one handler's outcome of an event that was sent by hand.
type Fired struct {
	Trigger string `json:"trigger"` // "<application>/<id>"
	Error   string `json:"error,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Event   string `json:"event,omitempty"` // of a failure: log lines carry the same
	Micros  int64  `json:"micros"`
}

// listenControl makes the socket anew; the store's lock says that no other agent has this directory. The directory is named through a
// descriptor, for a socket's path has 107 bytes at most.
func listenControl(state string) (net.Listener, error) {
	path := filepath.Join(state, ControlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	dir, err := os.Open(state)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), ControlSocket)
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the descriptor is closed by then
	return l, os.Chmod(path, 0o600)
}

// control serves the socket until ctx ends. An agent without it runs on: it is for people.
func (a *Agent) control(ctx context.Context) error {
	l, err := listenControl(a.cfg.State)
	if err != nil {
		a.log.Warn("dunlin send and dunlin events can't reach this agent", "cause", err)
		<-ctx.Done()
		return ctx.Err()
	}
	srv := &http.Server{Handler: a.controls(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	err = srv.Serve(l)
	_ = os.Remove(filepath.Join(a.cfg.State, ControlSocket))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve control socket: %w", err)
}

func (a *Agent) controls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mqtt", a.fireMessage)
	mux.HandleFunc("POST /timer", a.fireTimer)
	mux.HandleFunc("GET /doctor", a.serveDoctor)
	mux.HandleFunc("GET /events", a.serveEvents)
	mux.HandleFunc("GET /events/{event}", withDead(a, showDead))
	mux.HandleFunc("POST /events/{event}/retry", withDead(a, a.retryDead))
	mux.HandleFunc("DELETE /events/{event}", withDead(a, a.dropDead))
	requests := http.StripPrefix("/http", a.http)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/http/") { // not through mux, which redirects paths like //
			requests.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// fireMessage hands a message to the handlers of every subscription that matches, past the broker.
func (a *Agent) fireMessage(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxPayload))
	if err != nil {
		http.Error(w, "read payload: "+err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	q := r.URL.Query()
	topic := q.Get("topic")
	qos, err := strconv.ParseUint(q.Get("qos"), 10, 8)
	if err != nil || qos > 2 {
		http.Error(w, "qos: want 0, 1 or 2", http.StatusBadRequest)
		return
	}
	if err := wire.CheckTopic(topic); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var there []string
	var found []firing
	for _, d := range a.apps.list() {
		for _, t := range d.manifest.Triggers.MQTT {
			there = append(there, t.Topic)
			if wire.MatchFilter(t.Topic, topic) {
				m := &trigger.Message{Topic: topic, Payload: payload, QoS: min(byte(qos), t.QoS)}
				found = append(found, firing{d.runners[t.Component], trigger.Event{Kind: trigger.KindMQTT, Trigger: d.manifest.Application + "/" + t.ID, MQTT: m}})
			}
		}
	}
	fire(r.Context(), w, found, fmt.Sprintf("no mqtt trigger matches %q", topic), there)
}

// fireTimer makes a timer tick now, beside its own beat.
func (a *Agent) fireTimer(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	var there []string
	var found []firing
	for _, d := range a.apps.list() {
		for _, t := range d.manifest.Triggers.Timer {
			full := d.manifest.Application + "/" + t.ID
			there = append(there, full)
			if id == "" || id == t.ID || id == full {
				now := time.Now()
				tick := &trigger.Tick{Scheduled: now, Actual: now, ClockTrusted: a.clockSynced()}
				found = append(found, firing{d.runners[t.Component], trigger.Event{Kind: trigger.KindTimer, Trigger: full, Timer: tick}})
			}
		}
	}
	missing := fmt.Sprintf("no timer %q", id)
	switch {
	case id == "" && len(found) == 0:
		missing = "no timer"
	case id == "" && len(found) > 1:
		found, missing = nil, "which timer?"
	}
	fire(r.Context(), w, found, missing, there)
}

// firing is one event for one component.
type firing struct {
	runner *runner.Runner
	event  trigger.Event
}

// fire the events one after the other, and answer with their outcomes.
func fire(ctx context.Context, w http.ResponseWriter, all []firing, missing string, there []string) {
	if len(all) == 0 {
		if slices.Sort(there); len(there) > 0 {
			missing += "; there are " + strings.Join(slices.Compact(there), ", ")
		}
		http.Error(w, missing, http.StatusNotFound)
		return
	}
	var out []Fired
	for _, f := range all {
		f.event.At = time.Now()
		err := trigger.Guarded(ctx, f.runner.Handle, &f.event)
		o := Fired{Trigger: f.event.Trigger, Micros: time.Since(f.event.At).Microseconds(), Reason: string(trigger.ReasonOf(err))}
		var failure *trigger.Failure
		if errors.As(err, &failure) {
			o.Event, o.Error = failure.Event, failure.Err.Error()
		} else if err != nil {
			o.Error = err.Error()
		}
		out = append(out, o)
	}
	answer(w, out)
}
