package agent

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"

	"dunlin.dev/dunlin/fleet/wire"
)

// fault of a way to a server.
type fault int

const (
	none     fault = iota
	absent         // nobody is there: connections are reset
	silent         // connections are taken, and nothing comes back
	halfOpen       // the same, and those that were there stay, with nothing told to either side
)

var faults = []string{"none", "absent", "silent", "half-open"}

// door is the way to a server, with a fault or without.
type door struct {
	l      net.Listener
	target string

	mu    sync.Mutex
	fault fault
	conns map[net.Conn]bool // both sides of each; those that are silent go nowhere
	dead  map[net.Conn]bool // and never will
}

func newDoor(t *testing.T, target string) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	d := &door{l: l, target: target, conns: map[net.Conn]bool{}, dead: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); d.set(absent) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go d.pass(c)
		}
	}()
	return d
}

func (d *door) url() string { return "mqtt://" + d.l.Addr().String() }

// set the fault from now on.
func (d *door) set(f fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
	for c := range d.conns {
		switch f {
		case absent, silent: // the server was started anew, or is another one
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
			delete(d.conns, c)
		case halfOpen:
			d.dead[c] = true
		}
	}
}

// pass bytes between c and the target while nothing is wrong.
func (d *door) pass(c net.Conn) {
	d.mu.Lock()
	f := d.fault
	if f == absent {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
		d.mu.Unlock()
		return
	}
	d.conns[c] = true
	d.dead[c] = f != none
	d.mu.Unlock()
	if f != none {
		return // whoever dialled gives up, or never knows
	}
	to, err := net.Dial("tcp", d.target)
	if err != nil {
		c.Close()
		return
	}
	d.mu.Lock()
	d.conns[to] = true
	d.mu.Unlock()
	go d.copy(to, c)
	d.copy(c, to)
}

func (d *door) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		d.mu.Lock()
		dead := d.dead[from] || d.dead[to]
		d.mu.Unlock()
		if dead {
			_, _ = io.Copy(io.Discard, from) // until its side gives up; the other hears nothing of it
			return
		}
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			to.Close()
			return
		}
	}
}

// outsideBroker is a real one on loopback.
func outsideBroker(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0
	s := mqtt.New(&mqtt.Options{Capabilities: caps, SysTopicResendInterval: math.MaxInt32, Logger: slog.New(slog.DiscardHandler)})
	must(t, s.AddHook(&openDoor{}, nil))
	must(t, s.AddListener(listeners.NewNet("bus", l)))
	must(t, s.Serve())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// linked is a board whose fleet and whose bus lie behind a door each.
type linked struct {
	*board
	f          *testFleet
	fleet, out *door
	sensor     paho.Client // past the door
	sent       int
}

func newLinked(t *testing.T) *linked {
	t.Helper()
	f := newFleet(t)
	broker := outsideBroker(t)
	l := &linked{f: f, fleet: newDoor(t, f.address), out: newDoor(t, broker)}
	l.board = boardIn(t, f, t.TempDir(), func(c *Config) {
		c.Fleet.URL, c.Bus, c.keepAlive = l.fleet.url(), Bus{URL: l.out.url()}, time.Second
	})
	f.install(f.push("1.0.0", counter, func(r *wire.Release) {
		counting(r)
		r.Triggers.MQTT[0].QoS = 2
		r.Triggers.HTTP[0].Route = "/count"
	}))
	l.sensor = paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + broker).SetClientID("sensor"))
	if tok := l.sensor.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	t.Cleanup(func() { l.sensor.Disconnect(0) })
	l.works(true, true)
	return l
}

// publish a message to the outside broker, which has it for the board.
func (l *linked) publish() {
	l.t.Helper()
	if tok := l.sensor.Publish("in/a", 2, false, "x"); !tok.WaitTimeout(patience) || tok.Error() != nil {
		l.t.Fatalf("publish: %v", tok.Error())
	}
	l.sent++
}

// works says that what should does: HTTP always, the bus and the fleet where there is no fault.
func (l *linked) works(bus, fleet bool) {
	l.t.Helper()
	if got := l.get("/count"); !strings.Contains(got, `"mqtt":`) {
		l.t.Errorf("answers %q", got)
	}
	l.publish()
	if bus {
		want := fmt.Sprintf(`"mqtt":%d,`, l.sent)
		eventually(l.t, "the handler has every message once: "+want, func() bool { return strings.Contains(l.get("/count"), want) })
	}
	if fleet {
		for len(l.f.reports) > 0 {
			<-l.f.reports
		}
		l.agent.report()
		l.f.await("a report comes", func(wire.Reported) bool { return true })
	}
}

// Each link fails in each way, at boot or later, and comes back by itself; the other one, and HTTP, don't notice.
func TestEachLinkFailsAndReturnsByItselfInEachWay(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"fleet", "bus"} {
		for f := absent; f <= halfOpen; f++ {
			for _, when := range []string{"at boot", "later"} {
				if f == halfOpen && when == "at boot" {
					continue // there is nothing yet that could be
				}
				t.Run(fmt.Sprintf("%s %s %s", which, faults[f], when), func(t *testing.T) {
					t.Parallel()
					l := newLinked(t)
					d, bus := l.fleet, true
					if which == "bus" {
						d, bus = l.out, false
					}
					if when == "at boot" {
						l.stop()
						d.set(f)
						l.board.start()
					} else {
						d.set(f)
					}
					l.works(bus, !bus)
					l.works(bus, !bus)
					d.set(none)
					l.works(true, true)
				})
			}
		}
	}
}

// In any order, both at once too, with the agent started anew meanwhile: every message takes effect once.
func TestLinksThatFailInAnyOrderLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 4))
			l := newLinked(t)
			for range 12 {
				switch which := random.IntN(5); which {
				case 0:
					l.stop()
					l.board.start()
				case 1, 2:
					l.fleet.set(fault(random.IntN(len(faults))))
				default:
					l.out.set(fault(random.IntN(len(faults))))
				}
				l.works(false, false)
				<-time.After(time.Duration(random.IntN(600)) * time.Millisecond)
			}
			l.fleet.set(none)
			l.out.set(none)
			l.works(true, true)
		})
	}
}

// The own bus, whose port is another program's at boot: the rest works meanwhile, and it comes by itself when the port is free.
func TestTheOwnBusComesWhenItsPortIsFree(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", counter, func(r *wire.Release) {
		counting(r)
		r.Triggers.HTTP[0].Route = "/count"
	}))
	b.stop()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	b.cfg.Bus.Listen, b.cfg.Listen = taken.Addr().String(), b.http
	freed := make(chan error, 1)
	go func() {
		for !strings.Contains(b.get("/.well-known/dunlin/health"), `"mqtt":"degraded: `) || !strings.Contains(b.get("/count"), `"mqtt":0,`) {
			<-time.After(5 * time.Millisecond)
		}
		freed <- taken.Close()
	}()
	b.start() // until all that is to listen does
	must(t, <-freed)
	sensor := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + b.bus).SetClientID("sensor"))
	if tok := sensor.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer sensor.Disconnect(0)
	if tok := sensor.Publish("in/a", 1, false, "x"); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	eventually(t, "the message is counted", func() bool { return strings.Contains(b.get("/count"), `"mqtt":1,`) })
}
