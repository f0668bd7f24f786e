package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
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
// can. The answers must be as long as the first one, which is read by net/http and must be status 200 and body, and end as it does.
func closedLoop(addr string, req []byte, body string, n int, d time.Duration) (flow, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	answer, err := sample(addr, req, body)
	if err != nil {
		return flow{}, err
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return flow{}, err
	}
	defer unix.Close(poll)
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
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(at.IP.To4())}); err != nil {
			return flow{}, fmt.Errorf("connect to %s: %w", addr, err)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return flow{}, err
		}
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return flow{}, err
		}
		conns[int32(fd)] = &loop{fd: fd, want: answer, in: make([]byte, len(answer)+1)}
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
	fd   int
	want []byte
	in   []byte
	have int
	sent time.Time
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
	n, err := unix.Read(c.fd, c.in[c.have:])
	if err != nil || n <= 0 {
		return 0, false, fmt.Errorf("read the answer: the connection ended (%w)", err)
	}
	c.have += n
	if c.have < len(c.want) {
		return 0, false, nil
	}
	took = time.Since(c.sent)
	line, tail := 12, min(16, len(c.want)) // "HTTP/1.1 200"; the rest of the head may hold the time
	if c.have > len(c.want) || !bytes.Equal(c.in[:line], c.want[:line]) || !bytes.Equal(c.in[c.have-tail:c.have], c.want[len(c.want)-tail:]) {
		return 0, false, fmt.Errorf("the answer is %.200q, want one like %.200q", c.in[:c.have], c.want)
	}
	return took, true, nil
}

// sample is one whole answer as it comes over the wire.
func sample(addr string, req []byte, body string) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(req); err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	in := bufio.NewReader(io.TeeReader(conn, &raw))
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || string(got) != body {
		return nil, fmt.Errorf("%.40q to %s: got %s: %.80q, want %.80q", req, addr, resp.Status, got, body)
	}
	if in.Buffered() > 0 || resp.Close {
		return nil, fmt.Errorf("%.40q to %s: the answer does not leave the connection as it was", req, addr)
	}
	return slices.Clone(raw.Bytes()), nil
}
