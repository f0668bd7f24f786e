package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

func TestAMessageIsAcknowledgedWithItsEffectsOrFromTheInbox(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			proceed := make(chan struct{})
			slow := func(context.Context, *trigger.Event) error { <-proceed; return nil }
			var got record
			b := startBroker(t, Limits{},
				Subscription{ID: "one", Filter: "one/+", QoS: 2, Handle: slow},
				Subscription{ID: "slow", Filter: "in/+", QoS: 2, Handle: slow},
				Subscription{ID: "fast", Filter: "in/#", QoS: 2, Handle: got.handle})
			other := dial(t, b.Addr().String(), "")
			forwarded := make(chan string, 10)
			must(t, other.Subscribe("#", 1, func(_ paho.Client, m paho.Message) { forwarded <- string(m.Payload()) }))
			c := dial(t, b.Addr().String(), "")
			// Two subscriptions: both have it, whatever happens, before its publisher forgets it.
			must(t, c.Publish("in/a", qos, false, "x"))
			waitFor(t, "the fast handler", func() bool { return got.has("x") })
			if m := <-forwarded; m != "x" {
				t.Errorf("subscribers got %q", m)
			}
			// One, which is slow: the publisher doesn't wait for it.
			must(t, c.Publish("one/a", qos, false, "z"))
			if n := b.cfg.Inbox.Counts().Waiting; n != 2 {
				t.Errorf("%d events in the inbox, want what is acknowledged and not handled: 2", n)
			}
			close(proceed)
			waitFor(t, "the inbox is empty", func() bool { return b.Counters().Handled == 3 })
			// The packet id is free again, and the connection well.
			must(t, c.Publish("one/a", qos, false, "y"))
			waitFor(t, "all are handled", func() bool { return b.Counters().Handled == 4 })
			if n := b.cfg.Inbox.Counts(); n.Waiting != 0 || n.WaitingBytes != 0 || n.Dead != 0 {
				t.Errorf("left over: %+v", n)
			}
		})
	}
}

func TestMessagesThatNobodyHandlesAreTheBrokersOwn(t *testing.T) {
	var got record
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "in/#", QoS: 0, Handle: got.handle})
	c := dial(t, b.Addr().String(), "")
	for qos := range byte(3) {
		must(t, c.Publish("elsewhere", qos, false, "x"))
		must(t, c.Publish("in/x", qos, false, fmt.Sprint(qos)))
	}
	waitFor(t, "all three", func() bool { return got.String() == "0 1 2" })
}

func TestATopicIsHandledInOrderAndTopicsBesideEachOther(t *testing.T) {
	var got record
	hold := make(chan struct{})
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "#", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
		if e.MQTT.Topic == "held" {
			<-hold
		}
		return got.handle(ctx, e)
	}})
	c := dial(t, b.Addr().String(), "")
	var tokens []paho.Token
	var want []string
	tokens = append(tokens, c.Publish("held", 1, false, "h"))
	for i := range 100 {
		tokens = append(tokens, c.Publish("t", 1, false, fmt.Sprint(i)))
		want = append(want, fmt.Sprint(i))
	}
	waitFor(t, "99 beside the one held", func() bool { return got.has("99") })
	close(hold)
	for _, token := range tokens {
		must(t, token)
	}
	if got.String() != strings.Join(append(want, "h"), " ") {
		t.Errorf("order: %s", &got)
	}
}

func TestAFailingHandlerIsTriedAgainAndThenGivenUp(t *testing.T) {
	var fails, works atomic.Int32
	b := startBroker(t, Limits{},
		Subscription{ID: "never", Filter: "never", QoS: 1, Handle: func(context.Context, *trigger.Event) error { fails.Add(1); panic("bug") }},
		Subscription{ID: "second", Filter: "second", QoS: 1, Handle: func(context.Context, *trigger.Event) error {
			if works.Add(1) < 2 {
				return errors.New("not yet")
			}
			return nil
		}})
	c := dial(t, b.Addr().String(), "")
	must(t, c.Publish("never", 1, false, "x"))
	must(t, c.Publish("second", 1, false, "x"))
	waitFor(t, "one is given up and one handled", func() bool { n := b.Counters(); return n.Failed == 1 && n.Handled == 1 })
	if fails.Load() != maxAttempts || works.Load() != 2 {
		t.Errorf("%d and %d attempts, want %d and 2", fails.Load(), works.Load(), maxAttempts)
	}
	if n := b.Counters(); n.Retried != maxAttempts {
		t.Errorf("counters %+v", n)
	}
	dead, err := b.cfg.Inbox.Dead(0, 10)
	if err != nil || len(dead) != 1 || dead[0].Trigger != "never" || string(dead[0].Message.Payload) != "x" || dead[0].Attempts != maxAttempts || dead[0].Cause != "handler panicked: bug" {
		t.Errorf("dead letters %+v, %v", dead, err)
	}
	// QoS 0: once or not at all.
	must(t, c.Publish("never", 0, false, "x"))
	waitFor(t, "the QoS 0 message is given up", func() bool { return b.Counters().Failed == 2 })
	if fails.Load() != maxAttempts+1 {
		t.Errorf("a QoS 0 message was tried %d times", fails.Load()-maxAttempts)
	}
}

