package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/mqttlistener"
)

const (
	maxClients        = 512
	maxConnections    = maxClients + 64  // those included that have not said who they are
	maxClientInflight = 256              // messages of one client that wait for their acknowledgement
	roomTimeout       = 20 * time.Second // a publisher waits for room in the queue, before its connection is closed
)

// BrokerConfig of the agent's own broker.
type BrokerConfig struct {
	Address string // host:port
	Inbox   *inbox.Box
	Limits  Limits
}

// Broker is an MQTT broker (3.1, 3.1.1 and 5) inside the agent and the source of its messages. Subscribers get a message
// after the handlers have had it, or after the inbox has. When that is full, publishers of QoS 1 and 2 wait; after roomTimeout
// their connection is closed without an acknowledgement, so that they send it again. Retained messages and sessions live as
// long as the process, but for the packet ids of QoS 2 that came in: those outlive it.
type Broker struct {
	cfg   BrokerConfig
	log   *slog.Logger
	queue *dispatcher
	ready chan struct{}

	server atomic.Pointer[mochi.Server] // nil while not running
	own    *mochi.Client                // publishes for Publish

	mu       sync.Mutex
	addr     net.Addr
	status   trigger.Status
	stopping chan struct{}
	pending  map[packetKey]*publication
	inflight map[string]int                  // of pending, by client id
	twins    map[*mochi.Client]*mochi.Client // forward for a client under its id, past the hook
	receipts map[packetKey]bool              // of QoS 2, that are in the inbox or will be: whether the message has been handled
}

// packetKey names a publication for as long as its packet id is taken.
type packetKey struct {
	client string
	packet uint16
}

// publication is a message of QoS 1 or 2 that is not acknowledged yet.
type publication struct {
	key    packetKey
	client *mochi.Client // to acknowledge to: the newest connection that sent it
	twin   *mochi.Client
	packet packets.Packet
}

// NewBroker makes a broker; Run starts it.
func NewBroker(cfg BrokerConfig, log *slog.Logger) *Broker {
	b := &Broker{
		cfg: cfg, log: log, queue: newDispatcher(cfg.Limits, cfg.Inbox, log), ready: make(chan struct{}), stopping: make(chan struct{}),
		pending: map[packetKey]*publication{}, inflight: map[string]int{}, twins: map[*mochi.Client]*mochi.Client{}, receipts: map[packetKey]bool{},
	}
	b.cfg.Limits = cfg.Limits.Complete()
	b.setStatus(trigger.Stopped, "not started")
	return b
}

// Set replaces the subscriptions. One that is unchanged keeps its queue; its next event goes to the new handler. A new one
// gets the retained messages that it matches.
func (b *Broker) Set(subs []Subscription) error {
	added, err := b.queue.set(subs)
	if err != nil {
		return err
	}
	if server := b.server.Load(); server != nil {
		b.offerRetained(server, added)
	}
	return nil
}

func (b *Broker) offerRetained(server *mochi.Server, subs []Subscription) {
	for _, s := range subs {
		for _, pk := range server.Topics.Messages(s.Filter) {
			m := messageOf(pk)
			m.Retain = true
			if b.queue.offer(offered{message: m, only: s.ID}) != nil {
				b.log.Warn("drop retained message: no room", "trigger", s.ID, "topic", m.Topic)
			}
		}
	}
}

// Run serves until ctx ends, then waits for events in flight. It returns an error when it can't listen, and can be run
// again then.
func (b *Broker) Run(ctx context.Context) error {
	l, err := trigger.Listen(ctx, trigger.KindMQTT, b.cfg.Address,
		fmt.Sprintf("if a broker has it already, set bus.url to mqtt://%s, else set bus.listen to another address", b.cfg.Address),
		"set bus.listen to a port above 1023")
	if err != nil {
		b.setStatus(trigger.Degraded, err.Error())
		return err
	}
	server, err := b.serve(l)
	if err != nil {
		return errors.Join(fmt.Errorf("start mqtt broker: %w", err), l.Close())
	}
	b.mu.Lock()
	if b.addr == nil {
		close(b.ready)
	}
	b.addr = l.Addr()
	b.mu.Unlock()
	b.setStatus(trigger.Healthy, "")
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		b.log.Warn("the mqtt bus is open to the network, without passwords; set bus.listen to a loopback address if that is not meant", "address", a.String())
	}

	<-ctx.Done()
	b.setStatus(trigger.Stopped, "")
	close(b.stopping)
	// Clients stay connected meanwhile: they get their acknowledgements.
	err = b.queue.stop()
	b.server.Store(nil)
	return errors.Join(err, server.Close())
}

