package mqtt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// mosquitto is a real outside broker that can be stopped and started again with its state.
type mosquitto struct {
	addr string
	dir  string
	cmd  *exec.Cmd
}

func startMosquitto(t *testing.T, extra ...string) *mosquitto {
	t.Helper()
	if _, err := mosquittoPath(); err != nil {
		t.Log("ABSENT: mosquitto (apt-get install mosquitto): the client is not tried against a broker that others wrote")
		t.Skip()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mosquitto{addr: l.Addr().String(), dir: t.TempDir()}
	l.Close()
	_, port, _ := net.SplitHostPort(m.addr)
	conf := append([]string{
		"listener " + port + " 127.0.0.1", "allow_anonymous true", "persistence true", "persistence_location " + m.dir + "/",
		"autosave_interval 1", "autosave_on_changes true",
	}, extra...)
	if os.Getuid() == 0 {
		conf = append(conf, "user root")
	}
	if err := os.WriteFile(filepath.Join(m.dir, "conf"), []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	t.Cleanup(m.stop)
	return m
}

// mosquittoPath: Debian puts it where users don't look.
func mosquittoPath() (string, error) {
	if p, err := exec.LookPath("mosquitto"); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/mosquitto")
}

func (m *mosquitto) start(t *testing.T) {
	t.Helper()
	path, err := mosquittoPath()
	if err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command(path, "-c", filepath.Join(m.dir, "conf"))
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) stop() {
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(os.Interrupt)
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// startClient returns a func that stops it.
func startClient(t *testing.T, addr string, subs ...Subscription) (*Client, func()) {
	t.Helper()
	c := NewClient(ClientConfig{URL: "mqtt://" + addr, ClientID: "board", Limits: Limits{Drain: 5 * time.Second}}, quiet)
	if err := c.Set(subs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return c, stop
}

func ready(t *testing.T, c *Client) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-time.After(30 * time.Second):
		t.Fatalf("never connected: %+v", c.Status())
	}
}

func TestEveryQoSAgainstMosquitto(t *testing.T) {
	m := startMosquitto(t)
	var got record
	c, _ := startClient(t, m.addr, Subscription{ID: "a", Filter: "in/#", QoS: 2, Handle: got.handle})
	ready(t, c)
	p := dial(t, m.addr, "")
	// MQTT keeps the order of each QoS, not between them.
	var want, sorted [3][]string
	for i := range 300 {
		must(t, p.Publish("in/t", byte(i%3), false, fmt.Sprint(i)))
		want[i%3] = append(want[i%3], fmt.Sprint(i))
	}
	waitFor(t, "300 events", func() bool { return len(strings.Fields(got.String())) == 300 })
	for _, s := range strings.Fields(got.String()) {
		i, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		sorted[i%3] = append(sorted[i%3], s)
	}
	for qos := range want {
		if !slices.Equal(sorted[qos], want[qos]) {
			t.Errorf("QoS %d: handled %s", qos, sorted[qos])
		}
	}
	if err := c.Publish(t.Context(), Message{Topic: "in/t", Payload: []byte("own"), QoS: 2}); err != nil {
		t.Error(err)
	}
	waitFor(t, "its own message", func() bool { return got.has("own") })
}

func TestABrokerThatIsNotThereIsTriedAgain(t *testing.T) {
	m := startMosquitto(t)
	m.stop()
	var got record
	c, _ := startClient(t, m.addr, Subscription{ID: "a", Filter: "in", QoS: 1, Handle: got.handle})
	waitFor(t, "the source is degraded", func() bool {
		s := c.Status()
		return s.Health == trigger.Degraded && strings.Contains(s.Detail, "refused") && strings.Contains(s.Detail, "next attempt")
	})
	if err := c.Publish(t.Context(), Message{Topic: "x"}); !errors.Is(err, ErrDown) {
		t.Errorf("publish while down: %v", err)
	}
	m.start(t)
	ready(t, c)
	must(t, dial(t, m.addr, "").Publish("in", 1, false, "x"))
	waitFor(t, "the event", func() bool { return got.has("x") })
}

func TestMessagesWaitInTheSessionWhileTheAgentIsAway(t *testing.T) {
	m := startMosquitto(t)
	var got record
	sub := Subscription{ID: "a", Filter: "in", QoS: 1, Handle: got.handle}
	c, stop := startClient(t, m.addr, sub)
	ready(t, c)
	stop()
	must(t, dial(t, m.addr, "").Publish("in", 1, false, "meanwhile"))
	_, _ = startClient(t, m.addr, sub)
	waitFor(t, "the message from the session", func() bool { return got.has("meanwhile") })
}

func TestAMessageIsAcknowledgedToMosquittoAfterItsHandler(t *testing.T) {
	m := startMosquitto(t)
	failing := func(ctx context.Context, _ *trigger.Event) error { <-ctx.Done(); return ctx.Err() }
	c := NewClient(ClientConfig{URL: "mqtt://" + m.addr, ClientID: "board", Limits: Limits{Drain: time.Millisecond}}, quiet)
	began := make(chan struct{}, 10)
	if err := c.Set([]Subscription{{ID: "a", Filter: "in", QoS: 2, Handle: func(ctx context.Context, e *trigger.Event) error {
		began <- struct{}{}
		return failing(ctx, e)
	}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	ready(t, c)
	p := dial(t, m.addr, "")
	must(t, p.Publish("in", 1, false, "one"))
	<-began
	cancel() // the agent dies with the event in flight
	if err := <-done; err == nil {
		t.Error("Run says nothing of the event that it canceled")
	}
	var got record
	_, _ = startClient(t, m.addr, Subscription{ID: "a", Filter: "in", QoS: 2, Handle: got.handle})
	waitFor(t, "the broker sends it again", func() bool { return got.has("one") })
}

// proxy stands between a client and its broker, and can cut the connection.
type proxy struct {
	net.Listener
	target string
	conns  chan net.Conn
	// swallow is asked about each packet to the broker, by its first byte; true: it is not passed on.
	swallow func(kind byte) bool
}

func startProxy(t *testing.T, target string, swallow func(kind byte) bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, target: target, conns: make(chan net.Conn, 100), swallow: swallow}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	return p
}

func (p *proxy) pass(c net.Conn) {
	defer c.Close()
	b, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer b.Close()
	p.conns <- c
	go func() {
		_, _ = io.Copy(c, b)
		c.Close()
	}()
	r := bufio.NewReader(c)
	for {
		head, err := r.ReadByte()
		if err != nil {
			return
		}
		size, err := r.ReadByte() // these packets are short
		if err != nil || size > 127 {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if p.swallow(head >> 4) {
			return // and the connection is cut
		}
		if _, err := b.Write(append([]byte{head, size}, body...)); err != nil {
			return
		}
	}
}

func TestAQoS2MessageIsHandledOnceOverALostAcknowledgement(t *testing.T) {
	const pubrec, pubcomp = 5, 7
	for _, lost := range []byte{pubrec, pubcomp} {
		m := startMosquitto(t)
		var cut atomic.Int32
		p := startProxy(t, m.addr, func(kind byte) bool { return kind == lost && cut.Add(1) == 1 })
		var got record
		c, stop := startClient(t, p.Addr().String(), Subscription{ID: "a", Filter: "in", QoS: 2, Handle: got.handle})
		ready(t, c)
		pub := dial(t, m.addr, "")
		must(t, pub.Publish("in", 2, false, "once"))
		waitFor(t, "the acknowledgement is lost and repeated", func() bool { return cut.Load() >= 2 })
		must(t, pub.Publish("in", 2, false, "then"))
		waitFor(t, "the next", func() bool { return got.has("then") })
		if got.String() != "once then" {
			t.Errorf("packet type %d lost: handled %q", lost, &got)
		}
		stop()
	}
}

func TestAMessageThatComesAgainWhileItIsHandledIsHandledOnce(t *testing.T) {
	m := startMosquitto(t)
	var acks atomic.Int32
	p := startProxy(t, m.addr, func(kind byte) bool {
		if kind == 4 {
			acks.Add(1)
		}
		return false
	})
	var got record
	proceed := make(chan struct{})
	c, _ := startClient(t, p.Addr().String(), Subscription{ID: "a", Filter: "in", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
		err := got.handle(ctx, e)
		<-proceed
		return err
	}})
	ready(t, c)
	must(t, dial(t, m.addr, "").Publish("in", 1, false, "x"))
	waitFor(t, "the handler has it", func() bool { return got.has("x") })
	c.mu.Lock()
	first := c.conn
	c.mu.Unlock()
	(<-p.conns).Close() // the link breaks meanwhile
	waitFor(t, "the message comes again", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.received {
			return r.conn != first
		}
		return false
	})
	close(proceed)
	waitFor(t, "the acknowledgement", func() bool { return acks.Load() == 1 })
	if got.String() != "x" {
		t.Errorf("handled %q", &got)
	}
}

func TestSubscriptionsFollowSet(t *testing.T) {
	m := startMosquitto(t)
	var a, b record
	c, _ := startClient(t, m.addr, Subscription{ID: "a", Filter: "a", QoS: 1, Handle: a.handle})
	ready(t, c)
	p := dial(t, m.addr, "")
	if err := c.Set([]Subscription{{ID: "b", Filter: "b", QoS: 1, Handle: b.handle}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the new subscription", func() bool {
		must(t, p.Publish("a", 1, false, "x"))
		must(t, p.Publish("b", 1, false, "x"))
		return b.has("x")
	})
	if a.has("x") {
		t.Error("a subscription that is gone still handles")
	}
}

func TestARefusedSubscriptionSaysSoAndStopsNoOther(t *testing.T) {
	// Mosquitto grants what its access list forbids, and delivers nothing; so a broker by hand.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go refuser(c)
		}
	}()
	var got record
	c, _ := startClient(t, l.Addr().String(), Subscription{ID: "a", Filter: "secret", QoS: 1, Handle: got.handle})
	waitFor(t, "the status names the filter", func() bool {
		s := c.Status()
		return s.Health == trigger.Degraded && strings.Contains(s.Detail, `"secret"`)
	})
}

// refuser answers CONNECT with yes and SUBSCRIBE with no.
func refuser(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		head, err := r.ReadByte()
		if err != nil {
			return
		}
		size, err := r.ReadByte()
		if err != nil {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		switch head >> 4 {
		case 1:
			_, err = c.Write([]byte{0x20, 2, 0, 0})
		case 8:
			_, err = c.Write([]byte{0x90, 3, body[0], body[1], 0x80})
		}
		if err != nil {
			return
		}
	}
}

func TestABrokerThatClaimsHugePacketsCostsNoMemory(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	attempts := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f})
			attempts <- struct{}{}
		}
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c, _ := startClient(t, l.Addr().String())
	<-attempts
	waitFor(t, "the client says why", func() bool { return strings.Contains(c.Status().Detail, "limit") })
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 32<<20 {
		t.Errorf("%d MiB allocated", grown>>20)
	}
}

func TestAnAddressThatCantBeMeantIsAnError(t *testing.T) {
	for _, u := range []string{"", "localhost", "mqtt://", "http://["} {
		c := NewClient(ClientConfig{URL: u}, quiet)
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "bus.url") {
			t.Errorf("Run with %q = %v", u, err)
		}
	}
}
