// Package mqtt is the source of messages: from a broker inside the agent (Broker), or from one outside (Client).
package mqtt

import (
	"context"
	"log/slog"
	"net"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Subscription is one binding. An event's QoS is the lower one of the message's and the subscription's, as in MQTT.
type Subscription struct {
	ID     string
	Filter string // MQTT 3.1.1 topic filter
	QoS    byte
	Handle trigger.Handler
}

// Message to publish.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Counters since the source was made.
type Counters struct {
	Handled, Failed, Retried, Dropped uint64
}

// Limits of the queue between a broker and its handlers. Zero fields mean the defaults.
type Limits struct {
	QueueMessages int           // waiting for one subscription; 0: 1024
	QueueBytes    int           // payloads waiting, all subscriptions together; 0: 8 MiB
	Workers       int           // topics of one subscription handled at once; 0: 4
	MaxPacket     int           // bytes of one MQTT packet; 0: 1 MiB
	Drain         time.Duration // how long Run waits for events in flight before it cancels them; 0: 10 s
}

// BrokerConfig of the agent's own broker.
type BrokerConfig struct {
	Address string // host:port
	Limits  Limits
}

// Broker is an MQTT broker inside the agent and the source of its messages.
type Broker struct{}

// NewBroker makes a broker; Run starts it.
func NewBroker(cfg BrokerConfig, log *slog.Logger) *Broker { panic("skeleton") }

// Set replaces the subscriptions. One that is unchanged keeps its queue; its next event goes to the new handler.
func (b *Broker) Set(subs []Subscription) error { panic("skeleton") }

// Run serves until ctx ends, then waits for events in flight. It returns an error when it can't listen, and can be run again.
func (b *Broker) Run(ctx context.Context) error { panic("skeleton") }

// Ready is closed once the broker listens.
func (b *Broker) Ready() <-chan struct{} { panic("skeleton") }

// Addr is the address that it listens on; nil before Ready.
func (b *Broker) Addr() net.Addr { panic("skeleton") }

// Publish hands m to the broker's subscribers, and to the board's own subscriptions. It returns when those have handled it.
func (b *Broker) Publish(ctx context.Context, m Message) error { panic("skeleton") }

// Status of the source.
func (b *Broker) Status() trigger.Status { panic("skeleton") }

// Counters of the source.
func (b *Broker) Counters() Counters { panic("skeleton") }

// ClientConfig of a connection to an outside broker.
type ClientConfig struct {
	URL      string // mqtt://[user:password@]host[:port] or mqtts://
	ClientID string // names the session that the broker keeps; must not change
	Limits   Limits
}

// Client is a session with an outside broker and the source of its messages.
type Client struct{}

// NewClient makes a client; Run connects.
func NewClient(cfg ClientConfig, log *slog.Logger) *Client { panic("skeleton") }

// Set replaces the subscriptions, as Broker.Set does.
func (c *Client) Set(subs []Subscription) error { panic("skeleton") }

// Run keeps the session up until ctx ends, then waits for events in flight.
func (c *Client) Run(ctx context.Context) error { panic("skeleton") }

// Publish returns when the broker has acknowledged m (QoS 0: when it is written). The board's own subscriptions get it
// from the broker, as every subscriber does.
func (c *Client) Publish(ctx context.Context, m Message) error { panic("skeleton") }

// Status of the source.
func (c *Client) Status() trigger.Status { panic("skeleton") }

// Counters of the source.
func (c *Client) Counters() Counters { panic("skeleton") }