func (b *Broker) serve(l net.Listener) (*mochi.Server, error) {
	c := mochi.NewDefaultServerCapabilities()
	c.MaximumClients = maxClients
	c.MaximumPacketSize = uint32(b.cfg.Limits.MaxPacket)
	c.MaximumMessageExpiryInterval = 0 // any other value ends retained messages by the wall clock
	c.MaximumClientWritesPending = 1024
	c.MaximumInflight = 1024
	c.TopicAliasMaximum = 64
	server := mochi.New(&mochi.Options{
		Capabilities:           c,
		Logger:                 slog.New(atLeast{b.log.Handler(), slog.LevelError}),
		SysTopicResendInterval: 1 << 31, // seconds: nobody asks
	})
	if err := server.AddHook(&hook{broker: b, housekeep: housekeeping(server, b.log)}, nil); err != nil {
		return nil, err
	}
	if err := b.remember(server); err != nil {
		return nil, err
	}
	if err := server.AddListener(&startedOnce{Listener: mqttlistener.New("bus", l, maxConnections, server, b.log)}); err != nil {
		return nil, err
	}
	b.own = server.NewClient(nil, mochi.LocalListener, "dunlin", true)
	b.server.Store(server)
	server.Listeners.ServeAll(server.EstablishConnection)
	return server, nil
}

// Ready is closed once the broker listens.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Addr is the address that it listens on; nil before Ready.
func (b *Broker) Addr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr
}

// Look into the inbox again for a trigger: something was put there.
func (b *Broker) Look(trigger string) { b.queue.look(trigger) }

// Status of the source.
func (b *Broker) Status() trigger.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

func (b *Broker) setStatus(h trigger.Health, detail string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = trigger.Status{Source: string(trigger.KindMQTT), Health: h, Detail: detail}
}

// Counters of the source.
func (b *Broker) Counters() Counters {
	c := b.queue.count()
	if server := b.server.Load(); server != nil {
		c.Missed = uint64(atomic.LoadInt64(&server.Info.MessagesDropped) + atomic.LoadInt64(&server.Info.InflightDropped))
	}
	return c
}

// Publish hands m to the broker's subscribers, and to the board's own subscriptions; it is taken when those with QoS 1 or 2 have handled it.
// Messages of one topic are handled in the order in which they are published. Without a broker the subscribers on the network get nothing
// (they aren't there), the board's own do.
func (b *Broker) Publish(ctx context.Context, m Message) (Taken, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if server := b.server.Load(); server != nil {
		pk := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: m.QoS, Retain: m.Retain},
			TopicName:   m.Topic, Payload: m.Payload,
		}
		if m.QoS > 0 {
			pk.PacketID = 1 // it must have one; nothing looks at it
		}
		if err := server.InjectPacket(b.own, pk); err != nil {
			return nil, fmt.Errorf("publish to %s: %w", m.Topic, err)
		}
	}
	handled := make(chan struct{})
	o := offered{
		message: &trigger.Message{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS},
		ends:    trigger.Ends{Outbox: m.Outbox},
		done:    func() { close(handled) },
	}
	for {
		full := b.queue.offer(o)
		if full == nil {
			break
		}
		select {
		case <-full:
		case <-b.stopping:
			return nil, fmt.Errorf("publish to %s: the broker stops", m.Topic)
		case <-ctx.Done():
			return nil, fmt.Errorf("publish to %s: no room in the queue: %w", m.Topic, context.Cause(ctx))
		}
	}
	return func(ctx context.Context) error {
		select {
		case <-handled:
			return nil
		case <-b.queue.idle:
			// Stopped with this message among what was in flight or still waited.
			select {
			case <-handled:
				return nil
			default:
				return fmt.Errorf("publish to %s: the broker stopped before it was handled", m.Topic)
			}
		case <-ctx.Done():
			return fmt.Errorf("publish to %s: its handlers did not end: %w", m.Topic, context.Cause(ctx))
		}
	}, nil
}

func messageOf(pk packets.Packet) *trigger.Message {
	return &trigger.Message{Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Dup: pk.FixedHeader.Dup}
}

