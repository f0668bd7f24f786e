package mqttlistener

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/sys/unix"
)

const (
	writeTimeout = 20 * time.Second // for each writeChunk
	writeChunk   = 16 << 10
	waiting      = 64 << 10 // bytes that wait to be written, before the next message does
	tooMany      = 4 << 20  // the peer sends what must be answered, and reads no answers
)

var errDeaf = errors.New("it reads nothing of what it is sent")

// conn never blocks a writer: mochi holds a client's lock while it writes (v2.7.9, Client.WritePacket), and whoever publishes to that client
// waits for the lock (NextPacketID), so one that reads nothing would hold them all up. What the socket doesn't take at once waits
// here, for a goroutine that writes it; pace has messages wait before that lock. A peer that takes nothing for writeTimeout is cut off.
type conn struct {
	net.Conn
	raw syscall.RawConn // nil: it has no descriptor

	mu      sync.Mutex
	buf     []byte
	writing bool
	err     error
	room    chan struct{} // closed when there is, or an error; nil while nobody waits
}

func newConn(c net.Conn) *conn {
	n := &conn{Conn: c}
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			n.raw = raw
		}
	}
	return n
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	rest := b
	if !c.writing {
		n, err := c.now(b)
		if err != nil {
			c.fail(err)
			return n, err
		}
		rest = b[n:]
	}
	if len(rest) == 0 {
		return len(b), nil
	}
	if len(c.buf)+len(rest) > tooMany && len(c.buf) > 0 {
		c.fail(errDeaf)
		return len(b) - len(rest), errDeaf
	}
	c.buf = append(c.buf, rest...)
	if !c.writing {
		c.writing = true
		go c.write()
	}
	return len(b), nil
}

// now writes what the socket takes without waiting.
func (c *conn) now(b []byte) (n int, err error) {
	if c.raw == nil {
		return 0, nil
	}
	if e := c.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), b)
		return true
	}); e != nil {
		return 0, e
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		err = nil
	}
	return max(n, 0), err
}

// write what waits until nothing does.
func (c *conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) > 0 && c.err == nil {
		b := c.buf
		c.buf = nil
		c.mu.Unlock()
		err := c.through(b)
		c.mu.Lock()
		if err != nil {
			c.fail(err)
		}
		c.makeRoom()
	}
	c.writing = false
}

// through writes b with a deadline for each part: a peer that is slow but takes something keeps its connection.
func (c *conn) through(b []byte) error {
	for len(b) > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		n, err := c.Conn.Write(b[:min(len(b), writeChunk)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return c.SetWriteDeadline(time.Time{})
}

// fail ends the connection. The caller holds mu.
func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = err
		c.Conn.Close()
	}
	c.makeRoom()
}

// makeRoom wakes who waits for it. The caller holds mu.
func (c *conn) makeRoom() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// wait until another message may be written.
func (c *conn) wait() {
	for {
		c.mu.Lock()
		if c.err != nil || len(c.buf) < waiting {
			c.mu.Unlock()
			return
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		<-room
	}
}

// SetDeadline is called by mochi at each packet read; it must not touch a write that is under way.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// pace has messages wait for their turn on each connection. Acknowledgements don't wait.
type pace struct{ mochi.HookBase }

// ID is mochi's name for the hook.
func (*pace) ID() string { return "pace" }

// Provides says what it hooks.
func (*pace) Provides(b byte) bool { return b == mochi.OnPacketEncode }

// OnPacketEncode is called before a packet is written, without a lock.
func (*pace) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	if c, ok := cl.Net.Conn.(*conn); ok && pk.FixedHeader.Type == packets.Publish {
		c.wait()
	}
	return pk
}