func TestAMessageIsNotAcknowledgedWhileTheBoardCantCommit(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			var tries atomic.Int32
			st := storetest.Open(t)
			box, err := inbox.Open(st, inbox.Limits{}, quiet)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(box.Close)
			b := startBrokerWith(t, box, Limits{Drain: time.Second}, Subscription{ID: "a", Filter: "#", QoS: 2, Handle: func(ctx context.Context, e *trigger.Event) error {
				if tries.Add(1) > 1 {
					return unavailable()
				}
				return nil
			}})
			b.queue.mu.Lock()
			b.queue.delay = func(int) time.Duration { return time.Millisecond }
			b.queue.mu.Unlock()
			c := dial(t, b.Addr().String(), "")
			must(t, c.Publish("t", qos, false, "fine"))
			if err := st.Close(); err != nil { // a store that can't commit
				t.Fatal(err)
			}
			stuck := c.Publish("t", qos, false, "n")
			waitFor(t, "many attempts", func() bool { return tries.Load() > 3*maxAttempts })
			waitFor(t, "the inbox was tried", func() bool {
				b.queue.mu.Lock()
				defer b.queue.mu.Unlock()
				l := b.queue.bindings["a"].lanes["t"]
				return l != nil && l.jobs[0].inInbox
			})
			select {
			case <-stuck.Done():
				t.Errorf("acknowledged without being durable: %v", stuck.Error())
			default:
			}
			if n := b.Counters(); n.Failed != 0 || n.Handled != 1 {
				t.Errorf("counters %+v", n)
			}
		})
	}
}

func TestAnUpgradeLosesNoMessage(t *testing.T) {
	var old, next record
	closed := atomic.Bool{}
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "#", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
		if closed.Load() {
			return &trigger.Failure{Reason: trigger.Closed, Err: errors.New("closed")}
		}
		return old.handle(ctx, e)
	}})
	c := dial(t, b.Addr().String(), "")
	must(t, c.Publish("t", 1, false, "1"))
	closed.Store(true)
	second, third := c.Publish("t", 1, false, "2"), c.Publish("t", 1, false, "3")
	if err := b.Set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: next.handle}}); err != nil {
		t.Fatal(err)
	}
	must(t, second)
	must(t, third)
	if old.String() != "1" || next.String() != "2 3" {
		t.Errorf("old handled %q, new %q", &old, &next)
	}
}

func TestAFullQueueHoldsPublishersAndDropsQoS0(t *testing.T) {
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var fine record
	b := startBroker(t, Limits{QueueMessages: 4, Workers: 1},
		Subscription{ID: "stuck", Filter: "stuck/#", QoS: 1, Handle: func(context.Context, *trigger.Event) error { <-hold; return nil }},
		Subscription{ID: "fine", Filter: "fine", QoS: 1, Handle: fine.handle})
	c := dial(t, b.Addr().String(), "")
	for i := range 20 {
		must(t, c.Publish(fmt.Sprintf("stuck/%d", i), 0, false, "x"))
	}
	waitFor(t, "the oldest are dropped", func() bool { return b.Counters().Dropped >= 15 })
	hog := dial(t, b.Addr().String(), "")
	var tokens []paho.Token
	for range 10 {
		tokens = append(tokens, hog.Publish("stuck/1", 1, false, "x"))
	}
	// Other publishers and subscriptions go on.
	must(t, c.Publish("fine", 1, false, "y"))
	if !fine.has("y") {
		t.Error("acknowledged without having been handled")
	}
	release()
	for _, token := range tokens {
		must(t, token)
	}
}

