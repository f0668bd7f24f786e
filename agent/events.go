package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/fleet/wire"
)

// maxListed bounds the dead letters in one answer on the control socket; the oldest come first.
const maxListed = 1000

// errNoTrigger: a letter can't be retried, since nothing would take it.
var errNoTrigger = errors.New("nothing here has its trigger any more")

func deadEvent(d inbox.Dead) wire.DeadEvent {
	return wire.DeadEvent{Event: inbox.Name(d.Number), Trigger: d.Trigger, Topic: d.Message.Topic, QoS: d.Message.QoS, At: d.At.UTC(),
		Attempts: d.Attempts, Reason: string(d.Reason), Cause: d.Cause, Bytes: len(d.Message.Payload)}
}

// events is what waits, and up to n dead letters with numbers above after.
func (a *Agent) events(after uint64, n int) (wire.Events, error) {
	dead, err := a.inbox.Dead(after, n+1)
	if err != nil {
		return wire.Events{}, err
	}
	stats, err := a.store.Stats()
	if err != nil {
		return wire.Events{}, err
	}
	c, up := a.inbox.Counts(), a.store.UplinkStats()
	out := wire.Events{Waiting: c.Waiting, WaitingBytes: c.WaitingBytes, Left: c.Left, OutboxBytes: stats.Outbox, Uplinks: up.Messages, UplinkBytes: up.Bytes, DeadDropped: c.DeadDropped, Dead: []wire.DeadEvent{},
		More: len(dead) > n}
	for _, d := range dead[:min(len(dead), n)] {
		out.Dead = append(out.Dead, deadEvent(d))
	}
	return out, nil
}

// retryDead needs a trigger of that name: without one the event would wait for ever.
func (a *Agent) retryDead(d inbox.Dead) (wire.Renamed, error) {
	if there := a.triggerNames(); !slices.Contains(there, d.Trigger) {
		return wire.Renamed{}, fmt.Errorf("retry event %s: %w: %s; there are %.500q", inbox.Name(d.Number), errNoTrigger, d.Trigger, there)
	}
	e, err := a.inbox.Retry(d)
	if err != nil {
		return wire.Renamed{}, err
	}
	a.bus.Look(d.Trigger)
	return wire.Renamed{Event: inbox.Name(e.Number)}, nil
}

func (a *Agent) triggerNames() []string {
	names := []string{}
	for _, d := range a.apps.list() {
		for _, t := range d.manifest.Triggers.MQTT {
			names = append(names, d.manifest.Application+"/"+t.ID)
		}
	}
	return names
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (a *Agent) serveEvents(w http.ResponseWriter, _ *http.Request) {
	all, err := a.events(0, maxListed)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, all)
}

// withDead answers with what is done to the dead letter that a request names.
func withDead[T any](a *Agent, do func(inbox.Dead) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d, err := a.inbox.Find(r.PathValue("event"))
		var done T
		if err == nil {
			done, err = do(d)
		}
		switch {
		case err == nil:
			answer(w, done)
		case errors.Is(err, inbox.ErrUnknown):
			http.Error(w, err.Error(), http.StatusNotFound)
		case errors.Is(err, errNoTrigger):
			http.Error(w, err.Error(), http.StatusConflict)
		case errors.Is(err, inbox.ErrFull):
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

func showDead(d inbox.Dead) (wire.DeadEvent, error) {
	e := deadEvent(d)
	e.ShowAll(d.Message.Payload)
	return e, nil
}

func (a *Agent) dropDead(d inbox.Dead) (wire.Renamed, error) {
	return wire.Renamed{Event: inbox.Name(d.Number)}, a.inbox.Drop(d)
}
