package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"dunlin.dev/dunlin/agent/internal/inbox"
)

// Events is what waits on the board, and what was given up.
type Events struct {
	Waiting      int         `json:"waiting"` // accepted and not handled yet, beside what is in memory alone
	WaitingBytes int64       `json:"waiting_bytes"`
	OutboxBytes  int64       `json:"outbox_bytes"`
	DeadDropped  uint64      `json:"dead_dropped"` // dead letters that had to make room, since the agent started
	Dead         []DeadEvent `json:"dead"`
}

// DeadEvent is one event that was given up.
type DeadEvent struct {
	Event    string    `json:"event"` // its name, to retry or drop it by
	Trigger  string    `json:"trigger"`
	Topic    string    `json:"topic"`
	QoS      byte      `json:"qos"`
	At       time.Time `json:"at"`
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	Cause    string    `json:"cause"`
	Bytes    int       `json:"bytes"`
	Text     string    `json:"text,omitempty"`    // the payload, where it is UTF-8; of one that was asked for
	Payload  []byte    `json:"payload,omitempty"` // else, in base64
}

// maxListed bounds the dead letters in one answer; the oldest come first.
const maxListed = 1000

func deadEvent(d inbox.Dead, payload bool) DeadEvent {
	e := DeadEvent{Event: inbox.Name(d.Number), Trigger: d.Trigger, Topic: d.Message.Topic, QoS: d.Message.QoS, At: d.At.UTC(),
		Attempts: d.Attempts, Reason: string(d.Reason), Cause: d.Cause, Bytes: len(d.Message.Payload)}
	switch {
	case !payload:
	case utf8.Valid(d.Message.Payload):
		e.Text = string(d.Message.Payload)
	default:
		e.Payload = d.Message.Payload
	}
	return e
}

func (a *Agent) listEvents(w http.ResponseWriter, _ *http.Request) {
	dead, err := a.inbox.Dead(0, maxListed)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	stats, err := a.store.Stats()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n := a.inbox.Counts()
	out := Events{Waiting: n.Waiting, WaitingBytes: n.WaitingBytes, OutboxBytes: stats.Outbox, DeadDropped: n.DeadDropped, Dead: []DeadEvent{}}
	for _, d := range dead {
		out.Dead = append(out.Dead, deadEvent(d, false))
	}
	answer(w, out)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// withDead finds the dead letter that a request names.
func (a *Agent) withDead(do func(http.ResponseWriter, inbox.Dead) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d, err := a.inbox.Find(r.PathValue("event"))
		if err == nil {
			err = do(w, d)
		}
		switch {
		case errors.Is(err, inbox.ErrUnknown):
			http.Error(w, err.Error(), http.StatusNotFound)
		case errors.Is(err, inbox.ErrFull):
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

func (a *Agent) showEvent(w http.ResponseWriter, d inbox.Dead) error {
	answer(w, deadEvent(d, true))
	return nil
}

// retryEvent needs a trigger of that name: without one it would wait for ever.
func (a *Agent) retryEvent(w http.ResponseWriter, d inbox.Dead) error {
	if there := a.triggerNames(); !slices.Contains(there, d.Trigger) {
		http.Error(w, fmt.Sprintf("retry event %s: nothing here has its trigger %s any more; there are %q", inbox.Name(d.Number), d.Trigger, there), http.StatusConflict)
		return nil
	}
	e, err := a.inbox.Retry(d)
	if err != nil {
		return err
	}
	a.bus.Look(d.Trigger)
	answer(w, map[string]string{"event": inbox.Name(e.Number)})
	return nil
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

func (a *Agent) dropEvent(w http.ResponseWriter, d inbox.Dead) error {
	if err := a.inbox.Drop(d); err != nil {
		return err
	}
	answer(w, map[string]string{"event": inbox.Name(d.Number)})
	return nil
}