func TestAMessageSentAgainIsHandledOnce(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		var got record
		hold := make(chan struct{})
		b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "#", QoS: 2, Handle: func(ctx context.Context, e *trigger.Event) error {
			err := got.handle(ctx, e)
			<-hold
			return err
		}})
		// A client by hand: it loses its connection while the message is handled, and sends it again.
		publish := func(c net.Conn, dup byte) {
			packet := append([]byte{0x30 | qos<<1 | dup<<3, 8, 0, 1, 't', 0, 7}, "xyz"...)
			if _, err := c.Write(packet); err != nil {
				t.Fatal(err)
			}
		}
		first := connect(t, b.Addr().String(), "sensor")
		publish(first, 0)
		waitFor(t, "the handler has it", func() bool { return got.has("xyz") })
		first.Close()
		second := connect(t, b.Addr().String(), "sensor")
		publish(second, 1)
		waitFor(t, "the broker has it again", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			p := b.pending[packetKey{"sensor", 7}]
			return p != nil && p.client.Net.Remote == second.LocalAddr().String()
		})
		close(hold)
		want := []byte{0x40, 2, 0, 7}
		if qos == 2 {
			want[0] = 0x50
		}
		ack := make([]byte, 4)
		if err := second.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := second.Read(ack); err != nil || string(ack) != string(want) {
			t.Errorf("QoS %d: answer % x %v, want % x", qos, ack, err, want)
		}
		if qos == 2 {
			publish(second, 1) // the PUBREC was lost, says the client
			if _, err := second.Read(ack); err != nil || string(ack) != string(want) {
				t.Errorf("QoS 2 again: answer % x %v, want % x", ack, err, want)
			}
			// A connection that takes the session over may miss what was noted in it at that moment.
			session, ok := b.server.Load().Clients.Get("sensor")
			if !ok || !session.State.Inflight.Delete(7) {
				t.Fatal("the session has no note of the message")
			}
			publish(second, 1)
			if _, err := second.Read(ack); err != nil || string(ack) != string(want) {
				t.Errorf("QoS 2, not noted: answer % x %v, want % x", ack, err, want)
			}
			if _, err := second.Write([]byte{0x62, 2, 0, 7}); err != nil {
				t.Fatal(err)
			}
			if _, err := second.Read(ack); err != nil || ack[0] != 0x70 {
				t.Errorf("PUBREL: answer % x %v, want PUBCOMP", ack, err)
			}
		}
		if got.String() != "xyz" {
			t.Errorf("QoS %d: handled %q, want it once", qos, &got)
		}
	}
}

// connect speaks MQTT by hand, with a session that is kept.
func connect(t *testing.T, addr, id string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p := append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 0, 0, 60, 0, byte(len(id))}, id...)
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
	ack := make([]byte, 4)
	if _, err := c.Read(ack); err != nil || ack[0] != 0x20 || ack[3] != 0 {
		t.Fatalf("CONNACK % x %v", ack, err)
	}
	return c
}

func TestAHugePacketClosesOnlyItsConnection(t *testing.T) {
	var got record
	b := startBroker(t, Limits{MaxPacket: 4 << 10}, Subscription{ID: "a", Filter: "#", QoS: 1, Handle: got.handle})
	bad, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	// The five bytes that claim 256 MiB, before any CONNECT.
	if _, err := bad.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}); err != nil {
		t.Fatal(err)
	}
	if n, err := bad.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes in answer, want a closed connection", n)
	}
	c := dial(t, b.Addr().String(), "")
	must(t, c.Publish("t", 1, false, "x"))
	over := dial(t, b.Addr().String(), "")
	over.Publish("t", 1, false, strings.Repeat("x", 5<<10))
	waitFor(t, "the connection of the large message ends", func() bool { return !over.IsConnectionOpen() })
	if got.String() != "x" {
		t.Errorf("handled %.20q", &got)
	}
}

func TestWhatTheBoardPublishesTriggersItsHandlersToo(t *testing.T) {
	var got record
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "alerts/#", QoS: 1, Handle: got.handle})
	sub := dial(t, b.Addr().String(), "")
	seen := make(chan paho.Message, 1)
	must(t, sub.Subscribe("alerts/#", 2, func(_ paho.Client, m paho.Message) { seen <- m }))
	for qos := range byte(3) {
		if err := publish(t.Context(), b, Message{Topic: "alerts/a", Payload: []byte{'0' + qos}, QoS: qos}); err != nil {
			t.Fatal(err)
		}
		if m := <-seen; m.Qos() != qos || m.Payload()[0] != '0'+qos {
			t.Errorf("subscriber got QoS %d %q, want QoS %d", m.Qos(), m.Payload(), qos)
		}
		if qos > 0 && !got.has(string(rune('0'+qos))) {
			t.Errorf("QoS %d: Publish returned before the handler was done", qos)
		}
	}
	if _, err := b.Publish(t.Context(), Message{Topic: "a/#"}); err == nil {
		t.Error("published to a filter")
	}
}

