package mqtt

import (
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// receive says what the first durable commit of a client's message writes besides: for QoS 2, what tells it from its repeats. A
// session that ends with its connection repeats nothing.
func (b *Broker) receive(cl *mochi.Client, pk packets.Packet) trigger.Ends {
	if pk.FixedHeader.Qos != 2 || !lasting(cl) {
		return trigger.Ends{}
	}
	b.mu.Lock()
	b.receipts[packetKey{cl.ID, pk.PacketID}] = false
	b.mu.Unlock()
	return trigger.Ends{Rows: []trigger.Row{inbox.Receipt(cl.ID, pk.PacketID, 0)}}
}

// lasting reports whether a client's session outlives its connection.
func lasting(cl *mochi.Client) bool {
	if cl.Properties.ProtocolVersion >= 5 {
		return cl.Properties.Props.SessionExpiryInterval > 0
	}
	return !cl.Properties.Clean
}

// remember the packet ids of QoS 2 that came in before the start, as mochi does while it runs: in sessions.
func (b *Broker) remember(server *mochi.Server) error {
	all, err := b.cfg.Inbox.Receipts()
	if err != nil {
		return err
	}
	for session, ids := range all {
		cl := server.NewClient(nil, mochi.LocalListener, session, false)
		cl.Properties.ProtocolVersion = 4
		for id := range ids {
			b.mu.Lock()
			b.receipts[packetKey{session, id}] = true
			b.mu.Unlock()
			cl.State.Inflight.Set(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: id, Created: time.Now().Unix()})
			atomic.AddInt64(&server.Info.Inflight, 1)
		}
		cl.Stop(packets.ErrServerShuttingDown)
		server.Clients.Add(cl)
	}
	return nil
}

// release a packet id before its client may use it again: one that came back after a power cut would make a new message look
// like a repeat.
func (b *Broker) release(client string, packet uint16) error {
	key := packetKey{client, packet}
	b.mu.Lock()
	_, kept := b.receipts[key]
	b.mu.Unlock()
	if !kept {
		return nil
	}
	if err := b.cfg.Inbox.Release(client, packet); err != nil {
		b.log.Warn("close connection: its message can't be completed", "client", client, "cause", err)
		return err
	}
	crash.At("released")
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.receipts, key)
	return nil
}

// forget what a session that was ended has left.
func (b *Broker) forget(client string) {
	b.mu.Lock()
	kept := false
	for k := range b.receipts {
		if k.client == client {
			kept = true
			delete(b.receipts, k)
		}
	}
	b.mu.Unlock()
	if !kept {
		return
	}
	if err := b.cfg.Inbox.Forget(client); err != nil {
		b.log.Warn("a session that was ended can't be forgotten", "client", client, "cause", err)
	}
}
