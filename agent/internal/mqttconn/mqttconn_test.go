package mqttconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

type bytesConn struct {
	net.Conn
	r      io.Reader
	closed bool
}

func (c *bytesConn) Read(p []byte) (int, error) { return c.r.Read(p) }
func (c *bytesConn) Close() error               { c.closed = true; return nil }

func publish(n int) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload = "t", make([]byte, n)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func TestPacketsWithinTheLimitPassInAnyPieces(t *testing.T) {
	stream := bytes.Join([][]byte{publish(0), {0xd0, 0}, publish(200), publish(1000), {0xd0, 0}, publish(127)}, nil)
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"halves": iotest.HalfReader(bytes.NewReader(stream))} {
		got, err := io.ReadAll(Guard(&bytesConn{r: r}, 1100))
		if err != nil || !bytes.Equal(got, stream) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(stream))
		}
	}
}

func TestAClaimOverTheLimitEndsTheConnection(t *testing.T) {
	for name, claim := range map[string][]byte{"256 MiB": {0x30, 0xff, 0xff, 0xff, 0x7f}, "five length bytes": {0x30, 0x80, 0x80, 0x80, 0x80, 1}} {
		for _, one := range []bool{false, true} {
			conn := &bytesConn{r: bytes.NewReader(append(publish(10), claim...))}
			if one {
				conn.r = iotest.OneByteReader(conn.r)
			}
			g := Guard(conn, 1<<20)
			_, err := io.ReadAll(g)
			var large *PacketTooLarge
			if !errors.As(err, &large) || !conn.closed {
				t.Errorf("%s: error %v, closed %v", name, err, conn.closed)
			}
			if _, again := g.Read(make([]byte, 1)); !errors.As(again, &large) {
				t.Errorf("%s: a later read gives %v", name, again)
			}
		}
	}
}

func TestABrokerCannotCostMemoryWithFiveBytes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = packets.ReadPacket(conn)
		_, _ = conn.Write([]byte{0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f})
		_, _ = io.Copy(io.Discard, conn)
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	lost := make(chan error, 1)
	o := mqtt.NewClientOptions().AddBroker("mqtt://" + l.Addr().String()).SetAutoReconnect(false).SetCustomOpenConnectionFn(Opener(1 << 20)).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	c := mqtt.NewClient(o)
	if tok := c.Connect(); !tok.WaitTimeout(10 * time.Second) {
		t.Fatal("no connection")
	}
	select {
	case err := <-lost:
		if tooLarge := (*PacketTooLarge)(nil); !errors.As(err, &tooLarge) || tooLarge.Max != 1<<20 {
			t.Errorf("got %v, want the packet that is too large", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the connection was not ended")
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("allocated %d MiB", grown>>20)
	}
}

func TestReconnectsAreBoundedAndSpread(t *testing.T) {
	for n := range 100 {
		low, high := Backoff(n, 0), Backoff(n, 0.999)
		if low < 500*time.Millisecond || high > 2*time.Minute || high-low < low/2 {
			t.Errorf("backoff(%d) = %v to %v", n, low, high)
		}
	}
}

// What the guard lets pass doesn't depend on the pieces in which it comes, and holds no packet that claims more than the limit.
func FuzzGuard(f *testing.F) {
	const limit = 300
	f.Add(append(publish(20), publish(400)...), uint8(3))
	f.Add([]byte{0x30, 0x80, 0x80, 0x80, 0x00, 0xd0, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		whole, err := io.ReadAll(Guard(&bytesConn{r: bytes.NewReader(stream)}, limit))
		g := Guard(&bytesConn{r: bytes.NewReader(stream)}, limit)
		var parts []byte
		p := make([]byte, 1+int(piece))
		var again error
		for again == nil {
			var n int
			n, again = g.Read(p)
			parts = append(parts, p[:n]...)
		}
		var large *PacketTooLarge
		if refused := errors.As(again, &large); refused != (err != nil) {
			t.Fatalf("whole: %v, in pieces of %d: %v", err, len(p), again)
		} else if !refused && !bytes.Equal(whole, parts) || !bytes.HasPrefix(stream, parts) {
			t.Fatalf("%x became %x, in pieces of %d %x", stream, whole, len(p), parts)
		}
		r := bytes.NewReader(whole)
		for r.Len() > 0 {
			_, _ = r.ReadByte()
			n, err := binary.ReadUvarint(r)
			if err == nil && n > limit {
				t.Fatalf("a packet of %d bytes passed", n)
			}
			_, _ = r.Seek(int64(n), io.SeekCurrent)
		}
	})
}

func TestPausesGrowUntilAConnectionHolds(t *testing.T) {
	var r Reconnect
	for i, c := range []struct{ held, least time.Duration }{
		{0, 500 * time.Millisecond}, {0, time.Second}, {time.Second, 2 * time.Second}, {9 * time.Second, 4 * time.Second}, {0, 8 * time.Second},
		{30 * time.Second, 500 * time.Millisecond}, {10 * time.Second, 500 * time.Millisecond}, {0, time.Second},
	} {
		if got := r.Pause(c.held, 0); got != c.least {
			t.Errorf("connection %d, which held for %s, is followed by %s, want %s", i, c.held, got, c.least)
		}
	}
	for range 100 {
		r.Pause(0, 0.999)
	}
	if got := r.Pause(0, 0.999); got < time.Minute || got > 2*time.Minute {
		t.Errorf("after a hundred refusals the pause is %s", got)
	}
}
