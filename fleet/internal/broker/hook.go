package broker

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"

	"dunlin.dev/dunlin/fleet/wire"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is where mochi asks and tells. One for the broker's life.
type hook struct {
	mqtt.HookBase
	handler Handler
	server  *mqtt.Server
	log     *slog.Logger

	mu      sync.Mutex
	next    uint64
	current map[string]session // by device: the newest connection
}

type session struct {
	client *mqtt.Client
	number uint64
}

func (h *hook) ID() string { return "fleet" }

func (h *hook) Provides(b byte) bool {
	return bytes.IndexByte([]byte{
		mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnPublish, mqtt.OnWill, mqtt.OnDisconnect,
	}, b) >= 0
}

// OnConnect refuses connections that would never end by themselves.
func (h *hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	if k := pk.Connect.Keepalive; k == 0 || k > maxKeepalive {
		return fmt.Errorf("keep alive of %d s, want 1 to %d", k, maxKeepalive)
	}
	return nil
}

// clientID is what a board must call its connection. The dot keeps it apart from the broker's own "inline".
func clientID(fleet, device string) string { return fleet + "." + device }

// OnConnectAuthenticate: the user name is the device's, and the client id follows from it, or one board could take over
// another's session. A last will may go nowhere but to the board's own state topic.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	device := string(pk.Connect.Username)
	reason := ""
	switch {
	case h.handler.Fleet() == "":
		reason = "the fleet has no keys yet"
	case wire.CheckName("device", device) != nil:
		reason = "user name is not a device name"
	case cl.ID != clientID(h.handler.Fleet(), device):
		reason = "client id is not <fleet>.<user name>"
	case pk.Connect.WillFlag && pk.Connect.WillTopic != h.topic(device, wire.ChannelState):
		reason = "last will is not for the device's own state"
	case !h.handler.Authenticate(device, pk.Connect.Password):
		reason = "wrong password"
	}
	if reason != "" {
		h.log.Warn("refuse connection", "device", device, "remote", cl.Net.Remote, "reason", reason)
		return false
	}
	return true
}

func (h *hook) topic(device string, c wire.Channel) string {
	return wire.Topic{Fleet: h.handler.Fleet(), Device: device, Channel: c}.Format()
}

// OnACLCheck: a board publishes and subscribes on its own topics, in their direction.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	device := string(cl.Properties.Username)
	allowed := wire.MaySubscribe(h.handler.Fleet(), device, topic)
	if write {
		allowed = wire.MayPublish(h.handler.Fleet(), device, topic)
	}
	if !allowed {
		h.log.Debug("refuse topic", "device", device, "topic", clip(topic), "publish", write)
	}
	return allowed
}

func clip(s string) string { return fmt.Sprintf("%.200s", s) }

// OnSessionEstablish runs after authentication, before mochi hands a session over.
func (h *hook) OnSessionEstablish(cl *mqtt.Client, pk packets.Packet) {
	// The old connection may be dead and full: mochi would say goodbye on it first, and wait for its write timeout.
	if old, ok := h.server.Clients.Get(cl.ID); ok && !old.Net.Inline {
		old.Stop(packets.ErrSessionTakenOver)
	}
	// A clean session is deleted by the goroutine of its connection, by client id, when that ends: on a takeover it could
	// delete the newer one. Kept, it is replaced at the next connect (which follows the packet's own flag).
	cl.Properties.Clean = false
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	h.current[cl.ID] = session{cl, h.next}
}

// number of a connection, 0 for one that a newer of the same board has replaced.
func (h *hook) number(cl *mqtt.Client) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.current[cl.ID]; s.client == cl {
		return s.number
	}
	return 0
}

// OnPublish hands a board's message over. It is acknowledged when the handler has taken it, and goes no further.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	if err := h.receive(cl, pk.TopicName, pk.Payload); err != nil {
		h.log.Warn("receive message", "device", string(cl.Properties.Username), "topic", clip(pk.TopicName), "error", err)
		if t, perr := wire.ParseTopic(pk.TopicName); perr == nil && t.Channel == wire.ChannelData {
			cl.Stop(err) // what follows would overtake it
		}
		return pk, packets.ErrRejectPacket
	}
	return pk, packets.CodeSuccessIgnore
}

func (h *hook) receive(cl *mqtt.Client, topic string, payload []byte) error {
	t, err := wire.ParseTopic(topic) // which the access rule has let through
	if err != nil {
		return err
	}
	return h.handler.Receive(Message{Device: t.Device, Connection: h.number(cl), Channel: t.Channel, Payload: payload})
}

// OnWill takes the will as the message that it is: mochi asks nobody before it publishes and retains one.
func (h *hook) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	if err := h.receive(cl, will.TopicName, will.Payload); err != nil {
		h.log.Warn("receive last will", "device", string(cl.Properties.Username), "error", err)
	}
	will.Retain = false
	return will, nil
}

func (h *hook) OnDisconnect(cl *mqtt.Client, _ error, _ bool) {
	n := h.number(cl)
	if n == 0 {
		return
	}
	h.handler.Disconnected(string(cl.Properties.Username), n)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current[cl.ID].number == n {
		delete(h.current, cl.ID)
	}
}
