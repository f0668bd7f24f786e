package mqtt

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// published is a PUBLISH of QoS 0, or of QoS 1 with packet id 1, whatever its topic.
func published(qos byte, topic string, payload []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
	body = append(body, topic...)
	if qos > 0 {
		body = append(body, 0, 1)
	}
	body = append(body, payload...)
	return append(binary.AppendUvarint([]byte{0x30 | qos<<1}, uint64(len(body))), body...)
}

func TestTopicsAndPayloadsOfAnyBytesArriveAsTheyAre(t *testing.T) {
	got := make(chan *trigger.Message, 1)
	b := startBroker(t, Limits{}, Subscription{ID: "all", Filter: "#", QoS: 1, Handle: func(_ context.Context, e *trigger.Event) error {
		got <- e.MQTT
		return nil
	}})
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	noise := make([]byte, 100_000)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	payloads := [][]byte{{}, {0}, every, noise, []byte("\xff\xfe"), bytes.Repeat([]byte{0xc3}, 1000)}
	topics := []string{"a", "/", "//", " ", "a b/c\td", "ü/✓/🐦", "\ufeffmark", "\u0001", `"{}\`, "a/$SYS", strings.Repeat("long/", 10_000), "\U0010ffff", "%00", "..", "\r\n"}
	c := connect(t, b.Addr().String(), "by-hand")
	for i, topic := range topics {
		payload := payloads[i%len(payloads)]
		if _, err := c.Write(published(1, topic, payload)); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-got:
			if m.Topic != topic || !bytes.Equal(m.Payload, payload) {
				t.Errorf("%.50q with %d bytes arrived as %.50q with %d", topic, len(payload), m.Topic, len(m.Payload))
			}
		case <-time.After(time.Minute):
			t.Fatalf("%.50q never arrived", topic)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatalf("%.50q was not acknowledged: %v", topic, err)
		}
	}
}

// The connection ends (MQTT 3.1.1, 1.5.3 and 3.3.2), no handler is called, and others go on.
func TestTopicsThatAreNoneReachNoHandler(t *testing.T) {
	var got record
	b := startBroker(t, Limits{}, Subscription{ID: "all", Filter: "#", QoS: 1, Handle: got.handle})
	for _, topic := range []string{"\xff", "a\x00b", "\xed\xa0\x80", "a/\xc3", "\xc0\x80", "\xf5\x80\x80\x80", "a/#", "+", ""} {
		for _, qos := range []byte{0, 1} {
			c := connect(t, b.Addr().String(), "by-hand")
			if _, err := c.Write(append(published(qos, topic, []byte("bad")), published(qos, "after", []byte("after"))...)); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") || n > 4 {
				t.Errorf("%q, QoS %d: %d bytes in answer, then %v; want the connection closed", topic, qos, n, err)
			}
		}
	}
	must(t, dial(t, b.Addr().String(), "").Publish("good", 1, false, "good"))
	waitFor(t, "the good one is handled", func() bool { return got.has("good") })
	if got.String() != "good" {
		t.Errorf("handled %q", &got)
	}
}