func TestANewSubscriptionGetsRetainedMessages(t *testing.T) {
	var first, again record
	b := startBroker(t, Limits{})
	c := dial(t, b.Addr().String(), "")
	must(t, c.Publish("state/a", 1, true, "kept"))
	must(t, c.Publish("state/b", 1, false, "passing"))
	sub := Subscription{ID: "a", Filter: "state/+", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
		if !e.MQTT.Retain {
			return errors.New("not marked as retained")
		}
		return first.handle(ctx, e)
	}}
	if err := b.Set([]Subscription{sub}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the retained message", func() bool { return first.String() == "kept" })
	sub.Handle = again.handle
	if err := b.Set([]Subscription{sub}); err != nil {
		t.Fatal(err)
	}
	must(t, c.Publish("state/c", 1, false, "live"))
	if again.String() != "live" {
		t.Errorf("after an upgrade the handler got %q, want only what is new", &again)
	}
}

func TestALastWillIsAnEvent(t *testing.T) {
	var got record
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "lwt/#", QoS: 1, Handle: got.handle})
	conn, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o := paho.NewClientOptions().AddBroker("tcp://x").SetWill("lwt/sensor", "gone", 1, false).SetAutoReconnect(false)
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return conn, nil })
	c := paho.NewClient(o)
	must(t, c.Connect())
	conn.Close()
	waitFor(t, "the will", func() bool { return got.has("gone") })
}

func TestAHandlerThatHangsDelaysNoOtherSubscription(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	var fine record
	b := startBroker(t, Limits{Workers: 2},
		Subscription{ID: "hang", Filter: "t/#", QoS: 0, Handle: func(context.Context, *trigger.Event) error { <-hold; return nil }},
		Subscription{ID: "fine", Filter: "t/#", QoS: 1, Handle: fine.handle})
	c := dial(t, b.Addr().String(), "")
	for i := range 10 {
		must(t, c.Publish(fmt.Sprintf("t/%d", i), 1, false, fmt.Sprint(i)))
	}
	if !fine.has("9") {
		t.Errorf("handled %q", &fine)
	}
}

func TestATakenPortNamesTheWayOut(t *testing.T) {
	b := startBroker(t, Limits{})
	second := NewBroker(BrokerConfig{Address: b.Addr().String(), Inbox: newBox(t, inbox.Limits{})}, quiet)
	err := second.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "set bus.url to mqtt://"+b.Addr().String()) {
		t.Errorf("Run = %v", err)
	}
	if s := second.Status(); s.Health != trigger.Degraded {
		t.Errorf("status %+v", s)
	}
}

func TestConnectionsThatSayNothingHoldNoStopUp(t *testing.T) {
	b := NewBroker(BrokerConfig{Address: "127.0.0.1:0", Inbox: newBox(t, inbox.Limits{})}, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	for range 20 {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadSubscriptionsChangeNothing(t *testing.T) {
	var got record
	b := startBroker(t, Limits{}, Subscription{ID: "a", Filter: "t", QoS: 1, Handle: got.handle})
	for want, subs := range map[string][]Subscription{
		"x: topic filter":    {{ID: "x", Filter: "a/#/b"}},
		"x: qos 3":           {{ID: "x", Filter: "a", QoS: 3}},
		"two have the id x":  {{ID: "x", Filter: "a"}, {ID: "x", Filter: "b"}},
		"topic filter is em": {{ID: "x"}},
	} {
		if err := b.Set(subs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Set(%+v) = %v, want %q", subs, err, want)
		}
	}
	must(t, dial(t, b.Addr().String(), "").Publish("t", 1, false, "x"))
	if got.String() != "x" {
		t.Errorf("handled %q", &got)
	}
}

func BenchmarkEventThroughOwnBroker(b *testing.B) {
	br := startBroker(b, Limits{}, Subscription{ID: "a", Filter: "#", QoS: 1, Handle: func(context.Context, *trigger.Event) error { return nil }})
	c := dial(b, br.Addr().String(), "")
	for b.Loop() {
		must(b, c.Publish("t", 1, false, "x"))
	}
}

func BenchmarkEventsInFlightThroughOwnBroker(b *testing.B) {
	br := startBroker(b, Limits{}, Subscription{ID: "a", Filter: "#", QoS: 1, Handle: func(context.Context, *trigger.Event) error { return nil }})
	c := dial(b, br.Addr().String(), "")
	const window = 100
	tokens := make(chan paho.Token, window)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for token := range tokens {
			token.Wait()
		}
	}()
	for b.Loop() {
		tokens <- c.Publish("t", 1, false, "x")
	}
	close(tokens)
	<-done
}
