package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/fleet/wire"
	"dunlin.dev/dunlin/test/guests"
)

// counting makes a release of the counter, which serves HTTP and messages.
func counting(r *wire.Release) {
	c := r.Components["main"]
	c.KeyValue, c.Publish = []string{"default"}, []string{"count/#", "uplink:#"}
	r.Components["main"] = c
	r.Triggers.MQTT = []wire.MQTTTrigger{{ID: "in", Topic: "in/#", QoS: 1, Component: "main"}}
}

func TestAnUpdateLosesNoRequestAndNoMessage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	// Two components, so that a request never conflicts with a message.
	both := func(hello []byte) func(*wire.Release) {
		f.keep(hello)
		return func(r *wire.Release) {
			counting(r)
			r.Triggers.HTTP[0].Route = "/count"
			r.Components["hello"] = wire.Component{Digest: wire.Sum(hello), Size: int64(len(hello)), Limits: wire.DefaultLimits()}
			r.Triggers.HTTP = append(r.Triggers.HTTP, wire.HTTPTrigger{ID: "hello", Route: "/", Component: "hello"})
		}
	}
	f.install(f.push("1.0.0", counter, both(hello1)))

	sensor := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + b.bus).SetClientID("sensor"))
	if tok := sensor.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer sensor.Disconnect(0)
	var stop atomic.Bool
	var requests, messages atomic.Int64
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			for !stop.Load() {
				if got := b.get("/"); got != goodBody {
					t.Errorf("answered %q", got)
					return
				}
				requests.Add(1)
			}
		})
	}
	group.Go(func() {
		for !stop.Load() {
			tok := sensor.Publish("in/a", 1, false, "x")
			if !tok.WaitTimeout(patience) || tok.Error() != nil {
				t.Errorf("publish: %v", tok.Error())
				return
			}
			messages.Add(1)
		}
	})
	// Each switch happens in the middle of traffic: some has come before it, and some comes after.
	busy := func() {
		r, m := requests.Load(), messages.Load()
		eventually(t, "traffic goes on", func() bool { return t.Failed() || requests.Load() > r+10 && messages.Load() > m+10 })
	}
	busy()
	for i := 1; i <= 4; i++ {
		h, c := [][]byte{hello1, hello2}[i%2], [][]byte{counter, counter2}[i%2]
		f.install(f.push(fmt.Sprintf("1.%d.0", i), c, both(h)))
		busy()
	}
	stop.Store(true)
	group.Wait()
	want := fmt.Sprintf(`"mqtt":%d,`, messages.Load())
	eventually(t, fmt.Sprintf("%s is counted; it is %s", want, b.get("/count")), func() bool { return strings.Contains(b.get("/count"), want) })
}

func TestAReleaseThatDoesNotStartLeavesThePreviousServing(t *testing.T) {
	for _, c := range []struct {
		name      string
		component []byte
		change    func(*wire.Release)
		says      string
	}{
		{"needs more memory than its limit", hello2, func(r *wire.Release) {
			c := r.Components["main"]
			c.Limits.Memory = wire.MinMemory
			r.Components["main"] = c
		}, `component "main" does not start: `},
		{"imports what nobody gives", guests.UnknownImport, nil, "acme:rocket/engine@1.0.0"},
		{"can't serve its trigger", guests.Smallest, nil, `can't serve [[trigger.http]] /...: it exports no wasi:http/incoming-handler`},
		{"is a core module", guests.CoreModule, nil, "this is a core WebAssembly module, not a component"},
		{"names a store that it may not open", counter, nil, "key_value_stores"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			b := boardOf(t, f)
			f.install(f.push("1.0.0", hello1, nil))
			f.desire(f.push("2.0.0", c.component, c.change))
			r := f.await("a complaint", func(r wire.Reported) bool { return strings.Contains(complaints(r), c.says) })
			if r.Generation != 2 || r.Apps[0].Phase != wire.PhaseFailed {
				t.Errorf("reports generation %d, %+v", r.Generation, r.Apps)
			}
			b.serves("trial 1.0.0")
			eventually(t, "it is tried again after a rest", func() bool { return strings.Contains(b.log.String(), "attempts=2") })
			b.serves("trial 1.0.0")
			f.install(f.push("2.0.1", hello2, nil))
			b.serves("trial 2.0.1")
		})
	}
}

