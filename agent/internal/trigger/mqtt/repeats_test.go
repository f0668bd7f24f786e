package mqtt

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Mosquitto forgets that it has the PUBREC of a message when a connection breaks before it has sent the PUBREL again, and
// publishes the message once more (up to 2.0.20 at least: db__message_reconnect_reset_outgoing), which 4.3.3 forbids.
func TestAMessageThatMosquittoPublishesAgainAfterItsReleaseIsHandledOnce(t *testing.T) {
	const connect, pubcomp = 1, 7
	for _, restarted := range []bool{false, true} {
		m := startMosquitto(t)
		var again atomic.Int32
		var lost, deaf atomic.Bool // the next PUBCOMP is, the next CONNECT goes to one who is
		p := startProxy(t, m.addr, func(p []byte, broker *net.TCPConn) bool {
			switch p[0] >> 4 {
			case connect:
				if deaf.CompareAndSwap(true, false) {
					m.unheard(t, p, broker)
					return true
				}
			case pubcomp:
				if lost.CompareAndSwap(true, false) {
					deaf.Store(true)
					return true
				}
			}
			return false
		})
		p.answered = func(p []byte) {
			if p[0]&^1 == 3<<4|1<<3|2<<1 { // PUBLISH of QoS 2, again
				again.Add(1)
			}
		}
		s, box := newBoxOf(t, inbox.Limits{})
		sub := Subscription{ID: "a", Filter: "in", QoS: 2, Handle: entered(s)}
		c, stop := startClientWith(t, box, p.Addr().String(), sub)
		ready(t, c)
		pub := dial(t, m.addr, "")
		var want []string
		send := func() {
			want = append(want, fmt.Sprint(len(want)))
			must(t, pub.Publish("in", 2, false, want[len(want)-1]))
		}
		handled := func() {
			waitFor(t, "the last is handled", func() bool { return strings.HasSuffix(read(t, s, "all"), want[len(want)-1]+" ") })
		}
		send()
		handled()
		waitFor(t, "the client knows Mosquitto", func() bool {
			all, err := box.Receipts()
			_, knows := all["board"][noID]
			return err == nil && knows
		})
		for range 20 { // it may not have taken the connection yet, and then it forgets nothing
			lost.Store(true)
			send()
			waitFor(t, "its PUBCOMP is lost", func() bool { return !lost.Load() })
			if restarted {
				stop()
				_, stop = startClientWith(t, box, p.Addr().String(), sub)
			}
			send() // it comes after what comes again
			handled()
			if again.Load() > 0 {
				break
			}
		}
		if again.Load() == 0 {
			t.Error("Mosquitto published none again: this run proves nothing")
		}
		if got := read(t, s, "all"); got != strings.Join(want, " ")+" " {
			t.Errorf("restarted %t: handled %q", restarted, got)
		}
	}
}

// entered is a handler that commits the payload to a list of all.
func entered(s *store.Store) trigger.Handler {
	return committed(s, func() store.Durability { return store.Sync }, func(tx *store.Tx, e *trigger.Event) error {
		return add(tx, "all", string(e.MQTT.Payload))
	})
}

// hand is a broker by hand, one connection of it.
type hand struct {
	t *testing.T
	net.Conn
}

func (h hand) send(p packets.ControlPacket) {
	h.t.Helper()
	if err := p.Write(h); err != nil {
		h.t.Fatal(err)
	}
}

// want the next packet of a kind, beside pings.
func want[P packets.ControlPacket](h hand) P {
	h.t.Helper()
	for {
		p, err := packets.ReadPacket(h)
		if err != nil {
			h.t.Fatal(err)
		}
		if found, ok := p.(P); ok {
			return found
		}
	}
}

func (h hand) publish(id uint16, payload string, again bool) {
	h.t.Helper()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.MessageID, p.TopicName, p.Payload, p.Dup = 2, id, "in", []byte(payload), again
	h.send(p)
}

// complete the exchange of a message.
func (h hand) complete(id uint16) {
	h.t.Helper()
	if got := want[*packets.PubrecPacket](h).MessageID; got != id {
		h.t.Fatalf("PUBREC of %d, want %d", got, id)
	}
	rel := packets.NewControlPacket(packets.Pubrel).(*packets.PubrelPacket)
	rel.MessageID = id
	h.send(rel)
	want[*packets.PubcompPacket](h)
}

// accept a connection to the session.
func accept(t *testing.T, l net.Listener, present, subscribes bool) hand {
	t.Helper()
	h := hand{t: t}
	for h.Conn == nil {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if h.Conn = conn; want[*packets.ConnectPacket](h).ClientIdentifier != "board" { // it asks what the broker is
			conn.Close()
			h.Conn = nil
		}
	}
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.SessionPresent = present
	h.send(ack)
	if subscribes {
		sub := want[*packets.SubscribePacket](h)
		granted := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		granted.MessageID, granted.ReturnCodes = sub.MessageID, []byte{2}
		h.send(granted)
	}
	return h
}

