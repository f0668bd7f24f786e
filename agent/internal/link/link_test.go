package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/fleet/wire"
)

const patience = 20 * time.Second

// peer is the far side: a real broker, and a content server that loses, repeats and reorders frames as a seeded dice says.
type peer struct {
	t      *testing.T
	broker *mqtt.Server
	url    string
	gets   chan wire.Get
	hellos chan wire.Hello
	states chan wire.State

	mu       sync.Mutex
	dice     *rand.Rand // nil: a perfect network
	target   []byte
	offers   map[wire.Digest]wire.Offer
	offered  int
	blocks   map[uint32]int // sent, by index
	forget   bool           // the next request for blocks is of an encoding that is forgotten
	silent   bool
	withheld bool // the last block of each offer is never sent
}

type openDoor struct{ mqtt.HookBase }

func (openDoor) Provides(b byte) bool                                    { return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck }
func (openDoor) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (openDoor) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newPeer(t *testing.T, target []byte) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &peer{t: t, url: "mqtt://" + l.Addr().String(), target: target, offers: map[wire.Digest]wire.Offer{}, blocks: map[uint32]int{},
		gets: make(chan wire.Get, 256), hellos: make(chan wire.Hello, 16), states: make(chan wire.State, 16)}
	p.broker = mqtt.New(&mqtt.Options{InlineClient: true, SysTopicResendInterval: math.MaxInt32, Logger: slog.New(slog.DiscardHandler)})
	must(t, p.broker.AddHook(&openDoor{}, nil))
	must(t, p.broker.AddListener(listeners.NewNet("fleet", l)))
	must(t, p.broker.Serve())
	for i, filter := range wire.FleetFilters("farm") {
		must(t, p.broker.Subscribe(filter, i+1, p.take))
	}
	go func() {
		for g := range p.gets {
			p.answer(g)
		}
	}()
	t.Cleanup(func() {
		if err := p.broker.Close(); err != nil {
			t.Error(err)
		}
		close(p.gets)
	})
	return p
}

func (p *peer) take(_ *mqtt.Client, _ packets.Subscription, m packets.Packet) {
	topic, err := wire.ParseTopic(m.TopicName)
	if err == nil {
		switch topic.Channel {
		case wire.ChannelGet:
			var g wire.Get
			if g, err = wire.UnmarshalGet(m.Payload); err == nil {
				p.gets <- g
			}
		case wire.ChannelHello:
			var h wire.Hello
			if h, err = wire.UnmarshalHello(m.Payload); err == nil {
				p.hellos <- h
			}
		case wire.ChannelState:
			var s wire.State
			if s, err = wire.UnmarshalState(m.Payload); err == nil {
				p.states <- s
			}
		}
	}
	if err != nil {
		p.t.Errorf("the board sends %q: %v", m.TopicName, err)
	}
}

func (p *peer) send(ch wire.Channel, payload []byte) {
	if err := p.broker.Publish(wire.Topic{Fleet: "farm", Device: "hut", Channel: ch}.Format(), payload, false, 0); err != nil {
		p.t.Error(err)
	}
}

func (p *peer) answer(g wire.Get) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent {
		return
	}
	var frames []wire.Frame
	switch {
	case g.Offer != nil:
		p.offered++
		o, err := wire.NewOffer(wire.EncodingRaw, wire.Sum(p.target), int64(len(p.target)), wire.Digest{}, p.target, wire.MinBlockBytes<<(p.offered%2))
		if err != nil {
			p.t.Error(err)
		}
		p.offers[o.ID()] = o
		b, err := wire.MarshalOffer(o)
		if err != nil {
			p.t.Error(err)
		}
		if frames, err = wire.Split(wire.FrameOffer, g.Request, b); err != nil {
			p.t.Error(err)
		}
	case g.Blocks != nil && p.forget:
		p.forget = false
		p.offers = map[wire.Digest]wire.Offer{}
		frames = []wire.Frame{wire.ErrorFrame(g.Request, wire.CodeUnknownEncoding, "restarted")}
	case g.Blocks != nil:
		o := p.offers[g.Blocks.Encoding]
		for _, r := range g.Blocks.Ranges {
			for i := r.First; i < r.First+r.Count; i++ {
				p.blocks[i]++
				at := int(i) * o.BlockBytes
				frames = append(frames, wire.Frame{Kind: wire.FrameBlock, Request: g.Request, Index: i, Total: uint32(len(o.Blocks)),
					Encoding: g.Blocks.Encoding, Body: p.target[at : at+o.BlockLen(i)]})
			}
		}
		if p.withheld {
			frames = slices.DeleteFunc(frames, func(f wire.Frame) bool { return f.Index+1 == f.Total })
		}
		if p.dice != nil {
			p.dice.Shuffle(len(frames), func(i, k int) { frames[i], frames[k] = frames[k], frames[i] })
			for i := range frames {
				if p.dice.IntN(5) == 0 {
					frames = append(frames, frames[i])
				}
			}
			frames = slices.DeleteFunc(frames, func(wire.Frame) bool { return p.dice.IntN(5) == 0 })
		}
	}
	for _, f := range frames {
		b, err := wire.MarshalFrame(f)
		if err != nil {
			p.t.Error(err)
		}
		p.send(wire.ChannelBlock, b)
	}
}