func TestAReleaseThatEndedTheAgentRests(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", hello1, nil))
	f.tamper = func(g wire.Get, frames []wire.Frame) []wire.Frame {
		if g.Offer != nil {
			return nil
		}
		return frames
	}
	two := f.push("2.0.0", hello2, nil)
	f.desire(two)
	f.await("version 2 is on its way", func(r wire.Reported) bool { return r.Generation == 2 })
	b.stop()
	// As a power cut leaves it in the middle of an activation.
	s := storetest.OpenIn(t, b.cfg.State)
	must(t, s.Put(map[string][]byte{attemptArea + app: []byte(two.Release.String())}))
	must(t, s.Close())
	f.tamper = nil
	b.cfg.rest = func(int, float64) time.Duration { return time.Hour }
	b.start()
	f.await("a complaint", func(r wire.Reported) bool {
		return strings.Contains(complaints(r), "the agent ended while it started this release")
	})
	b.serves("trial 1.0.0")
	f.install(f.push("2.0.1", hello2, nil))
	b.serves("trial 2.0.1")
}

// The very first metadata may stop half-way, and the agent right after it.
func TestARefreshThatBrokeOffLeavesAStateThatOpensAgain(t *testing.T) {
	t.Parallel()
	for _, role := range []wire.Role{wire.RoleRoot, wire.RoleTimestamp, wire.RoleSnapshot, wire.RoleTargets, wire.RoleRelease} {
		f := newFleet(t)
		asked := make(chan struct{}, 1024)
		f.tamper = func(g wire.Get, frames []wire.Frame) []wire.Frame {
			if g.Meta.Role != role {
				return frames
			}
			asked <- struct{}{}
			return []wire.Frame{wire.ErrorFrame(g.Request, wire.CodeBusy, "later")}
		}
		b := boardOf(t, f)
		one := f.push("1.0.0", hello1, nil)
		f.desire(one)
		<-asked
		<-asked // again: so the first was dealt with
		b.stop()
		f.mu.Lock()
		f.tamper = nil
		f.mu.Unlock()
		b.start()
		f.await("version 1 runs", func(r wire.Reported) bool { return runs(r, one) })
		b.serves("trial 1.0.0")
		b.stop()
	}
}

func TestARestartNeedsNoNetwork(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", hello1, nil))
	f.down()
	for range 2 {
		b.stop()
		b.start()
		b.serves("trial 1.0.0")
	}
	if health := b.get("/.well-known/dunlin/health"); !strings.Contains(health, `"ok":true`) || !strings.Contains(health, `"fleet":"down: `) {
		t.Errorf("health is %s", health)
	}
	f.listen(f.address)
	f.install(f.push("2.0.0", hello2, nil))
}

