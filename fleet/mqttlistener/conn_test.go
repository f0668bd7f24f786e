package mqttlistener

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// pair of connected sockets, of which the first is as brokers have it.
func pair(t *testing.T) (*conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return newConn(c), peer
}

// fill c until more waits than the socket takes, and give how many parts that were.
func fill(t *testing.T, c *conn, part []byte) (sent int) {
	t.Helper()
	for {
		c.mu.Lock()
		full := len(c.buf) >= waiting
		c.mu.Unlock()
		if full {
			return sent
		}
		if _, err := c.Write(part); err != nil {
			t.Fatal(err)
		}
		sent++
	}
}

func TestAWriterIsNotHeldUpByAPeerThatReadsNothing(t *testing.T) {
	c, peer := pair(t)
	part := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	sent := fill(t, c, part)
	waited := make(chan struct{})
	go func() { c.wait(); close(waited) }()
	select {
	case <-waited:
		t.Error("the next message does not wait")
	default:
	}
	// It reads again, and everything comes in its order.
	got := make([]byte, sent*len(part))
	if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, bytes.Repeat(part, sent)) {
		t.Errorf("%d bytes, %v, or they are others", len(got), err)
	}
	select {
	case <-waited:
	case <-time.After(20 * time.Second):
		t.Error("the next message waits for ever")
	}
	if _, err := c.Write([]byte("then")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(peer, got[:4]); err != nil || string(got[:4]) != "then" {
		t.Errorf("%q, %v", got[:4], err)
	}
}

func TestAPeerThatAsksAndReadsNoAnswersIsCutOff(t *testing.T) {
	c, peer := pair(t)
	for part := make([]byte, 64<<10); ; {
		if _, err := c.Write(part); errors.Is(err, errDeaf) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		if len(c.buf) > tooMany {
			t.Fatalf("%d bytes wait", len(c.buf))
		}
		c.mu.Unlock()
	}
	c.wait() // for nothing any more
	if _, err := io.Copy(io.Discard, peer); err != nil && !errors.Is(err, io.EOF) {
		t.Log(err) // cut off
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, errDeaf) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAWaitEndsWithItsConnection(t *testing.T) {
	c, _ := pair(t)
	fill(t, c, make([]byte, 1<<20))
	waited := make(chan struct{})
	go func() { c.wait(); close(waited) }()
	c.Close()
	select {
	case <-waited:
	case <-time.After(20 * time.Second):
		t.Error("it waits for ever")
	}
}
