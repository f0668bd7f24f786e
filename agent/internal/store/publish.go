package store

import (
	"errors"
	"fmt"

	"dunlin.dev/dunlin/fleet/wire"
)

// Publish adds a message that leaves after the commit, through the outbox. A payload has at most MaxPayload bytes.
func (t *Tx) Publish(topic string, payload []byte, qos byte, retain bool) error {
	switch {
	case t.over:
		return errors.New("publish: the transaction is over")
	case t.application == "" || len(t.application) > MaxName:
		return fmt.Errorf("publish: application name of %d bytes, want 1 to %d", len(t.application), MaxName)
	case topic == "" || len(topic) > MaxTopic:
		return fmt.Errorf("publish: topic of %d bytes, want 1 to %d", len(topic), MaxTopic)
	case qos > 2:
		return fmt.Errorf("publish to %q: QoS %d, want 0 to 2", topic, qos)
	case isUplink(topic) && len(payload) > wire.MaxDataPayload:
		return fmt.Errorf("publish to %q: %w: payload of %d bytes, the fleet takes at most %d", topic, ErrTooLarge, len(payload), wire.MaxDataPayload)
	case len(payload) > MaxPayload:
		return fmt.Errorf("publish to %q: %w: payload of %d bytes, at most %d", topic, ErrTooLarge, len(payload), MaxPayload)
	}
	if err := t.grow(len(topic) + len(payload)); err != nil {
		return fmt.Errorf("publish to %q: %w", topic, err)
	}
	m := Message{Application: t.application, Topic: topic, Payload: append([]byte{}, payload...), QoS: qos, Retain: retain}
	if isUplink(topic) {
		return t.uplink(m)
	}
	t.messages = append(t.messages, m)
	return nil
}

// Defer adds a request that leaves after the commit for the host that origin names ("https://api.example.com"), behind those that wait for it.
func (t *Tx) Defer(origin string, request []byte) error {
	switch {
	case t.over:
		return errors.New("defer request: the transaction is over")
	case t.application == "" || len(t.application) > MaxName:
		return fmt.Errorf("defer request: application name of %d bytes, want 1 to %d", len(t.application), MaxName)
	case origin == "" || len(origin) > MaxName || isUplink(origin):
		return fmt.Errorf("defer request to %.100q: that is no origin", origin)
	case len(request) > MaxDeferred:
		return fmt.Errorf("defer request to %s: %w: %d bytes, at most %d", origin, ErrTooLarge, len(request), MaxDeferred)
	}
	if err := t.grow(len(origin) + len(request)); err != nil {
		return fmt.Errorf("defer request to %s: %w", origin, err)
	}
	return t.uplink(Message{Application: t.application, Topic: origin, Payload: append([]byte{}, request...)})
}

// uplink adds a message that leaves the board.
func (t *Tx) uplink(m Message) error {
	if t.stamp != nil {
		m.Stamp = t.stamp()
	}
	size := uplinkSize(m)
	for _, before := range t.uplinks {
		size += uplinkSize(before)
	}
	if err := t.s.roomFor(m.Application, m.Topic, size); err != nil {
		return fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	t.uplinks = append(t.uplinks, m)
	return nil
}

// Stamp gives the messages of the transaction that leave the board the time that now tells.
func (t *Tx) Stamp(now func() Stamp) *Tx {
	t.stamp = now
	return t
}
