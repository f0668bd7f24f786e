// Package broker is the MQTT broker inside the fleet server: mochi-mqtt with its defaults made safe, one identity per
// connection, and an access rule that leaves each board its own topics. What boards publish ends here, in a Handler; the
// broker retains nothing but the fleet's own desired states, which are rebuilt from the store at each start.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"dunlin.dev/dunlin/fleet/mqttlistener"
	"dunlin.dev/dunlin/fleet/wire"
)

// Message is what a board published. Connection tells one connection of a board from the next: it grows, and is 0 when
// a newer one has replaced it.
type Message struct {
	Device     string
	Connection uint64
	Channel    wire.Channel
	Payload    []byte
}

// Handler takes what boards do. Its methods are called on the connection's own goroutine, so a slow one slows one board.
type Handler interface {
	// Fleet is the name in the topics; empty while there is none, and then nobody is let in.
	Fleet() string
	// Authenticate reports whether a connection may speak for device.
	Authenticate(device string, password []byte) bool
	// Receive takes a message. An error leaves it unacknowledged, so the board sends it again.
	Receive(m Message) error
	// Disconnected says that a connection ended, in whatever way.
	Disconnected(device string, connection uint64)
}

// Config of a Broker.
type Config struct {
	Listener       net.Listener // taken over
	MaxConnections int          // 0 is 20,000
	Handler        Handler
	Log            *slog.Logger
}

// Limits that are the broker's own.
const (
	maxPacketBytes   = wire.MaxMessageBytes + 1<<10 // a payload, its topic and header
	maxKeepalive     = 20 * 60                      // seconds
	maxInflight      = 64                           // QoS 1 messages that wait for one board
	maxWritesPending = 128                          // packets queued for one board
	sessionExpiry    = 7 * 24 * 3600                // seconds
)

// Broker is a running broker.
type Broker struct {
	fleet  func() string
	server *mqtt.Server
	log    *slog.Logger
}

// New starts a broker on cfg.Listener.
func New(cfg Config) (*Broker, error) {
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 20_000
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(cfg.MaxConnections)
	caps.MaximumMessageExpiryInterval = 0 // the default deletes retained messages after a day, by the wall clock
	caps.MaximumPacketSize = maxPacketBytes
	caps.MaximumSessionExpiryInterval = sessionExpiry
	caps.MaximumClientWritesPending = maxWritesPending
	caps.MaximumInflight = maxInflight
	caps.ReceiveMaximum = maxInflight
	caps.TopicAliasMaximum = 0
	caps.SharedSubAvailable = 0
	caps.MinimumProtocolVersion = 4
	log := slog.New(&demoted{cfg.Log.Handler()})
	s := mqtt.New(&mqtt.Options{
		Capabilities:           caps,
		InlineClient:           true,
		Logger:                 log,
		SysTopicResendInterval: int64(math.MaxInt32), // each stops the world to read memory statistics
	})
	if err := s.AddHook(&hook{handler: cfg.Handler, server: s, log: cfg.Log, current: map[string]session{}}, nil); err != nil {
		return nil, fmt.Errorf("start broker: %w", err)
	}
	if err := s.AddListener(mqttlistener.New("fleet", cfg.Listener, cfg.MaxConnections+cfg.MaxConnections/10+16, s, cfg.Log)); err != nil {
		return nil, fmt.Errorf("start broker: %w", err)
	}
	b := &Broker{fleet: cfg.Handler.Fleet, server: s, log: cfg.Log}
	return b, nil
}

// Serve lets boards in. Call it once, after the desired states were retained.
func (b *Broker) Serve() error {
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	return nil
}

// Close ends all connections and waits for their goroutines. It says no goodbye: one that is stuck would hold it up, and
// MQTT 3.1.1 has none.
func (b *Broker) Close() error {
	for _, cl := range b.server.Clients.GetAll() {
		if !cl.Net.Inline {
			cl.Stop(packets.ErrServerShuttingDown)
		}
	}
	return b.server.Close()
}

// Connections that are open.
func (b *Broker) Connections() int64 { return atomic.LoadInt64(&b.server.Info.ClientsConnected) }

// ErrOffline is in the chain of an error about a board that has no connection.
var ErrOffline = errors.New("not connected")

// Send writes one message to a board's connection at QoS 0, and returns when the connection took it. It is bounded by the
// connection's write timeout.
func (b *Broker) Send(ctx context.Context, device string, channel wire.Channel, payload []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cl, ok := b.server.Clients.Get(clientID(b.fleet(), device))
	if !ok || cl.Closed() || cl.Net.Conn == nil {
		return fmt.Errorf("send to %s: %w", device, ErrOffline)
	}
	err := cl.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish},
		TopicName:   wire.Topic{Fleet: b.fleet(), Device: device, Channel: channel}.Format(),
		Payload:     payload,
	})
	if err != nil {
		cl.Stop(err) // half a packet may be on its way: the stream is of no use any more
		return fmt.Errorf("send to %s: %w", device, err)
	}
	return nil
}

// Retain publishes a message to a board at QoS 1 and retains it: the newest is what the board gets when it subscribes.
// It may block while the board's connection is stuck, up to the write timeout.
func (b *Broker) Retain(device string, channel wire.Channel, payload []byte) error {
	topic := wire.Topic{Fleet: b.fleet(), Device: device, Channel: channel}.Format()
	if err := b.server.Publish(topic, payload, true, 1); err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	return nil
}

// Publish sends a message to a board at QoS 1, if it is connected; nothing is retained. It doesn't wait for the board.
func (b *Broker) Publish(device string, channel wire.Channel, payload []byte) error {
	topic := wire.Topic{Fleet: b.fleet(), Device: device, Channel: channel}.Format()
	if err := b.server.Publish(topic, payload, false, 1); err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	return nil
}

// demoted passes mochi's records on at debug level: to it, each bad byte of a client is an error of its own.
type demoted struct{ slog.Handler }

func (h *demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h *demoted) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, slog.LevelDebug, "mqtt: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "pk" && a.Key != "packet" && a.Key != "will" { // whole payloads
			out.AddAttrs(a)
		}
		return true
	})
	return h.Handler.Handle(ctx, out)
}

func (h *demoted) WithAttrs(a []slog.Attr) slog.Handler { return &demoted{h.Handler.WithAttrs(a)} }
func (h *demoted) WithGroup(name string) slog.Handler   { return &demoted{h.Handler.WithGroup(name)} }
