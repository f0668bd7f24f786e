package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// request is one for the board of f, in its present session.
func (f *testFleet) request(b *board, id string, o wire.Operation, arguments map[string]string) wire.Do {
	session, _ := b.agent.link.Session()
	return wire.Do{Fleet: f.name, Device: f.device, Session: session, ID: id, Operation: o, Deadline: time.Now().Add(time.Minute).UTC(), Arguments: arguments}
}

func (f *testFleet) signed(do wire.Do, by trust.Key) []byte {
	f.t.Helper()
	payload, err := wire.MarshalDo(do)
	must(f.t, err)
	e, err := trust.SignDo(payload, by)
	must(f.t, err)
	return e
}

// ask sends a request, properly signed, and gives the answer.
func (f *testFleet) ask(do wire.Do) wire.Done {
	f.t.Helper()
	f.send(wire.ChannelDo, f.signed(do, f.director))
	select {
	case d := <-f.dones:
		if d.ID != do.ID {
			f.t.Fatalf("asked as %s, and answered as %s: %+v", do.ID, d.ID, d)
		}
		return d
	case <-time.After(patience):
		f.t.Fatalf("no answer to %+v", do)
		panic("unreachable")
	}
}

// connectedBoard is a board of f that is connected.
func connectedBoard(t *testing.T, f *testFleet, change func(*Config)) *board {
	t.Helper()
	b := boardOf(t, f)
	if change != nil {
		b.stop()
		change(&b.cfg)
		b.start()
	}
	eventually(t, "the board connects", func() bool { _, up := b.agent.link.Session(); return up })
	return b
}

// bury sets n messages aside.
func (b *board) bury(n int, change func(*inbox.Dead)) (names []string) {
	b.t.Helper()
	for i := range n {
		d := inbox.Dead{Event: inbox.Event{Number: b.agent.inbox.Number(), Trigger: app + "/in", At: time.UnixMilli(1_700_000_000_123),
			Message: trigger.Message{Topic: "in/a", Payload: []byte(fmt.Sprint(i)), QoS: 1}}, Attempts: 4, Reason: trigger.Trapped, Cause: "unreachable"}
		if change != nil {
			change(&d)
		}
		must(b.t, b.agent.inbox.Bury(d, false, trigger.Ends{}))
		names = append(names, inbox.Name(d.Number))
	}
	return names
}

func TestARequestOfTheFleetIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := connectedBoard(t, f, nil)
	f.install(f.push("1.0.0", counter, func(r *wire.Release) {
		r.Triggers = wire.Triggers{MQTT: []wire.MQTTTrigger{{ID: "in", Topic: "in/+", QoS: 1, Component: "main"}}}
		c := r.Components["main"]
		c.KeyValue, c.Publish = []string{"default"}, []string{"count/+"}
		r.Components["main"] = c
	}))
	names := b.bury(3, nil)

	list, err := wire.UnmarshalEvents(f.ask(f.request(b, "r1", wire.EventsList, nil)).Result)
	must(t, err)
	if len(list.Dead) != 3 || list.More || list.Dead[0].Event != names[0] || list.Dead[0].Trigger != app+"/in" || list.Dead[0].Text != "" {
		t.Errorf("listed %+v", list)
	}
	shown, err := wire.UnmarshalDeadEvent(f.ask(f.request(b, "r2", wire.EventsShow, map[string]string{"event": names[1]})).Result)
	must(t, err)
	if shown.Text != "1" || shown.Cause != "unreachable" || shown.Attempts != 4 || shown.Cut {
		t.Errorf("shown %+v", shown)
	}

	drop := f.request(b, "r3", wire.EventsDrop, map[string]string{"event": names[0]})
	first, again := f.ask(drop), f.ask(drop)
	if first.Error != "" || string(first.Result) != string(again.Result) {
		t.Errorf("dropped: %+v, and repeated: %+v", first, again)
	}
	retry := f.request(b, "r4", wire.EventsRetry, map[string]string{"event": names[1]})
	first, again = f.ask(retry), f.ask(retry)
	if first.Error != "" || string(first.Result) != string(again.Result) {
		t.Errorf("retried: %+v, and repeated: %+v", first, again)
	}
	eventually(t, "the retried event is handled", func() bool { return b.agent.counters().Handled == 1 && b.agent.inbox.Counts().Waiting == 0 })
	for i, name := range names[:2] { // another request for what is gone
		for _, o := range []wire.Operation{wire.EventsDrop, wire.EventsRetry, wire.EventsShow} {
			if d := f.ask(f.request(b, fmt.Sprintf("gone-%d-%s", i, o), o, map[string]string{"event": name})); d.Code != wire.CodeNotFound {
				t.Errorf("%s of %s that is gone: %+v", o, name, d)
			}
		}
	}
	if n := b.agent.inbox.Counts(); n.Dead != 1 {
		t.Errorf("%d dead letters, want the third alone", n.Dead)
	}
	if d := f.ask(f.request(b, "r5", "of.the-future", nil)); d.Code != wire.CodeBadRequest {
		t.Errorf("an operation that nobody knows: %+v", d)
	}
	if d := f.ask(f.request(b, "r6", wire.EventsList, map[string]string{"after": "x"})); d.Code != wire.CodeBadRequest {
		t.Errorf("a page after nothing: %+v", d)
	}
}