// take queues what a client has published. True: the client gets its acknowledgement, and subscribers the message, from
// here, later; false: it is mochi's.
func (b *Broker) take(cl *mochi.Client, pk packets.Packet) bool {
	m := messageOf(pk)
	n, qos := b.queue.wanted(m.Topic)
	if n == 0 {
		return false
	}
	if min(qos, m.QoS) == 0 {
		b.queue.offer(offered{message: m})
		return false
	}
	server := b.server.Load()
	if server == nil {
		cl.Stop(errors.New("the broker stops"))
		return true
	}
	p, known := b.begin(server, cl, pk)
	if p == nil {
		b.acknowledge(server, cl, pk)
	}
	if known {
		return true
	}
	timeout := time.NewTimer(roomTimeout)
	defer timeout.Stop()
	o := offered{message: m, ends: b.receive(cl, pk), done: func() { b.finish(p) }}
	for {
		full := b.crowded(p)
		if full == nil {
			full = b.queue.offer(o)
		}
		if full == nil {
			return true
		}
		select {
		case <-full:
			continue
		case <-b.stopping:
		case <-timeout.C:
			b.log.Warn("close connection: no room for its message", "client", cl.ID, "topic", m.Topic)
		}
		b.end(p, false)
		cl.Stop(errors.New("no room in the queue"))
		return true
	}
}

// begin notes a publication. known: it is under way already, and this connection gets the acknowledgement; or, where p is nil, it has been
// handled, and its packet id not been let go of. mochi tells the same from its sessions, but for the moment in which a connection takes one over.
func (b *Broker) begin(server *mochi.Server, cl *mochi.Client, pk packets.Packet) (p *publication, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := packetKey{cl.ID, pk.PacketID}
	if p := b.pending[key]; p != nil && (p.client == cl || pk.FixedHeader.Dup) {
		p.client = cl
		return p, true
	}
	if pk.FixedHeader.Qos == 2 && b.receipts[key] {
		return nil, true
	}
	twin := b.twins[cl]
	if twin == nil {
		twin = server.NewClient(nil, mochi.LocalListener, cl.ID, true)
		b.twins[cl] = twin
	}
	p = &publication{key: key, client: cl, twin: twin, packet: pk}
	b.pending[key] = p
	b.inflight[cl.ID]++
	return p, false
}

// crowded gives a channel to wait on while p's client has too much in flight.
func (b *Broker) crowded(p *publication) <-chan struct{} {
	b.mu.Lock()
	over := b.inflight[p.key.client] > maxClientInflight
	b.mu.Unlock()
	if !over {
		return nil
	}
	b.queue.mu.Lock()
	defer b.queue.mu.Unlock()
	if b.queue.bytes == 0 && b.queue.workers == 0 {
		return nil // all of it has ended since
	}
	return b.queue.wait()
}

// end forgets p, which was handled or found no room, and says which connection to acknowledge to.
func (b *Broker) end(p *publication, handled bool) *mochi.Client {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending[p.key] == p {
		delete(b.pending, p.key)
	}
	if _, kept := b.receipts[p.key]; kept && handled {
		b.receipts[p.key] = true
	}
	if b.inflight[p.key.client]--; b.inflight[p.key.client] <= 0 {
		delete(b.inflight, p.key.client)
	}
	return p.client
}

// finish forwards and acknowledges a message that has been handled.
func (b *Broker) finish(p *publication) {
	server := b.server.Load()
	if server == nil {
		return
	}
	pk := p.packet
	pk.FixedHeader.Dup = false
	pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 0, false
	if err := server.InjectPacket(p.twin, pk); err != nil {
		b.log.Warn("forward message", "topic", pk.TopicName, "error", err)
	}
	b.acknowledge(server, b.end(p, true), pk)
}

// acknowledge a message that has been handled.
func (b *Broker) acknowledge(server *mochi.Server, cl *mochi.Client, pk packets.Packet) {
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID, Created: time.Now().Unix()}
	if pk.FixedHeader.Qos == 2 {
		ack.FixedHeader.Type = packets.Pubrec
	}
	if pk.FixedHeader.Qos == 2 {
		// mochi answers repeats of the PUBLISH, and the PUBREL, from what is in flight for the session.
		if now, ok := server.Clients.Get(cl.ID); ok {
			cl = now
		}
		if cl.State.Inflight.Set(ack) {
			atomic.AddInt64(&server.Info.Inflight, 1)
		}
		cl.State.Inflight.DecreaseReceiveQuota()
	}
	crash.At("acknowledge")
	// A client that has gone sends the message again when it is back.
	if err := cl.WritePacket(ack); err != nil && !errors.Is(err, mochi.ErrConnectionClosed) {
		b.log.Debug("acknowledge message", "client", cl.ID, "error", err)
	}
}
