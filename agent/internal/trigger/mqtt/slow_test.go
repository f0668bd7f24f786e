package mqtt

import (
	"context"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Subscribers that read nothing: what they miss is counted, and costs neither handlers nor publishers a message, nor the board its memory.
func TestASubscriberThatReadsNothingMissesMessagesAndHandlersMissNone(t *testing.T) {
	var handled atomic.Int64
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "in", QoS: 1, Handle: func(context.Context, *trigger.Event) error {
		handled.Add(1)
		return nil
	}})
	deaf(t, b.Addr().String(), "deaf-0", 0)
	deaf(t, b.Addr().String(), "deaf-1", 1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	pub := dial(t, b.Addr().String(), "")
	const n, window = 12000, 64
	payload := make([]byte, 4<<10)
	var under []paho.Token
	for range n {
		under = append(under, pub.Publish("in", 1, false, payload))
		if len(under) == window {
			must(t, under[0])
			under = under[1:]
		}
	}
	for _, token := range under {
		must(t, token)
	}
	if handled.Load() != n {
		t.Errorf("%d of %d messages were handled", handled.Load(), n)
	}
	if c := b.Counters(); c.Missed == 0 || c.Dropped != 0 || c.Handled != n {
		t.Errorf("counters %+v", c)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 { // 1,024 messages of 4 KiB under way to each, and some more
		t.Errorf("%d MiB are held for subscribers that read nothing", grown>>20)
	}
}

// deaf subscribes to everything, and reads nothing from then on.
func deaf(t *testing.T, addr, id string, qos byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h := hand{t, conn}
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion, connect.ClientIdentifier = "MQTT", 4, id
	h.send(connect)
	want[*packets.ConnackPacket](h)
	sub := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	sub.MessageID, sub.Topics, sub.Qoss = 1, []string{"#"}, []byte{qos}
	h.send(sub)
	want[*packets.SubackPacket](h)
}
