package http

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// limited accepts a connection only while fewer than cap(slots) are open.
type limited struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimited(l net.Listener, n int) *limited {
	return &limited{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &conn{
		Conn: c, release: sync.OnceFunc(func() { <-l.slots }),
		read: deadline{set: c.SetReadDeadline}, write: deadline{set: c.SetWriteDeadline},
	}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is a client's connection. Several times a request its deadlines are moved, most often further away, and almost never met.
type conn struct {
	net.Conn
	release     func()
	read, write deadline
}

func (c *conn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || c.read.met() {
			return n, err
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	done := 0
	for {
		n, err := c.Conn.Write(p[done:])
		done += n
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.write.met() {
			return done, err
		}
	}
}

func (c *conn) SetReadDeadline(t time.Time) error  { return c.read.move(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.move(t) }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.read.move(t), c.write.move(t))
}

// deadline of a connection's reads or writes. To move the timer behind it can wake a thread; so it is moved when the new deadline
// is earlier, and when it fires before its time, to where it should be by then.
type deadline struct {
	set func(time.Time) error

	mu     sync.Mutex
	want   time.Time // zero: none
	actual time.Time // of the timer: not after want, unless it has fired; zero: none
}

func (d *deadline) move(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = t
	switch later := t.IsZero() || !t.Before(d.actual); {
	case d.actual.IsZero() && t.IsZero():
		return nil
	case !d.actual.IsZero() && later && time.Until(d.actual) > 0:
		return nil
	}
	d.actual = t
	return d.set(t)
}

// met tells whether the deadline that fired is the one that is wanted; if not, that one is set.
func (d *deadline) met() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.want.IsZero() && time.Until(d.want) <= 0 {
		return true
	}
	d.actual = d.want
	return d.set(d.want) != nil
}
