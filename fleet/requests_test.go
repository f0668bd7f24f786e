package fleet_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// request takes the next request to b, which the director of o's root signed for it.
func (b *board) request(o *operator) wire.Do {
	b.t.Helper()
	payload, err := trust.VerifyDo(o.rootJSON, receive(b.t, b.dos))
	if err != nil {
		b.t.Fatal(err)
	}
	do, err := wire.UnmarshalDo(payload)
	if err != nil {
		b.t.Fatal(err)
	}
	if do.Fleet != fleetName || do.Device != b.name || do.Session != b.session {
		b.t.Fatalf("%s in session %s is asked %+v", b.name, b.session, do)
	}
	return do
}

func (b *board) done(d wire.Done) {
	b.t.Helper()
	p, err := wire.MarshalDone(d)
	if err != nil {
		b.t.Fatal(err)
	}
	must(b.t, b.c.Publish(topic(b.name, wire.ChannelDone), 1, false, p))
}

func (b *board) online(s server) *board {
	s.eventually(b.name, b.name+" is online", func(d model.Device) bool { return d.Online })
	return b
}

func refuses(t *testing.T, what string, err error, code int, says string) {
	t.Helper()
	var answer *client.Error
	if !errors.As(err, &answer) || answer.Code != code || !strings.Contains(answer.Text, says) {
		t.Errorf("%s: %v, want %d and %q", what, err, code, says)
	}
}

// async calls ask and gives what comes of it.
func async[T any](ask func() (T, error)) <-chan result[T] {
	c := make(chan result[T], 1)
	go func() {
		v, err := ask()
		c <- result[T]{v, err}
	}()
	return c
}

type result[T any] struct {
	v   T
	err error
}

func TestABoardIsAskedAndItsAnswerComesBack(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	b := connect(t, s, "hut", nil).online(s)
	c := s.client()
	listed := async(func() (wire.Events, error) { return c.Events(t.Context(), "hut", "e4") })
	do := b.request(o)
	if do.Operation != wire.EventsList || do.Arguments["after"] != "e4" || time.Until(do.Deadline) > time.Minute {
		t.Errorf("asked %+v", do)
	}
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	page, err := wire.MarshalEvents(wire.Events{Waiting: 2, Dead: []wire.DeadEvent{{Event: "e5", At: at, Cause: "<&>\u2028"}}, More: true})
	if err != nil {
		t.Fatal(err)
	}
	b.done(wire.Done{ID: do.ID, Result: page})
	if r := receive(t, listed); r.err != nil || len(r.v.Dead) != 1 || r.v.Dead[0].Event != "e5" || r.v.Dead[0].Cause != "<&>\u2028" || !r.v.More {
		t.Errorf("got %+v, %v", r.v, r.err)
	}
	dropped := async(func() (wire.Renamed, error) { return c.DropEvent(t.Context(), "hut", "e5") })
	do = b.request(o)
	if do.Operation != wire.EventsDrop || do.Arguments["event"] != "e5" {
		t.Errorf("asked %+v", do)
	}
	b.done(wire.Done{ID: do.ID, Code: wire.CodeRefused, Error: "the board's config forbids it"})
	refuses(t, "refused by the board", receive(t, dropped).err, http.StatusConflict, "device hut: the board's config forbids it")
	retried := async(func() (wire.Renamed, error) { return c.RetryEvent(t.Context(), "hut", "e5") })
	do = b.request(o)
	if do.Operation != wire.EventsRetry {
		t.Errorf("asked %+v", do)
	}
	b.done(wire.Done{ID: do.ID, Result: []byte(`{"event":"e9"}`)})
	if r := receive(t, retried); r.err != nil || r.v.Event != "e9" {
		t.Errorf("got %+v, %v", r.v, r.err)
	}
	_, err = c.Event(t.Context(), "hut", "17")
	refuses(t, "no event", err, http.StatusBadRequest, "want e and a number")
}

func TestABoardThatCantBeAskedIsAnErrorAtOnce(t *testing.T) {
	s := start(t, fleet.Config{Patience: 200 * time.Millisecond})
	o := found(t, s)
	c := s.client()
	_, err := c.Events(t.Context(), "nowhere", "")
	refuses(t, "unknown", err, http.StatusNotFound, "device nowhere: not found")
	b := connect(t, s, "hut", nil).online(s)
	_, err = c.Events(t.Context(), "hut", "")
	refuses(t, "silent", err, http.StatusGatewayTimeout, "device hut: it did not answer in time")
	// An answer that comes late is nobody's, and harms nothing.
	late := b.request(o)
	b.done(wire.Done{ID: late.ID, Result: []byte(`{}`)})
	b.c.Disconnect(0)
	s.eventually("hut", "it is gone", func(d model.Device) bool { return !d.Online })
	_, err = c.DropEvent(t.Context(), "hut", "e1")
	refuses(t, "offline", err, http.StatusServiceUnavailable, "device hut: it is not connected: last seen 20")
	old := connect(t, s, "barn", nil)
	hello, err := wire.MarshalHello(wire.Hello{Version: wire.Version, Session: "old", Agent: "0.0.9", Arch: "arm64", Boot: "b0"})
	if err != nil {
		t.Fatal(err)
	}
	must(t, old.c.Publish(topic("barn", wire.ChannelHello), 1, false, hello))
	s.eventually("barn", "it says that it is old", func(d model.Device) bool { return d.Agent == "0.0.9" })
	_, err = c.Events(t.Context(), "barn", "")
	refuses(t, "too old", err, http.StatusNotImplemented, "its agent is too old for this request: update it (it has 0.0.9)")
}

