package mqtt

import (
	"cmp"
	"context"
	"log/slog"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is what mochi calls.
type hook struct {
	mochi.HookBase
	broker    *Broker
	housekeep func()
}

func (h *hook) ID() string { return "dunlin" }

func (h *hook) Provides(b byte) bool {
	switch b {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnSessionEstablished, mochi.OnPacketRead, mochi.OnPublish, mochi.OnWillSent, mochi.OnDisconnect:
		return true
	}
	return false
}

// OnConnectAuthenticate lets everyone in: who reaches the address may use the bus, so it is loopback by default.
func (h *hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (h *hook) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (h *hook) OnSessionEstablished(cl *mochi.Client, pk packets.Packet) {
	if pk.Connect.Clean {
		h.broker.forget(cl.ID)
	}
	if cl.Properties.Props.SessionExpiryInterval > 0 || cl.Properties.Will.WillDelayInterval > 0 {
		h.housekeep()
	}
}

// OnPacketRead runs on the connection of the client. An error closes it, and the client goes on with the exchange in the next.
func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type == packets.Pubrel && !cl.Net.Inline {
		return pk, h.broker.release(cl.ID, pk.PacketID)
	}
	return pk, nil
}

// OnPublish runs on the connection of the client, so only that one waits where there is no room.
func (h *hook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.Properties.MessageExpiryInterval > 0 {
		h.housekeep()
	}
	// Any error but this one is acknowledged to a 3.1.1 client.
	if !cl.Net.Inline && h.broker.take(cl, pk) {
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

// OnWillSent: a will passes by OnPublish.
func (h *hook) OnWillSent(_ *mochi.Client, pk packets.Packet) {
	if h.broker.queue.offer(offered{message: messageOf(pk)}) != nil {
		h.broker.log.Warn("drop last will: no room", "topic", pk.TopicName)
	}
}

func (h *hook) OnDisconnect(cl *mochi.Client, _ error, _ bool) {
	h.broker.mu.Lock()
	defer h.broker.mu.Unlock()
	delete(h.broker.twins, cl)
}

// atLeast drops log records below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= cmp.Or(h.level, slog.LevelInfo) && h.Handler.Enabled(ctx, l)
}

func (h atLeast) WithAttrs(a []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(a), h.level}
}
func (h atLeast) WithGroup(n string) slog.Handler { return atLeast{h.Handler.WithGroup(n), h.level} }