// dial gives a link that is up, and what ends it.
func (p *peer) dial(silence time.Duration, onDesired func([]byte)) (l *Link, hang func()) {
	p.t.Helper()
	up := make(chan struct{}, 16)
	l = New(Config{URL: p.url, Fleet: "farm", Device: "hut", Token: "let me in", Silence: silence,
		Hello: func(session string) wire.Hello {
			return wire.Hello{Version: wire.Version, Session: session, Agent: "1", Arch: "amd64", Boot: "b"}
		},
		OnUp: func() { up <- struct{}{} }, OnDesired: onDesired, OnDo: func(Request) {},
	}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	hang = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			p.t.Errorf("run ends with %v", err)
		}
	})
	p.t.Cleanup(hang)
	select {
	case <-up:
	case <-time.After(patience):
		p.t.Fatal("the link does not come up")
	}
	return l, hang
}

// insist fetches as a manager does: a silent fleet is asked again, so that a busy machine decides nothing here.
func (p *peer) insist(l *Link, s *store.Store, progress func(done, total int64)) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := l.Fetch(p.t.Context(), s, wire.Sum(p.target), int64(len(p.target)), nil, progress)
		if err == nil {
			return
		}
		if !Silent(err) || time.Now().After(deadline) {
			p.t.Fatal(err)
		}
	}
}

func next[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nothing comes")
	}
	return v
}

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(7, 7))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func check(t *testing.T, s *store.Store, target []byte) {
	t.Helper()
	got, ok, err := s.Blob(wire.Sum(target).String())
	if err != nil || !ok || !bytes.Equal(got, target) {
		t.Errorf("the blob has %d bytes, %v, %v", len(got), ok, err)
	}
	if left, err := s.Transfers(); err != nil || len(left) != 0 {
		t.Errorf("transfers are left: %v, %v", left, err)
	}
}

// A transfer is cut off after each possible block, on a network that loses, repeats and reorders; what was kept isn't asked again.
func TestATransferGoesOnAfterACutAtAnyBlock(t *testing.T) {
	t.Parallel()
	target := content(23*wire.MinBlockBytes + 5)
	p := newPeer(t, target)
	l, _ := p.dial(20*time.Millisecond, func([]byte) {})
	for cut := int64(0); cut <= int64(len(target)); cut += 2 * wire.MinBlockBytes {
		s := storetest.Open(t)
		p.mu.Lock()
		p.dice = rand.New(rand.NewPCG(uint64(cut), 1))
		p.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		err := l.Fetch(ctx, s, wire.Sum(target), int64(len(target)), nil, func(done, total int64) {
			if done >= cut {
				cancel()
			}
		})
		if err != nil && !errors.Is(err, context.Canceled) && !Silent(err) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		kept := map[uint32]bool{}
		if tr, ok, err := s.Transfer(wire.Sum(target).String()); err != nil {
			t.Fatal(err)
		} else if ok {
			for _, i := range tr.Have {
				kept[uint32(i)] = true
			}
		}
		finished, err := s.HasBlob(wire.Sum(target).String())
		must(t, err)
		p.mu.Lock()
		p.dice, p.blocks = nil, map[uint32]int{}
		offers := p.offered
		p.mu.Unlock()
		if finished {
			continue
		}
		p.insist(l, s, func(int64, int64) {})
		check(t, s, target)
		p.mu.Lock()
		for i := range kept {
			if p.blocks[i] != 0 {
				t.Errorf("cut at %d: block %d was kept and is asked for again", cut, i)
			}
		}
		if len(kept) > 0 && p.offered != offers {
			t.Errorf("cut at %d: a new offer is asked for", cut)
		}
		p.mu.Unlock()
	}
}

func TestLostFramesAreAskedForAgain(t *testing.T) {
	t.Parallel()
	target := content(40 * wire.MinBlockBytes)
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := newPeer(t, target)
			p.dice = rand.New(rand.NewPCG(seed, 2))
			l, _ := p.dial(20*time.Millisecond, func([]byte) {})
			s := storetest.Open(t)
			var last int64
			p.insist(l, s, func(done, total int64) {
				if done < last || done > total || total != int64(len(target)) {
					t.Errorf("progress goes from %d to %d of %d", last, done, total)
				}
				last = done
			})
			if last != int64(len(target)) {
				t.Errorf("progress ends at %d", last)
			}
			check(t, s, target)
		})
	}
}

