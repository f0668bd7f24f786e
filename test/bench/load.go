package main

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// flow is what one run of closed-loop load gave.
type flow struct {
	perSecond float64
	p50, p99  time.Duration
}

// closedLoop keeps one request under way on each of n connections for d, and gives the rate and the times of all of them. One
// thread with epoll serves all connections: the generator shares the cores with what it measures, so it does as little as it
// can. Each answer must be status 200 and body.
func closedLoop(addr string, req, body []byte, n int, d time.Duration) (flow, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return flow{}, err
	}
	defer func() { _ = unix.Close(poll) }()
	at, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return flow{}, err
	}
	conns := make(map[int32]*loop, n)
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return flow{}, err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(at.IP.To4())}); err != nil {
			return flow{}, fmt.Errorf("connect to %s: %w", addr, err)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return flow{}, err
		}
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return flow{}, err
		}
		conns[int32(fd)] = &loop{fd: fd, body: body, in: make([]byte, len(body)+4<<10)}
	}
	samples := make([]time.Duration, 0, 1<<16)
	began := time.Now()
	for _, c := range conns {
		if err := c.send(req); err != nil {
			return flow{}, err
		}
	}
	events := make([]unix.EpollEvent, n)
	for {
		k, err := unix.EpollWait(poll, events, int(patience/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return flow{}, fmt.Errorf("wait for %s: nothing came in %s, %w", addr, patience, err)
		}
		for _, e := range events[:k] {
			c := conns[e.Fd]
			took, whole, err := c.read()
			if err != nil {
				return flow{}, fmt.Errorf("%.40q to %s: %w", req, addr, err)
			}
			if !whole {
				continue
			}
			samples = append(samples, took)
			if err := c.send(req); err != nil {
				return flow{}, err
			}
		}
		if over := time.Since(began); over >= d {
			return flow{float64(len(samples)) / over.Seconds(), quantile(samples, 0.5), quantile(samples, 0.99)}, nil
		}
	}
}

// loop is one connection.
type loop struct {
	fd     int
	body   []byte // that is wanted
	in     []byte
	have   int
	chunks []byte
	sent   time.Time
}

func (c *loop) send(req []byte) error {
	c.have, c.sent = 0, time.Now()
	if n, err := unix.Write(c.fd, req); err != nil || n != len(req) {
		return fmt.Errorf("write %d bytes: %d went, %w", len(req), n, err)
	}
	return nil
}

// read what is there, and tells whether the answer is whole.
func (c *loop) read() (took time.Duration, whole bool, err error) {
	if c.have == len(c.in) {
		c.in = append(c.in, make([]byte, len(c.in))...)
	}
	n, err := unix.Read(c.fd, c.in[c.have:])
	if err != nil || n <= 0 {
		return 0, false, fmt.Errorf("read the answer: the connection ended (%w)", err)
	}
	c.have += n
	in := c.in[:c.have]
	head, rest, ok := bytes.Cut(in, []byte("\r\n\r\n"))
	switch {
	case !ok:
		return 0, false, nil
	case !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")):
		return 0, false, fmt.Errorf("the answer is %.200q", in)
	case chunkedHead.Match(head):
		if rest, whole, err = dechunked(rest, c.chunks[:0]); err != nil || !whole {
			return 0, false, err
		}
		c.chunks = rest
	case len(rest) < len(c.body):
		return 0, false, nil
	}
	took = time.Since(c.sent)
	if !bytes.Equal(rest, c.body) {
		return 0, false, fmt.Errorf("the answer has a body of %d bytes, not the %d that it should have", len(rest), len(c.body))
	}
	return took, true, nil
}

var chunkedHead = regexp.MustCompile(`(?i)\r\ntransfer-encoding: chunked`)

// dechunked appends the chunks of b to body, and tells whether the last one is there.
func dechunked(b, body []byte) ([]byte, bool, error) {
	for {
		line, rest, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok {
			return body, false, nil
		}
		n, err := strconv.ParseUint(string(line), 16, 31)
		if err != nil {
			return nil, false, fmt.Errorf("read chunk: %w", err)
		}
		if len(rest) < int(n)+2 {
			return body, false, nil
		}
		if n == 0 {
			return body, true, nil
		}
		body, b = append(body, rest[:n]...), rest[n+2:]
	}
}
