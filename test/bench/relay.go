package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay passes connections on to a server and counts what goes by.
type relay struct {
	listener net.Listener
	target   string
	up, down atomic.Int64 // bytes to the server and from it

	mu   sync.Mutex
	open map[net.Conn]bool
}

func newRelay(target string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l, target: target, open: map[net.Conn]bool{}}
	go r.serve()
	return r, nil
}

func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) serve() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.target)
		if err != nil {
			_ = client.Close() // it connects again
			continue
		}
		r.mu.Lock()
		r.open[client], r.open[server] = true, true
		r.mu.Unlock()
		go r.pass(server, client, &r.up)
		go r.pass(client, server, &r.down)
	}
}

// pass copies one direction; when it ends, so does the connection.
func (r *relay) pass(to, from net.Conn, count *atomic.Int64) {
	_, _ = io.Copy(counter{to, count}, from)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range []net.Conn{to, from} {
		_ = c.Close()
		delete(r.open, c)
	}
}

// bytes that have gone by, both ways.
func (r *relay) bytes() int64 { return r.up.Load() + r.down.Load() }

func (r *relay) close() {
	if r == nil {
		return
	}
	_ = r.listener.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}

type counter struct {
	io.Writer
	n *atomic.Int64
}

// Write counts first: who has got the bytes must see them counted.
func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.Writer.Write(p)
}
