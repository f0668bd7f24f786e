package mqtt

import (
	"bytes"
	"net"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// dial5 connects as an MQTT 5 client; change says what is asked for.
func dial5(t *testing.T, b *Broker, id string, change func(*packets.Packet)) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: 5,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: id, Clean: true, Keepalive: 60},
	}
	if change != nil {
		change(&pk)
	}
	send(t, conn, pk.ConnectEncode)
	ack := make([]byte, 4)
	if _, err := conn.Read(ack); err != nil || ack[0] != packets.Connack<<4 || ack[3] != 0 {
		t.Fatalf("CONNECT was answered with % x, %v", ack, err)
	}
	return conn
}

func send(t *testing.T, conn net.Conn, encode func(*bytes.Buffer) error) {
	t.Helper()
	var buf bytes.Buffer
	if err := encode(&buf); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(buf.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// The broker looks for what has expired only once somebody set a time: each of these is the first on its broker.
func TestWhatAnMQTT5ClientLetsExpireEnds(t *testing.T) {
	t.Run("a delayed will", func(t *testing.T) {
		t.Parallel()
		var got record
		b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "lwt/#", QoS: 1, Handle: got.handle})
		conn := dial5(t, b, "sensor", func(pk *packets.Packet) {
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillQos = true, "lwt/sensor", []byte("gone"), 1
			pk.Connect.WillProperties.WillDelayInterval = 1
		})
		conn.Close()
		waitFor(t, "the will", func() bool { return got.has("gone") })
	})
	t.Run("a retained message", func(t *testing.T) {
		t.Parallel()
		b := startBroker(t, Limits{})
		pk := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: true}, ProtocolVersion: 5, TopicName: "state/door", Payload: []byte("open"),
			Properties: packets.Properties{MessageExpiryInterval: 1},
		}
		send(t, dial5(t, b, "sensor", nil), pk.PublishEncode)
		retained := func() int { return len(b.server.Load().Topics.Messages("state/door")) }
		waitFor(t, "the message is kept", func() bool { return retained() == 1 })
		waitFor(t, "its time is over", func() bool { return retained() == 0 })
	})
	t.Run("a session", func(t *testing.T) {
		t.Parallel()
		b := startBroker(t, Limits{})
		conn := dial5(t, b, "display", func(pk *packets.Packet) {
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 1, true
		})
		known := func() bool { _, ok := b.server.Load().Clients.Get("display"); return ok }
		conn.Close()
		waitFor(t, "its time is over", func() bool { return !known() })
	})
}
