package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// startClient returns a func that stops it.
func startClient(t *testing.T, addr string, subs ...Subscription) (*Client, func()) {
	t.Helper()
	return startClientWith(t, newBox(t, inbox.Limits{}), addr, subs...)
}

func startClientWith(t *testing.T, box *inbox.Box, addr string, subs ...Subscription) (*Client, func()) {
	t.Helper()
	c := NewClient(ClientConfig{URL: "mqtt://" + addr, ClientID: "board", Inbox: box, Limits: Limits{Drain: 5 * time.Second}}, quiet)
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
	if err := publish(t.Context(), c, Message{Topic: "in/t", Payload: []byte("own"), QoS: 2}); err != nil {
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
	if _, err := c.Publish(t.Context(), Message{Topic: "x"}); !errors.Is(err, ErrDown) {
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
	box := newBox(t, inbox.Limits{})
	c := NewClient(ClientConfig{URL: "mqtt://" + m.addr, ClientID: "board", Inbox: box, Limits: Limits{Drain: time.Millisecond}}, quiet)
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
	_, _ = startClientWith(t, box, m.addr, Subscription{ID: "a", Filter: "in", QoS: 2, Handle: got.handle})
	waitFor(t, "the broker sends it again, or the inbox has it", func() bool { return got.has("one") })
}

func TestAQoS2MessageIsHandledOnceOverALostAcknowledgement(t *testing.T) {
	const pubrec, pubcomp = 5, 7
	for _, lost := range []byte{pubrec, pubcomp} {
		m := startMosquitto(t)
		var cut atomic.Int32
		p := startProxy(t, m.addr, func(p []byte, _ *net.TCPConn) bool { return p[0]>>4 == lost && cut.Add(1) == 1 })
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
	p := startProxy(t, m.addr, func(p []byte, _ *net.TCPConn) bool {
		if p[0]>>4 == 4 {
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
	(<-p.conns).Close() // the link breaks meanwhile
	waitFor(t, "the acknowledgement, from the inbox, in the next connection", func() bool { return acks.Load() == 1 })
	close(proceed)
	waitFor(t, "its end", func() bool { return c.Counters().Handled == 1 })
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
		c := NewClient(ClientConfig{URL: u, Inbox: newBox(t, inbox.Limits{})}, quiet)
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "bus.url") {
			t.Errorf("Run with %q = %v", u, err)
		}
	}
}
