package http

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// connPair is a connection as the source accepts it, and its client.
func connPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimited(inner, 1)
	defer func() { _ = l.Close() }()
	if client, err = net.Dial("tcp", inner.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Close(), client.Close() })
	return server, client
}

func TestADeadlineThatWasMovedIsMetAtItsLastPlace(t *testing.T) {
	const first, last = 5 * time.Millisecond, 60 * time.Millisecond
	server, client := connPair(t)
	full := make([]byte, 64<<20) // more than the kernel takes of a write
	for name, c := range map[string]struct {
		move func(time.Time) error
		wait func() error
	}{
		"read":  {server.SetReadDeadline, func() error { _, err := server.Read(make([]byte, 1)); return err }},
		"write": {server.SetWriteDeadline, func() error { _, err := server.Write(full); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			for _, d := range []time.Duration{first, time.Hour, last} {
				if err := c.move(began.Add(d)); err != nil {
					t.Fatal(err)
				}
			}
			err := c.wait()
			if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < last {
				t.Errorf("after %s: got %v, want a timeout after %s", took, err, last)
			}
			if err := c.wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("once more: got %v, want a timeout", err)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		if err := errors.Join(server.SetDeadline(time.Now().Add(first)), server.SetDeadline(time.Time{})); err != nil {
			t.Fatal(err)
		}
		go func() {
			// The timer of the deadline that was taken back fires meanwhile.
			d := &server.(*conn).read
			for set := true; set; {
				runtime.Gosched()
				d.mu.Lock()
				set = !d.actual.IsZero()
				d.mu.Unlock()
			}
			_, _ = client.Write([]byte("x"))
		}()
		if n, err := server.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Errorf("read without a deadline: got %d bytes, %v", n, err)
		}
	})
	t.Run("past", func(t *testing.T) {
		ended := make(chan error)
		go func() { _, err := server.Read(make([]byte, 8)); ended <- err }()
		if err := server.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read until a deadline in the past: got %v", err)
		}
	})
}
