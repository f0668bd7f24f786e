package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/uplink"
	"dunlin.dev/dunlin/fleet/wire"
)

// newUplink makes what sends messages to the fleet.
func (a *Agent) newUplink() *uplink.Sender {
	return uplink.New(uplink.Config{
		Box: a.store, Link: a.link, Outbox: a.store.OutboxID(), Newest: a.store.Newest, Message: a.uplinked, Now: a.stamp,
		Rate: a.cfg.Uplink.rate, Log: a.log.With("source", "fleet"),
	})
}

// newDeferred makes what sends requests that handlers have deferred. Their key is this board's own, and the same for each attempt.
func (a *Agent) newDeferred() *uplink.Deferred {
	return uplink.NewDeferred(uplink.DeferredConfig{
		Box: a.store, Now: a.stamp, Log: a.log.With("source", "deferred"),
		Send: func(ctx context.Context, m store.Message) error {
			return a.host.SendDeferred(ctx, m.Payload, fmt.Sprintf("%016x-%d", a.store.OutboxID(), m.ID))
		},
	})
}

// uplinked is a message as the fleet gets it.
func (a *Agent) uplinked(m store.Message) wire.Uplink {
	at, clock := a.stamped(m)
	return wire.Uplink{ID: m.ID, Sequence: m.Sequence, At: at.UnixMilli(), Clock: clock, Boot: m.Boot, Up: m.Up.Milliseconds(),
		Application: m.Application, Topic: strings.TrimPrefix(m.Topic, wire.UplinkPrefix), Payload: m.Payload}
}

// uplinkRules of a manifest, as the store holds them.
func uplinkRules(m wire.Release) []store.UplinkRule {
	var rules []store.UplinkRule
	for _, r := range m.Uplinks {
		rule := store.UplinkRule{Filter: r.Topic, Bytes: r.Bytes, Age: time.Duration(r.Age), Reject: r.Reject}
		switch r.Priority {
		case wire.PriorityHigh:
			rule.Priority = store.High
		case wire.PriorityLow:
			rule.Priority = store.Low
		}
		rules = append(rules, rule)
	}
	return rules
}

// outboxReport is nil where there is nothing to say.
func (a *Agent) outboxReport() *wire.OutboxReport {
	st := a.store.UplinkStats()
	if st.Messages == 0 && len(st.Dropped) == 0 {
		return nil
	}
	return &wire.OutboxReport{Messages: st.Messages, Bytes: st.Bytes, Dropped: st.Dropped}
}
