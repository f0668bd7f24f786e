package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const patience = 30 * time.Second // with one answer

// client is one kept-alive HTTP connection. It does as little as it can, since what it takes is in every figure.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func dial(addr string) (*client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{conn, bufio.NewReader(conn)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

func request(path string) []byte { return []byte("GET " + path + " HTTP/1.1\r\nHost: board\r\n\r\n") }

// get sends a request and reads the whole answer, which must be status and body. It returns when the first byte and the last
// one were there.
func (c *client) get(req []byte, status int, body string) (first, last time.Duration, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	if _, err := c.conn.Write(req); err != nil {
		return 0, 0, err
	}
	if _, err := c.in.Peek(1); err != nil {
		return 0, 0, err
	}
	first = time.Since(begun)
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, 0, err
	}
	got, err := io.ReadAll(resp.Body)
	last = time.Since(begun)
	resp.Body.Close()
	if err == nil && (resp.StatusCode != status || string(got) != body) {
		err = fmt.Errorf("%.40q: got %s: %q, want %d: %q", req, resp.Status, got, status, body)
	}
	return first, last, err
}

// page gets one that is wanted whole, whatever it is.
func (c *client) page(path string) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := c.conn.Write(request(path)); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// publisher is one MQTT 3.1.1 connection that publishes at QoS 1, for the same reason by hand.
type publisher struct {
	client
	id uint16
}

var publisherID atomic.Int32

func connect(addr string) (*publisher, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	p := &publisher{client: *c}
	// CONNECT: protocol name and level, clean session, no keep alive, the client's id, of four digits.
	hello := fmt.Sprintf("\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04%04d", publisherID.Add(1))
	if err := p.exchange([]byte(hello), [4]byte{0x20, 2, 0, 0}); err != nil {
		p.close()
		return nil, fmt.Errorf("connect to the bus: %w", err)
	}
	return p, nil
}

// publish waits for the acknowledgement, and returns how long it took.
func (p *publisher) publish(topic string, payload []byte) (time.Duration, error) {
	p.id = p.id%65535 + 1
	b := appendPublish(nil, topic, p.id, payload)
	begun := time.Now()
	err := p.exchange(b, [4]byte{0x40, 2, byte(p.id >> 8), byte(p.id)})
	return time.Since(begun), err
}

func (p *publisher) exchange(send []byte, want [4]byte) error {
	if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := p.conn.Write(send); err != nil {
		return err
	}
	var got [4]byte
	if _, err := io.ReadFull(p.in, got[:]); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("got the packet %x, want %x", got, want)
	}
	return nil
}