// The connection of a board that was asked ends, or another takes its place: who waits hears it at once.
func TestARequestEndsWithTheSessionThatItWasMadeIn(t *testing.T) {
	s := start(t, fleet.Config{Patience: time.Hour})
	o := found(t, s)
	c := s.client()
	b := connect(t, s, "hut", nil).online(s)
	asked := async(func() (wire.Events, error) { return c.Events(t.Context(), "hut", "") })
	b.request(o)
	b.c.Disconnect(0)
	refuses(t, "disconnected", receive(t, asked).err, http.StatusGatewayTimeout, "whether it was done is not known")
	b = connect(t, s, "hut", nil).online(s)
	asked = async(func() (wire.Events, error) { return c.Events(t.Context(), "hut", "") })
	b.request(o)
	connect(t, s, "hut", nil)
	refuses(t, "taken over", receive(t, asked).err, http.StatusGatewayTimeout, "whether it was done is not known")
}

// One board answers for another, makes answers up, answers twice, and says what means nothing.
func TestAnswersThatNobodyAskedForReachNobody(t *testing.T) {
	s := start(t, fleet.Config{Patience: time.Hour})
	o := found(t, s)
	c := s.client()
	hut, barn := connect(t, s, "hut", nil).online(s), connect(t, s, "barn", nil).online(s)
	asked := async(func() (wire.Renamed, error) { return c.DropEvent(t.Context(), "hut", "e1") })
	do := hut.request(o)
	barn.done(wire.Done{ID: do.ID, Result: []byte(`{"event":"e666"}`)})
	for range 2000 {
		barn.c.Publish(topic("barn", wire.ChannelDone), 0, false, []byte(`{"id":"made-up","result":{}}`))
	}
	must(t, barn.c.Publish(topic("barn", wire.ChannelDone), 1, false, []byte(`{"id":"made-up","result":{}}`)))
	hut.done(wire.Done{ID: do.ID, Result: []byte(`{"event":"e1"}`)})
	for range 2000 { // and doesn't end
		hut.c.Publish(topic("hut", wire.ChannelDone), 0, false, []byte(`{"id":"`+do.ID+`","result":{"event":"e666"}}`))
	}
	if r := receive(t, asked); r.err != nil || r.v.Event != "e1" {
		t.Errorf("got %+v, %v", r.v, r.err)
	}
	for _, nonsense := range []string{`{"event":"e01"}`, `[]`, `{"event":"e1","more":1}`, `"` + strings.Repeat("x", 100_000) + `"`} {
		asked := async(func() (wire.Renamed, error) { return c.DropEvent(t.Context(), "hut", "e1") })
		hut.done(wire.Done{ID: hut.request(o).ID, Result: []byte(nonsense)})
		refuses(t, "nonsense", receive(t, asked).err, http.StatusBadGateway, "its answer means nothing")
	}
	// A list that never ends gives the same again and again.
	listed := async(func() (wire.Events, error) { return c.Events(t.Context(), "hut", "e5") })
	hut.done(wire.Done{ID: hut.request(o).ID, Result: []byte(`{"waiting":0,"waiting_bytes":0,"outbox_bytes":0,"dead_dropped":0,"dead":[{"event":"e5","trigger":"","topic":"","qos":0,"at":"2026-11-23T12:00:00Z","attempts":0,"reason":"","cause":"","bytes":0}],"more":true}`)})
	refuses(t, "a list that goes round", receive(t, listed).err, http.StatusBadGateway, "asked for events after e5, it gives e5")
}

// A thousand requests to a board that never answers wait within bounds, and others are asked meanwhile.
func TestAThousandRequestsToASilentBoardHoldUpNoOther(t *testing.T) {
	s := start(t, fleet.Config{Patience: time.Hour})
	o := found(t, s)
	c := s.client()
	hut, barn := connect(t, s, "hut", nil).online(s), connect(t, s, "barn", nil).online(s)
	var wg sync.WaitGroup
	answers := make(chan error, 1000)
	for range 1000 {
		wg.Go(func() {
			_, err := c.DropEvent(t.Context(), "hut", "e1")
			answers <- err
		})
	}
	for range 1000 - 16 {
		refuses(t, "one too many", receive(t, answers), http.StatusTooManyRequests, "too many requests wait for answers: 16 of it")
	}
	asked := async(func() (wire.Renamed, error) { return c.DropEvent(t.Context(), "barn", "e2") })
	barn.done(wire.Done{ID: barn.request(o).ID, Result: []byte(`{"event":"e2"}`)})
	if r := receive(t, asked); r.err != nil {
		t.Error(r.err)
	}
	for range 16 {
		hut.done(wire.Done{ID: hut.request(o).ID, Result: []byte(`{"event":"e1"}`)})
		if err := receive(t, answers); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
