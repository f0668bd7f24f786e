// Package mqttlistener is how mochi's brokers take connections, the fleet's and a board's own: bounded in number, in how long
// each may take for its CONNECT and for a write, and ended with the broker whatever they do.
package mqttlistener

import (
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

const connectTimeout = 10 * time.Second // from accept to CONNECT

// Listener is mochi's listener over a socket that is open. A panic over one connection's bytes costs that connection only.
type Listener struct {
	id     string
	l      net.Listener
	max    int
	server *mochi.Server
	log    *slog.Logger

	mu      sync.Mutex
	closed  bool
	open    map[net.Conn]struct{}
	serving sync.WaitGroup
	done    chan struct{}
}

// New takes l over, for as many connections at once; more are refused. id is the name of the listener in
// server, which it is then added to.
func New(id string, l net.Listener, connections int, server *mochi.Server, log *slog.Logger) *Listener {
	return &Listener{id: id, l: l, max: connections, server: server, log: log, open: map[net.Conn]struct{}{}, done: make(chan struct{})}
}

// ID is mochi's name for the listener.
func (l *Listener) ID() string { return l.id }

// Address that it listens on.
func (l *Listener) Address() string { return l.l.Addr().String() }

// Protocol below MQTT.
func (l *Listener) Protocol() string { return "tcp" }

// Init is called when the listener is added to its server. The socket is open.
func (l *Listener) Init(*slog.Logger) error { return l.server.AddHook(&pace{}, nil) }

// Serve accepts connections until Close.
func (l *Listener) Serve(establish listeners.EstablishFn) {
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
		if err := l.begin(c); err != nil {
			l.log.Warn("refuse connection", "remote", c.RemoteAddr().String(), "error", err)
			c.Close()
			continue
		}
		go l.serve(establish, c)
	}
}

var errTooMany = errors.New("too many are open")

func (l *Listener) begin(c net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return net.ErrClosed
	case len(l.open) >= l.max:
		return errTooMany
	}
	l.open[c] = struct{}{}
	l.serving.Add(1)
	return nil
}

func (l *Listener) serve(establish listeners.EstablishFn, c net.Conn) {
	defer l.serving.Done()
	defer func() {
		if r := recover(); r != nil {
			l.log.Error("panic on a connection", "remote", c.RemoteAddr().String(), "panic", r, "stack", string(debug.Stack()))
		}
		c.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, c)
	}()
	// mochi sets deadlines from CONNECT on only.
	if err := c.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return
	}
	if err := establish(l.id, newConn(c)); err != nil {
		l.log.Debug("connection ended", "remote", c.RemoteAddr().String(), "error", err)
	}
}

// Close ends all connections and waits for their goroutines: mochi knows only those that sent their CONNECT, and waits for
// the others as long as they please.
//
// What mochi passes to end them is not used: it takes a read lock twice, and with a client that leaves in between (mochi
// v2.7.9, Clients.GetByListener) nothing moves any more.
func (l *Listener) Close(listeners.CloseFn) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	l.mu.Unlock()
	close(l.done)
	l.l.Close()
	for _, c := range l.server.Clients.GetAll() {
		if c.Net.Listener == l.id && !c.Closed() {
			_ = l.server.DisconnectClient(c, packets.ErrServerShuttingDown)
		}
	}
	l.mu.Lock()
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.serving.Wait()
}
