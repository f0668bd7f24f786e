package scripts

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// relay listens in the place of a server and passes connections on to it. With BYTES, it falls silent for good once so many
// bytes have come back from the server: connections stay open and nothing passes any more, as on a link that is lost without
// a word. "relay -stop NAME" closes it.
func relay(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if len(args) == 2 && args[0] == "-stop" && !neg {
		if src := s.sources[args[1]]; src != nil {
			src.stop()
			return
		}
	}
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: relay NAME LISTEN TARGET [BYTES], or relay -stop NAME")
	}
	out, err := s.journalOf(args[0])
	ts.Check(err)
	r := &relayed{target: args[2], left: -1, out: out, open: map[net.Conn]bool{}}
	if len(args) == 4 {
		r.left, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	l, err := net.Listen("tcp", args[1])
	ts.Check(err)
	go r.serve(l)
	s.sources[args[0]] = &source{out: out, stop: func() { _ = l.Close(); r.close() }}
}

type relayed struct {
	target string
	out    io.Writer

	mu     sync.Mutex
	left   int // bytes that may still come back; below 0: any number
	silent bool
	open   map[net.Conn]bool
}

func (r *relayed) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.open[client], r.open[server] = true, true
		r.mu.Unlock()
		go r.pass(server, client, false)
		go r.pass(client, server, true)
	}
}

// pass copies one direction. A silent relay goes on reading nothing and closing nothing.
func (r *relayed) pass(to, from net.Conn, back bool) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if n, pass := r.allow(n, back); !pass {
			return
		} else if _, err := to.Write(buf[:n]); err != nil {
			break
		}
		if err != nil {
			break
		}
	}
	_ = errors.Join(to.Close(), from.Close())
}

func (r *relayed) allow(n int, back bool) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silent {
		return 0, false
	}
	if !back || r.left < 0 {
		return n, true
	}
	n = min(n, r.left)
	r.left -= n
	if r.left == 0 {
		r.silent = true
		fmt.Fprintln(r.out, "silent")
	}
	return n, true
}

func (r *relayed) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}
