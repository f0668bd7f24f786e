package mqttlistener

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
)

// serve establishes connections with a function, as mochi does with its own.
func serve(t *testing.T, connections int, establish func(c net.Conn) error) *Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New("test", inner, connections, mochi.New(nil), slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Serve(func(_ string, c net.Conn) error { return establish(c) })
	}()
	t.Cleanup(func() {
		l.Close(nil)
		<-done
	})
	return l
}

func echo(c net.Conn) error {
	_, err := io.Copy(c, c)
	return err
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// answers says whether the connection is served.
func answers(c net.Conn, send byte) bool {
	if _, err := c.Write([]byte{send}); err != nil {
		return false
	}
	got := make([]byte, 1)
	_, err := io.ReadFull(c, got)
	return err == nil && got[0] == send
}

func TestConnectionsAreBounded(t *testing.T) {
	l := serve(t, 2, echo)
	first, second := dial(t, l), dial(t, l)
	if !answers(first, 1) || !answers(second, 1) {
		t.Fatal("two connections fit")
	}
	if answers(dial(t, l), 1) {
		t.Error("a third was taken")
	}
	first.Close()
	for !answers(dial(t, l), 1) { // until the first one's place is free
		if t.Context().Err() != nil {
			t.Fatal("a place that came free is lost")
		}
	}
	if !answers(second, 2) {
		t.Error("the second connection is gone")
	}
}

func TestAPanicCostsItsConnectionOnly(t *testing.T) {
	l := serve(t, 2, func(c net.Conn) error {
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return err
			}
			if b[0] == '!' {
				panic("bug")
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
	})
	other := dial(t, l)
	for range 5 { // more than there are places
		c := dial(t, l)
		for !answers(c, 1) { // refused while the last one's place is not free yet
			c = dial(t, l)
		}
		if answers(c, '!') {
			t.Error("a connection outlived its panic")
		}
	}
	if !answers(other, 1) {
		t.Error("another connection is gone")
	}
}

func TestCloseEndsWhoSaysNothingAndWaits(t *testing.T) {
	var begun, ended, closed atomic.Int64
	inside := make(chan struct{}, 20)
	l := serve(t, 100, func(c net.Conn) error {
		begun.Add(1)
		defer ended.Add(1)
		inside <- struct{}{}
		err := echo(c)
		if errors.Is(err, net.ErrClosed) { // and not of its deadline
			closed.Add(1)
		}
		return err
	})
	for range cap(inside) {
		dial(t, l)
	}
	for range cap(inside) {
		<-inside
	}
	l.Close(nil)
	if begun.Load() != ended.Load() || begun.Load() != closed.Load() {
		t.Errorf("%d connections begun, %d ended, %d because they were closed", begun.Load(), ended.Load(), closed.Load())
	}
	if _, err := net.Dial("tcp", l.Address()); err == nil {
		t.Error("it still listens")
	}
}
