package runner

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"
	"dunlin.dev/dunlin/test/guests"
)

func BenchmarkMessage(b *testing.B) {
	f := start(b, guests.Counter, Limits{})
	e := message("x")
	for b.Loop() {
		if err := f.Handle(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
	report(b, f)
}

func BenchmarkRequestWithoutNetwork(b *testing.B) {
	f := start(b, guests.HelloHTTP, Limits{})
	for b.Loop() {
		e, _ := request("GET", "/", nil)
		if err := f.Handle(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
	report(b, f)
}

func BenchmarkRequest(b *testing.B) {
	f := start(b, guests.HelloHTTP, Limits{})
	url := serve(b, f)
	for b.Loop() {
		res, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			b.Fatal(err)
		}
		res.Body.Close()
	}
	report(b, f)
}

// From a publisher's socket to its acknowledgement: broker, instance, commit.
func BenchmarkMessageThroughBroker(b *testing.B) {
	f := start(b, guests.Counter, Limits{})
	box, err := inbox.Open(storetest.Open(b), inbox.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(box.Close)
	br := mqtttrigger.NewBroker(mqtttrigger.BrokerConfig{Address: "127.0.0.1:0", Inbox: box}, slog.New(slog.DiscardHandler))
	if err := br.Set([]mqtttrigger.Subscription{{ID: "a", Filter: "in", QoS: 1, Handle: f.Handle}}); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- br.Run(ctx) }()
	<-br.Ready()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + br.Addr().String()))
	if t := c.Connect(); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		b.Fatal(t.Error())
	}
	for b.Loop() {
		if t := c.Publish("in", 1, false, "x"); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
			b.Fatal(t.Error())
		}
	}
	c.Disconnect(0)
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	if got := int(f.Counters().Handled); f.counts(b)["mqtt"] != got {
		b.Errorf("%d handled, %d counted", got, f.counts(b)["mqtt"])
	}
	report(b, f)
}

func report(b *testing.B, f *fixture) {
	c := f.Counters()
	b.ReportMetric(float64(c.P50.Microseconds()), "p50-us")
	b.ReportMetric(float64(c.P99.Microseconds()), "p99-us")
}
