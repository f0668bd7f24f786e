// Package mqtt is the source of messages: from a broker inside the agent (Broker), or from one outside (Client).
//
// An event is a message for one subscription. Events of one subscription on one topic are handled in order, one after the other, those on other
// topics beside them; the next of a topic begins when the effects of the one before have their place in the order of commits, and takes effect only if they do. A message of QoS 1 or 2 is acknowledged when every subscription that asked for QoS 1 or 2 has handled
// it, or has failed maxAttempts times by its handler's fault; what the board is short of (a disk that can't be written, a
// component that can't be loaded) is waited for, unacknowledged. So it is handled at least once over a crash of either side, and QoS 2 exactly once
// while the agent runs. A message of QoS 0 is handled once or not at all: under load the oldest ones are dropped, and counted.
//
// What a handler publishes may trigger handlers in turn, itself included. It is taken when they are done, and only so many wait for that, so a
// loop does not grow; but it does not end by itself.
package mqtt

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// Subscription is one binding. An event's QoS is the lower one of the message's and the subscription's, as in MQTT.
type Subscription struct {
	ID        string
	Filter    string // MQTT 3.1.1 topic filter
	QoS       byte
	MessageID wire.MessageID // where repeats of QoS 1 and 2 are told by
	Unordered bool           // messages of one topic are handled beside each other
	Handle    trigger.Handler
}

// Message to publish.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Outbox  uint64 // its id in the board's outbox; 0: it is not from there
}

// Taken waits until a message that was published is taken: handled, or acknowledged by the broker. An error says that it is to be published
// again, which may then come twice.
type Taken func(context.Context) error

// check that m can be sent.
func (m Message) check() error {
	if err := wire.CheckTopic(m.Topic); err != nil {
		return err
	}
	if m.QoS > 2 {
		return fmt.Errorf("publish to %s: qos %d: want 0, 1 or 2", m.Topic, m.QoS)
	}
	return nil
}

// Counters of events since the source was made.
type Counters struct {
	Handled  uint64 // acknowledged with their effects
	Failed   uint64 // given up: QoS 0 after one attempt, else after maxAttempts
	Repeated uint64 // came again after they had taken effect
	Retried  uint64 // attempts that are followed by another
	Dropped  uint64 // not tried: the queue was full, or the subscription is gone
	Missed   uint64 // by other subscribers of the agent's own broker, each too slow for it
}

// Limits of the queue between a broker and its handlers. Zero fields mean the defaults.
type Limits struct {
	QueueMessages int           // waiting for one subscription; 0: 1024
	QueueBytes    int           // payloads waiting, all subscriptions together; 0: 8 MiB
	Workers       int           // events of one subscription that are handled at once, those not counted whose effects are being written; 0: 64
	MaxPacket     int           // bytes of one MQTT packet; 0: 1 MiB
	Drain         time.Duration // how long Run waits for events in flight before it cancels them; 0: 10 s
}

// Complete fills the defaults in.
func (l Limits) Complete() Limits {
	l.QueueMessages = cmp.Or(l.QueueMessages, 1024)
	l.QueueBytes = cmp.Or(l.QueueBytes, 8<<20)
	l.Workers = cmp.Or(l.Workers, 64)
	l.MaxPacket = cmp.Or(l.MaxPacket, 1<<20)
	l.Drain = cmp.Or(l.Drain, 10*time.Second)
	return l
}

const (
	maxAttempts = 4                      // the first, and three more
	acceptAfter = 250 * time.Millisecond // a message whose effects take longer is acknowledged from the inbox
	maxLoad     = 128                    // events read from the inbox at once
)