// handStart is a client whose broker is the test.
func handStart(t *testing.T, s *store.Store, box *inbox.Box, present bool) (hand, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, _ = startClientWith(t, box, l.Addr().String(), Subscription{ID: "a", Filter: "in", QoS: 2, Handle: entered(s)})
	return accept(t, l, present, true), l
}

// A broker may give a packet id to the next message as soon as it is free, and the first transmission of that one may be lost.
func TestAnotherMessageOfTheSameWordsUnderAnIDThatIsUsedAgainIsHandled(t *testing.T) {
	for name, before := range map[string][]uint16{
		"one id":         {1, 1, 1},
		"lowest free":    {1, 2, 3, 1, 2, 1},
		"a large window": append(rising(100), rising(100)...),
		"in turn":        rising(300), // and then, as mochi after each connection, from the first on
	} {
		t.Run(name, func(t *testing.T) {
			s, box := newBoxOf(t, inbox.Limits{})
			h, l := handStart(t, s, box, false)
			for _, id := range before {
				h.publish(id, "on", false)
				h.complete(id)
			}
			h.Close()
			h = accept(t, l, true, false)
			for _, id := range []uint16{before[len(before)-1], 1} {
				h.publish(id, "on", true)
				h.complete(id)
			}
			if got := len(strings.Fields(read(t, s, "all"))); got != len(before)+2 {
				t.Errorf("%d messages were handled, want %d", got, len(before)+2)
			}
		})
	}
}

func rising(n int) (ids []uint16) {
	for i := range n {
		ids = append(ids, uint16(i+1))
	}
	return ids
}

// A board that was killed does not know which of its receipts are of messages that are still under way.
func TestWhatWasUnderWayAtAKillIsKnownHoweverManyReceiptsThereAre(t *testing.T) {
	s, box := newBoxOf(t, inbox.Limits{})
	const kept, under = 2 * keepIDs, 50
	at := func(i int) uint16 { return uint16((65300+i)%65535 + 1) } // over the end of the ids
	for i := range kept {
		row := inbox.Receipt("board", at(i), markOf(message{payload: fmt.Sprint(i)}))
		if err := s.Put(map[string][]byte{row.Key: row.Value}); err != nil {
			t.Fatal(err)
		}
	}
	if err := box.Keep("board", noID); err != nil {
		t.Fatal(err)
	}
	h, _ := handStart(t, s, box, true)
	for i := range under {
		h.publish(at(i), fmt.Sprint(i), true)
		h.complete(at(i))
	}
	for i := range 2 {
		h.publish(at(kept+i), "new", false)
		h.complete(at(kept + i))
	}
	if got := read(t, s, "all"); got != "new new " {
		t.Errorf("handled %q", got)
	}
	all, err := box.Receipts()
	if err != nil || len(all["board"]) > 2*keepIDs || all["board"][at(kept+1)] == 0 {
		t.Errorf("%d receipts are kept, %v", len(all["board"]), err)
	}
}

// message is what markOf looks at.
type message struct {
	paho.Message
	payload string
}

func (m message) Topic() string   { return "in" }
func (m message) Payload() []byte { return []byte(m.payload) }

func TestReceiptsOfReleasedMessagesAreBounded(t *testing.T) {
	s, box := newBoxOf(t, inbox.Limits{})
	if err := box.Keep("board", noID); err != nil { // Mosquitto, as an earlier run has learned
		t.Fatal(err)
	}
	h, l := handStart(t, s, box, true)
	const n = 3 * keepIDs
	for _, id := range rising(n) {
		h.publish(id, "x", false)
		h.complete(id)
	}
	all, err := box.Receipts()
	if first := all["board"]; err != nil || len(first) > 2*keepIDs+1 || len(first) < keepIDs || first[n] == 0 || first[1] != 0 {
		t.Errorf("%d receipts are kept, %v", len(first), err)
	}
	// Ids from the beginning again: the broker was given an older state of its own.
	for i := range uint16(3) {
		h.publish(n-i-1, "x", false)
		h.complete(n - i - 1)
	}
	all, err = box.Receipts()
	if got := slices.Sorted(maps.Keys(all["board"])); err != nil || !slices.Equal(got, []uint16{noID, n - 3, n - 2, n - 1}) {
		t.Errorf("%v are kept of ids that are used again, %v", got, err)
	}
	h.Close()
	h = accept(t, l, true, false)
	h.publish(n-1, "x", true) // known
	h.complete(n - 1)
	h.Close()
	_ = accept(t, l, false, true) // a new session, with whatever broker
	if all, err = box.Receipts(); err != nil || len(all) != 0 {
		t.Errorf("%v are kept of a session that is gone, %v", all, err)
	}
	if got := len(strings.Fields(read(t, s, "all"))); got != n+3 {
		t.Errorf("%d messages were handled, want %d", got, n+3)
	}
}