// Each attack tries to have a letter dropped. The honest request behind it is answered, and nothing before it was.
func TestOnlyWhatTheDirectorAsksOfThisBoardNowIsDone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := connectedBoard(t, f, func(c *Config) { c.synced = func() bool { return true } })
	f.desire() // so that the board has the root of its own store
	f.await("take generation 1", func(r wire.Reported) bool { return r.Generation == 1 })
	names := b.bury(1, nil)
	attack := func(change func(*wire.Do)) wire.Do {
		do := f.request(b, "attack", wire.EventsDrop, map[string]string{"event": names[0]})
		change(&do)
		return do
	}
	desired := f.envelope(f.payload(), f.director)
	for name, envelope := range map[string][]byte{
		"by another key":            f.signed(attack(func(*wire.Do) {}), newKey(t)),
		"by a release key":          f.signed(attack(func(*wire.Do) {}), f.release),
		"of another device":         f.signed(attack(func(d *wire.Do) { d.Device = "barn" }), f.director),
		"of another fleet":          f.signed(attack(func(d *wire.Do) { d.Fleet = "ranch" }), f.director),
		"of a session that is over": f.signed(attack(func(d *wire.Do) { d.Session = "0123456789abcdef" }), f.director),
		"after its deadline":        f.signed(attack(func(d *wire.Do) { d.Deadline = time.Now().Add(-time.Second).UTC() }), f.director),
		"a desired state":           desired,
		"without a signature":       []byte(strings.Repeat("x", 100)),
		"nothing":                   {},
		"larger than any":           []byte(strings.Repeat("x", wire.MaxMessageBytes)),
	} {
		f.send(wire.ChannelDo, envelope)
		if d := f.ask(f.request(b, "honest", wire.EventsList, nil)); d.Error != "" {
			t.Errorf("%s: then %+v", name, d)
		}
		if n := b.agent.inbox.Counts(); n.Dead != 1 {
			t.Fatalf("%s: it is done", name)
		}
	}
	// The board's topic carries it, and not another's.
	must(t, f.broker.Publish(wire.Topic{Fleet: f.name, Device: "barn", Channel: wire.ChannelDo}.Format(), f.signed(attack(func(*wire.Do) {}), f.director), false, 1))
	if d := f.ask(f.request(b, "honest", wire.EventsList, nil)); d.Error != "" || b.agent.inbox.Counts().Dead != 1 {
		t.Errorf("on another's topic it is done, then %+v", d)
	}
	if d := f.ask(attack(func(*wire.Do) {})); d.Error != "" || b.agent.inbox.Counts().Dead != 0 {
		t.Errorf("and the honest one: %+v", d)
	}
}

// A clock that nobody set says nothing about a deadline.
func TestABoardWithoutAClockTakesRequests(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := connectedBoard(t, f, func(c *Config) {
		c.synced = func() bool { return false }
		c.system = func() time.Time { return time.Now().Add(24 * time.Hour) }
	})
	if d := f.ask(f.request(b, "r1", wire.EventsList, nil)); d.Error != "" {
		t.Errorf("got %+v", d)
	}
}

func TestTheConfigSaysWhatTheFleetMayAskFor(t *testing.T) {
	t.Parallel()
	for may, want := range map[string][2]wire.ErrorCode{requestsAll: {0, 0}, requestsRead: {0, wire.CodeRefused}, off: {wire.CodeRefused, wire.CodeRefused}} {
		f := newFleet(t)
		b := connectedBoard(t, f, func(c *Config) { c.Fleet.Requests = may })
		names := b.bury(1, nil)
		list := f.ask(f.request(b, "r1", wire.EventsList, nil))
		drop := f.ask(f.request(b, "r2", wire.EventsDrop, map[string]string{"event": names[0]}))
		if got := [2]wire.ErrorCode{list.Code, drop.Code}; got != want {
			t.Errorf("%s: %+v, %+v", may, list, drop)
		}
		if d := drop; d.Code != 0 && !strings.Contains(d.Error, fmt.Sprintf("fleet.requests is %q", may)) {
			t.Errorf("%s: %s", may, d.Error)
		}
	}
}

// However many letters there are, and whatever is in them, pages fit their messages, and end.
func TestAListOfLettersComesInPagesThatEnd(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := connectedBoard(t, f, nil)
	names := b.bury(150, nil)
	names = append(names, b.bury(100, func(d *inbox.Dead) {
		d.Message.Topic = strings.Repeat("\x01", 10_000)
		d.Cause = strings.Repeat("\x02", 1000)
		d.Message.Payload = []byte{0xff}
	})...)
	var got []string
	after := map[string]string{}
	pages := 0
	for more := true; more; pages++ {
		page, err := wire.UnmarshalEvents(f.ask(f.request(b, fmt.Sprintf("p%d", pages), wire.EventsList, after)).Result)
		must(t, err)
		for _, e := range page.Dead {
			got = append(got, e.Event)
		}
		more, after = page.More, map[string]string{"after": got[len(got)-1]}
	}
	if !slices.Equal(got, names) {
		t.Errorf("%d letters in %d pages, want %d", len(got), pages, len(names))
	}
}
