package mqtt

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// newBox opens an inbox in a directory of the test's own.
func newBox(t testing.TB, l inbox.Limits) *inbox.Box {
	t.Helper()
	b, err := inbox.Open(storetest.Open(t), l, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

var quiet = slog.New(slog.DiscardHandler)

func startBroker(t testing.TB, l Limits, subs ...Subscription) *Broker {
	t.Helper()
	return startBrokerWith(t, newBox(t, inbox.Limits{}), l, subs...)
}

func startBrokerWith(t testing.TB, box *inbox.Box, l Limits, subs ...Subscription) *Broker {
	t.Helper()
	b := NewBroker(BrokerConfig{Address: "127.0.0.1:0", Inbox: box, Limits: l}, quiet)
	if err := b.Set(subs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	select {
	case <-b.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// dial a real client. A client id keeps its session.
func dial(t testing.TB, addr, id string) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetCleanSession(id == "").SetAutoReconnect(false).SetProtocolVersion(4).SetOrderMatters(true)
	c := paho.NewClient(o)
	must(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func must(t testing.TB, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		t.Fatalf("no answer from the broker: %v", token.Error())
	}
}

// publish and wait until it is taken.
func publish(ctx context.Context, to interface {
	Publish(context.Context, Message) (Taken, error)
}, m Message,
) error {
	taken, err := to.Publish(ctx, m)
	if err != nil {
		return err
	}
	return taken(ctx)
}

// record collects payloads in the order in which they are handled.
type record struct {
	mu   sync.Mutex
	seen []string
}

func (r *record) handle(_ context.Context, e *trigger.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, string(e.MQTT.Payload))
	return nil
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.seen, " ")
}

func (r *record) has(s string) bool { return slices.Contains(strings.Fields(r.String()), s) }

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	often, late := time.NewTicker(2*time.Millisecond), time.After(30*time.Second)
	defer often.Stop()
	for !done() {
		select {
		case <-often.C:
		case <-late:
			t.Fatal("it never happened: " + what)
		}
	}
}