func TestAForgottenEncodingIsOfferedAnew(t *testing.T) {
	t.Parallel()
	target := content(20 * wire.MinBlockBytes)
	p := newPeer(t, target)
	p.withheld = true // so that it can't end before it is cut
	l, _ := p.dial(20*time.Millisecond, func([]byte) {})
	s := storetest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := l.Fetch(ctx, s, wire.Sum(target), int64(len(target)), nil, func(done, _ int64) {
		if done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.forget, p.withheld = true, false
	p.mu.Unlock()
	p.insist(l, s, func(int64, int64) {})
	check(t, s, target)
	if p.offered != 2 {
		t.Errorf("offered %d times, want twice", p.offered)
	}
}

func TestAFleetThatSaysNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	p := newPeer(t, content(wire.MinBlockBytes))
	p.silent = true
	l, hang := p.dial(20*time.Millisecond, func([]byte) {})
	s := storetest.Open(t)
	err := l.Fetch(t.Context(), s, wire.Sum(p.target), int64(len(p.target)), nil, func(int64, int64) {})
	if !Silent(err) || !strings.Contains(err.Error(), "nothing came for 20ms") {
		t.Errorf("got %v", err)
	}
	if _, err := l.Meta(t.Context(), wire.RoleTimestamp, 0, 1000); !Silent(err) || !strings.Contains(err.Error(), "fetch timestamp metadata") {
		t.Errorf("got %v", err)
	}
	l.mu.Lock()
	if len(l.pending) != 0 {
		t.Errorf("%d requests are not forgotten", len(l.pending))
	}
	l.mu.Unlock()
	hang()
	if _, err := l.Release(t.Context(), wire.Sum(nil)); !errors.Is(err, ErrDown) {
		t.Errorf("without a link: %v", err)
	}
	if err := l.Report(t.Context(), wire.Reported{Session: "s", At: time.Now().UTC(), Clock: wire.ClockSynced}); !errors.Is(err, ErrDown) {
		t.Errorf("without a link: %v", err)
	}
}

func TestALinkThatBreaksFailsWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	p := newPeer(t, content(wire.MinBlockBytes))
	p.silent = true
	l, _ := p.dial(time.Hour, func([]byte) {})
	failed := make(chan error, 1)
	go func() {
		_, err := l.Meta(t.Context(), wire.RoleTimestamp, 0, 1000)
		failed <- err
	}()
	deadline := time.After(patience)
	for waiting := false; !waiting; {
		select {
		case <-deadline:
			t.Fatal("nothing waits")
		default:
			l.mu.Lock()
			waiting = len(l.pending) == 1
			l.mu.Unlock()
		}
	}
	for _, cl := range p.broker.Clients.GetAll() {
		if !cl.Net.Inline {
			cl.Stop(errors.New("cut"))
		}
	}
	if err := next(t, failed); !errors.Is(err, ErrDown) {
		t.Errorf("got %v", err)
	}
}

// The sessions of hello, state and last will tie what is said to one connection.
func TestEachConnectionSaysHelloUnderASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil)
	_, hang := p.dial(time.Second, func([]byte) {})
	first, online := next(t, p.hellos), next(t, p.states)
	if !online.Online || online.Session != first.Session {
		t.Errorf("hello %s, then state %+v", first.Session, online)
	}
	for _, cl := range p.broker.Clients.GetAll() {
		if !cl.Net.Inline {
			cl.Stop(errors.New("cut"))
		}
	}
	if will := next(t, p.states); will.Online || will.Session != first.Session {
		t.Errorf("the last will is %+v, of session %s", will, first.Session)
	}
	second := next(t, p.hellos)
	if second.Session == first.Session {
		t.Error("the second connection has the same session")
	}
	next(t, p.states)
	hang()
	if bye := next(t, p.states); bye.Online || bye.Session != second.Session {
		t.Errorf("the goodbye is %+v, of session %s", bye, second.Session)
	}
}

func TestDesiredStatesArriveInTheirOrder(t *testing.T) {
	t.Parallel()
	p := newPeer(t, nil)
	const n = 500
	got := make(chan string, n)
	p.dial(time.Second, func(b []byte) { got <- string(b) })
	for i := range n {
		p.send(wire.ChannelDesired, fmt.Append(nil, i))
		p.send(wire.ChannelBlock, []byte("no frame"))
		p.send(wire.ChannelDo, []byte("nothing that is known"))
	}
	for i := range n {
		if s := next(t, got); s != fmt.Sprint(i) {
			t.Fatalf("after %d comes %s", i-1, s)
		}
	}
}

func TestWhatIsTooLargeForTheStoreIsNotFetched(t *testing.T) {
	t.Parallel()
	l := New(Config{}, slog.New(slog.DiscardHandler))
	err := l.Fetch(t.Context(), storetest.Open(t), wire.Sum(nil), store.MaxBlob+1, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "a board stores at most") {
		t.Errorf("got %v", err)
	}
}