func TestAFrozenBoardRunsOnAndSaysSoAndThawsByItself(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	one := f.push("1.0.0", hello1, nil)
	f.install(one)
	two := f.push("2.0.0", hello2, nil)
	f.stamp(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	f.desire(two)
	frozen := func(r wire.Reported) bool { return r.Frozen && strings.Contains(complaints(r), "expired") }
	f.await("frozen", frozen)
	b.stop()
	f.down()
	b.start()
	b.serves("trial 1.0.0")
	f.listen(f.address)
	f.send(wire.ChannelDesired, f.envelope(wire.Desired{Fleet: f.name, Device: f.device, Generation: 2, Issued: time.Now().UTC().Truncate(time.Second), Releases: []wire.Pointer{two}}, f.director))
	f.await("still frozen", frozen)
	b.serves("trial 1.0.0")
	// Fresh metadata is all it takes: nothing is sent again.
	f.stamp(time.Now(), time.Now().Add(time.Hour))
	f.await("version 2 runs", func(r wire.Reported) bool { return !r.Frozen && r.Refused == nil && runs(r, two) })
}

func TestAConnectionThatBreaksIsNoRefusal(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", hello1, nil))
	two := f.push("2.0.0", hello2, nil)
	asked := make(chan struct{}, 1024)
	f.tamper = func(wire.Get, []wire.Frame) []wire.Frame { asked <- struct{}{}; return nil }
	f.desire(two)
	<-asked // it judges the desired state, and waits for metadata that does not come
	f.down()
	f.mu.Lock()
	f.tamper = nil
	f.mu.Unlock()
	eventually(t, "the board notices", func() bool { _, up := b.agent.link.Session(); return !up })
	b.serves("trial 1.0.0")
	f.listen(f.address) // a broker that retains nothing: the board remembers what it was told
	f.await("version 2 runs", func(r wire.Reported) bool {
		if r.Refused != nil {
			t.Errorf("reports a refusal: %s", r.Refused.Reason)
		}
		return runs(r, two)
	})
}

func TestDesiredStatesAreTakenInOrder(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	one, two := f.push("1.0.0", hello1, nil), f.push("2.0.0", hello2, nil)
	for range 50 {
		f.desire(two)
		f.desire(one)
	}
	f.await("the newest runs", func(r wire.Reported) bool {
		if r.Refused != nil {
			t.Errorf("reports a refusal: %s", r.Refused.Reason)
		}
		return r.Generation == 100 && runs(r, one)
	})
	b.serves("trial 1.0.0")
}

func TestAnApplicationThatIsNotDesiredIsRemoved(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	one := f.push("1.0.0", hello1, nil)
	other := f.push("1.0.0", counter, func(r *wire.Release) {
		counting(r)
		r.Application, r.Triggers.HTTP[0].Route = "other", "/count/..."
	})
	f.install(one, other)
	if got := b.get("/count"); !strings.HasPrefix(got, "{") {
		t.Fatalf("answers %q", got)
	}
	f.install(one)
	b.serves("trial 1.0.0")
	if got := b.get("/count"); !strings.HasPrefix(got, "404") {
		t.Errorf("answers %q", got)
	}
	eventually(t, "its content is dropped", func() bool {
		blobs, err := b.agent.store.Blobs()
		must(t, err)
		return len(blobs) == 1
	})
	b.stop()
	b.start()
	b.serves("trial 1.0.0")
	f.install()
	if got := b.get("/"); b.running() != "" || !strings.HasPrefix(got, "404") {
		t.Errorf("runs %q, answers %q", b.running(), got)
	}
}

// A fleet server tries only the first few bases that a board names.
func TestTheRunningVersionIsNamedFirstAsABase(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	boardOf(t, f)
	other := f.push("1.0.0", hello1, func(r *wire.Release) { r.Application, r.Triggers.HTTP[0].Route = "other", "/other" })
	f.install(other, f.push("1.0.0", counter, counting))
	f.install(other, f.push("1.1.0", counter2, counting))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.asked {
		if g.Offer != nil && g.Offer.Target == wire.Sum(counter2) {
			if len(g.Offer.Have) != 2 || g.Offer.Have[0] != wire.Sum(counter) {
				t.Errorf("it names %v, want %s first", g.Offer.Have, wire.Sum(counter))
			}
			return
		}
	}
	t.Error("no offer was asked for")
}

func TestTwoApplicationsCantServeTheSamePaths(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	route := func(name, pattern string) func(*wire.Release) {
		return func(r *wire.Release) {
			r.Application = name
			r.Triggers.HTTP = append(r.Triggers.HTTP[:0], wire.HTTPTrigger{ID: "it", Route: pattern, Component: "main"})
		}
	}
	one, two := f.push("1.0.0", hello1, nil), f.push("1.0.0", hello2, route("twin", "/.../"))
	f.install(one)
	f.desire(one, two)
	f.await("a complaint", func(r wire.Reported) bool {
		return strings.Contains(complaints(r), `"trial" already (trigger all)`)
	})
	b.serves("trial 1.0.0")
}

func TestFramesThatNobodyAskedForCostNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", hello1, nil))
	frame := wire.Frame{Kind: wire.FrameBlock, Total: 1 << 20, Encoding: wire.Sum(nil), Body: make([]byte, 8<<10)}
	for i := range uint32(3000) {
		frame.Request, frame.Index = i, i // some of these requests are under way, or will be
		payload, err := wire.MarshalFrame(frame)
		must(t, err)
		f.send(wire.ChannelBlock, payload)
	}
	b.serves("trial 1.0.0")
	f.install(f.push("2.0.0", hello2, nil))
	b.serves("trial 2.0.0")
}

func TestABrokerThatSaysNothingHoldsNothingUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", hello1, nil))
	b.stop()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	b.cfg.Fleet.URL = "mqtt://" + silent.Addr().String()
	b.start()
	defer (<-accepted).Close()
	b.serves("trial 1.0.0")
	b.stop() // fails when it takes longer than the tests' patience
}

func TestAMessageThatTheFleetCantTakeHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	if err := b.agent.store.Begin(app).Publish("uplink:readings", make([]byte, wire.MaxDataPayload+1), 1, false); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("publishing what no message to the fleet can hold: %v", err)
	}
	for _, topic := range []string{"uplink:a/#", "uplink:a"} { // the first is no topic; a handler is told so
		tx := b.agent.store.Begin(app)
		must(t, tx.Publish(topic, []byte("x"), 1, false))
		must(t, tx.Commit(context.Background()))
	}
	eventually(t, "the outbox is empty", func() bool { return len(b.agent.store.Lanes()) == 0 })
	if r := b.agent.outboxReport(); r.Dropped[store.DroppedRefused] != 1 {
		t.Errorf("reported: %+v", r)
	}
	if log := b.log.String(); !strings.Contains(log, "can't be sent and is dropped") {
		t.Error("the log does not say what was dropped")
	}
}
