package broker

import (
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// listener is mochi's listener over a socket that we opened: it bounds connections and how long each may take for its
// CONNECT and for a write, and a panic over one connection's bytes costs that connection only.
type listener struct {
	l     net.Listener
	slots chan struct{}
	log   *slog.Logger
	once  sync.Once
	done  chan struct{}
}

func newListener(l net.Listener, connections int, log *slog.Logger) *listener {
	return &listener{l: l, slots: make(chan struct{}, connections), log: log, done: make(chan struct{})}
}

func (l *listener) ID() string              { return "fleet" }
func (l *listener) Address() string         { return l.l.Addr().String() }
func (l *listener) Protocol() string        { return "tcp" }
func (l *listener) Init(*slog.Logger) error { return nil }

func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		c, err := l.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely
			l.log.Error("accept mqtt connection", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-l.done:
			}
			continue
		}
		select {
		case l.slots <- struct{}{}:
			go l.serve(establish, c)
		default:
			l.log.Warn("refuse connection: too many", "remote", c.RemoteAddr().String())
			c.Close()
		}
	}
}

func (l *listener) serve(establish listeners.EstablishFn, c net.Conn) {
	defer func() {
		if r := recover(); r != nil {
			l.log.Error("panic on a connection", "remote", c.RemoteAddr().String(), "panic", r, "stack", string(debug.Stack()))
		}
		c.Close()
		<-l.slots
	}()
	// mochi sets deadlines from CONNECT on only.
	if err := c.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return
	}
	if err := establish(l.ID(), &conn{c}); err != nil {
		l.log.Debug("connection ended", "remote", c.RemoteAddr().String(), "error", err)
	}
}

func (l *listener) Close(closeClients listeners.CloseFn) {
	l.once.Do(func() {
		close(l.done)
		l.l.Close()
		closeClients(l.ID())
	})
}

// conn gives writes a deadline of their own: a reader that takes nothing can't hold a writer for longer, and one that is
// slow but takes something keeps its connection.
type conn struct{ net.Conn }

const writeChunk = 16 << 10

func (c *conn) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if err = c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return n, err
		}
		var m int
		m, err = c.Conn.Write(b[n:min(len(b), n+writeChunk)])
		n += m
	}
	return n, err
}

// SetDeadline is called by mochi at each packet read; it must not touch a write that is under way.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
