package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// testFleet is everything that a board sees of a fleet: a broker, the people's and the server's keys, metadata, content. It plays
// honest or not, as the test says.
type testFleet struct {
	t            *testing.T
	name, device string

	root, release, snapshot, timestamp, director trust.Key

	mu         sync.Mutex
	roots      map[int64][]byte
	meta       map[trust.Role][]byte // newest of the other roles
	versions   map[trust.Role]int64
	manifests  map[wire.Digest][]byte
	blobs      map[wire.Digest][]byte
	offers     map[wire.Digest]offered
	tamper     func(wire.Get, []wire.Frame) []wire.Frame // nil: honest
	makeOffer  func(wire.OfferRequest) offered           // nil: in full, compressed by nothing
	generation uint64
	asked      []wire.Get

	broker  *mqtt.Server
	address string
	gets    chan wire.Get
	reports chan wire.Reported
	dones   chan wire.Done
}

type offered struct {
	offer   wire.Offer
	encoded []byte
}

func newFleet(t *testing.T) *testFleet {
	t.Helper()
	f := &testFleet{t: t, name: "farm", device: "hut", roots: map[int64][]byte{}, meta: map[trust.Role][]byte{}, versions: map[trust.Role]int64{},
		manifests: map[wire.Digest][]byte{}, blobs: map[wire.Digest][]byte{}, offers: map[wire.Digest]offered{},
		gets: make(chan wire.Get, 1024), reports: make(chan wire.Reported, 4096), dones: make(chan wire.Done, 1024)}
	for _, k := range []*trust.Key{&f.root, &f.release, &f.snapshot, &f.timestamp, &f.director} {
		*k = newKey(t)
	}
	f.reroot()
	targets, err := trust.RemoveReleases(nil, nil, time.Now().Add(24*time.Hour), f.release)
	must(t, err)
	f.meta[trust.Targets] = targets
	f.publish()
	f.listen("127.0.0.1:0")
	go f.answer()
	t.Cleanup(func() { f.down(); close(f.gets) })
	return f
}

// reroot makes the first root, for the name and the keys that f has.
func (f *testFleet) reroot() {
	f.t.Helper()
	root, err := trust.NewRoot(f.spec(), f.root)
	must(f.t, err)
	f.roots[1] = root
}

func newKey(t *testing.T) trust.Key {
	t.Helper()
	k, err := trust.GenerateKey()
	must(t, err)
	return k
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *testFleet) spec() trust.RootSpec {
	one := func(k trust.Key) trust.Signers { return trust.Signers{Keys: []trust.PublicKey{k.Public()}} }
	return trust.RootSpec{Fleet: f.name, Expires: time.Now().Add(365 * 24 * time.Hour), Root: one(f.root), Release: one(f.release),
		Snapshot: one(f.snapshot), Timestamp: one(f.timestamp), Director: one(f.director)}
}

func (f *testFleet) url() string { return "mqtt://" + f.address }

// write what an installer puts on a board.
func (f *testFleet) write(dir string) {
	f.t.Helper()
	must(f.t, os.WriteFile(filepath.Join(dir, "root.json"), f.roots[1], 0o600))
	must(f.t, os.WriteFile(filepath.Join(dir, "token"), []byte("let me in\n"), 0o600))
}

// listen starts the broker.
func (f *testFleet) listen(address string) {
	f.t.Helper()
	l, err := net.Listen("tcp", address)
	must(f.t, err)
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0
	f.address = l.Addr().String()
	f.mu.Lock()
	f.broker = mqtt.New(&mqtt.Options{InlineClient: true, Capabilities: caps, SysTopicResendInterval: math.MaxInt32, Logger: slog.New(slog.DiscardHandler)})
	f.mu.Unlock()
	must(f.t, f.broker.AddHook(&openDoor{}, nil))
	must(f.t, f.broker.AddListener(listeners.NewNet("fleet", l)))
	must(f.t, f.broker.Serve())
	gets, reports, dones := f.gets, f.reports, f.dones
	take := func(_ *mqtt.Client, _ packets.Subscription, p packets.Packet) {
		topic, err := wire.ParseTopic(p.TopicName)
		if err != nil {
			f.t.Errorf("the board publishes on %q: %v", p.TopicName, err)
			return
		}
		switch topic.Channel {
		case wire.ChannelGet:
			g, err := wire.UnmarshalGet(p.Payload)
			if err != nil {
				f.t.Errorf("the board asks %q: %v", p.Payload, err)
				return
			}
			gets <- g
		case wire.ChannelReported:
			r, err := wire.UnmarshalReported(p.Payload)
			if err != nil {
				f.t.Errorf("the board reports %q: %v", p.Payload, err)
				return
			}
			reports <- r
		case wire.ChannelDone:
			d, err := wire.UnmarshalDone(p.Payload)
			if err != nil {
				f.t.Errorf("the board answers %.200q: %v", p.Payload, err)
				return
			}
			dones <- d
		}
	}
	for i, filter := range wire.FleetFilters(f.name) {
		must(f.t, f.broker.Subscribe(filter, i+1, take))
	}
}

// openDoor lets everybody in: a fleet that plays false is not kept out of its own broker.
type openDoor struct{ mqtt.HookBase }

func (openDoor) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck || b == mqtt.OnConnect
}

// OnConnect: a board of a test is sooner than the broker in noticing that nothing comes.
func (openDoor) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	cl.State.Keepalive = min(cl.State.Keepalive, 1) * 60
	return nil
}

func (openDoor) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (openDoor) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }

// down ends the broker; listen with the same address brings another.
func (f *testFleet) down() {
	f.mu.Lock()
	broker := f.broker
	f.broker = nil
	f.mu.Unlock()
	if broker != nil {
		if err := broker.Close(); err != nil {
			f.t.Error(err)
		}
	}
}

func (f *testFleet) topic(ch wire.Channel) string {
	return wire.Topic{Fleet: f.name, Device: f.device, Channel: ch}.Format()
}

// send publishes to the board, as it is.
func (f *testFleet) send(ch wire.Channel, payload []byte) {
	f.t.Helper()
	must(f.t, f.broker.Publish(f.topic(ch), payload, ch == wire.ChannelDesired, 1))
}

// keep content that releases name.
func (f *testFleet) keep(component []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[wire.Sum(component)] = component
}

// push makes a release of one component and signs it.
func (f *testFleet) push(version string, component []byte, change func(*wire.Release)) wire.Pointer {
	f.t.Helper()
	return f.sign(version, component, change, f.release)
}

func (f *testFleet) sign(version string, component []byte, change func(*wire.Release), by trust.Key) wire.Pointer {
	f.t.Helper()
	r := wire.Release{Format: wire.ReleaseFormat, Application: app, Version: version,
		Components: map[string]wire.Component{"main": {Digest: wire.Sum(component), Size: int64(len(component)), Limits: wire.DefaultLimits()}},
		Triggers:   wire.Triggers{HTTP: []wire.HTTPTrigger{{ID: "all", Route: "/...", Component: "main"}}}}
	if change != nil {
		change(&r)
	}
	manifest, err := wire.MarshalRelease(r)
	must(f.t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.meta[trust.Targets], err = trust.AddRelease(f.meta[trust.Targets], manifest, time.Now().Add(24*time.Hour), by)
	must(f.t, err)
	digest := wire.Sum(manifest)
	f.manifests[digest], f.blobs[wire.Sum(component)] = manifest, component
	f.publishLocked()
	return wire.Pointer{Application: r.Application, Version: version, Release: digest, Target: trust.TargetPath(r.Application, version)}
}

func (f *testFleet) publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publishLocked()
}

// publishLocked signs a snapshot and a timestamp of the targets.
func (f *testFleet) publishLocked() {
	f.t.Helper()
	var err error
	f.versions[trust.Snapshot]++
	f.meta[trust.Snapshot], err = trust.NewSnapshot(f.meta[trust.Targets], f.versions[trust.Snapshot], time.Now().Add(24*time.Hour), f.snapshot)
	must(f.t, err)
	f.stampLocked(time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour))
}

func (f *testFleet) stampLocked(issued, expires time.Time) {
	f.t.Helper()
	var err error
	f.versions[trust.Timestamp]++
	f.meta[trust.Timestamp], err = trust.NewTimestamp(f.meta[trust.Snapshot], f.versions[trust.Timestamp], issued, expires, f.timestamp)
	must(f.t, err)
}

// stamp signs the snapshot again, for a span of time.
func (f *testFleet) stamp(issued, expires time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stampLocked(issued, expires)
}

// payload of the next generation.
func (f *testFleet) payload(releases ...wire.Pointer) wire.Desired {
	f.generation++
	slices.SortFunc(releases, func(a, b wire.Pointer) int { return strings.Compare(a.Application, b.Application) })
	return wire.Desired{Fleet: f.name, Device: f.device, Generation: f.generation, Issued: time.Now().UTC().Truncate(time.Second), Releases: releases}
}

func (f *testFleet) envelope(d wire.Desired, by trust.Key) []byte {
	f.t.Helper()
	b, err := wire.MarshalDesired(d)
	must(f.t, err)
	e, err := trust.SignDesired(b, by)
	must(f.t, err)
	return e
}

// desire sends the next generation, properly signed.
func (f *testFleet) desire(releases ...wire.Pointer) {
	f.t.Helper()
	f.send(wire.ChannelDesired, f.envelope(f.payload(releases...), f.director))
}

// install has the board run these releases, and waits until it says so.
func (f *testFleet) install(releases ...wire.Pointer) {
	f.t.Helper()
	f.desire(releases...)
	f.await(fmt.Sprintf("run generation %d", f.generation), func(r wire.Reported) bool {
		return r.Generation == f.generation && runs(r, releases...)
	})
}

// runs says whether a report names just these releases, all running.
func runs(r wire.Reported, releases ...wire.Pointer) bool {
	want := map[string]wire.Digest{}
	for _, p := range releases {
		want[p.Application] = p.Release
	}
	got := map[string]wire.Digest{}
	for _, a := range r.Apps {
		if a.Phase != wire.PhaseRunning {
			return false
		}
		got[a.Application] = a.Release
	}
	return maps.Equal(want, got)
}

// await the first report that says what is waited for.
func (f *testFleet) await(what string, ok func(wire.Reported) bool) wire.Reported {
	f.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	var last wire.Reported
	for {
		select {
		case last = <-f.reports:
			if ok(last) {
				return last
			}
		case <-deadline.C:
			f.t.Fatalf("no report says: %s; the last one says %+v, refused %+v", what, last, last.Refused)
		}
	}
}

// complaints are all that a report says against what was desired.
func complaints(r wire.Reported) string {
	var out []string
	if r.Refused != nil {
		out = append(out, r.Refused.Reason)
	}
	for _, a := range r.Apps {
		if a.Error != "" {
			out = append(out, a.Error)
		}
	}
	return strings.Join(out, "; ")
}

// answer is the content server.
func (f *testFleet) answer() {
	for g := range f.gets {
		f.mu.Lock()
		f.asked = append(f.asked, g)
		frames := f.frames(g)
		if f.tamper != nil {
			frames = f.tamper(g, frames)
		}
		broker := f.broker
		f.mu.Unlock()
		if broker == nil {
			continue // nobody is owed an answer then
		}
		for _, frame := range frames {
			b, err := wire.MarshalFrame(frame)
			if err != nil {
				f.t.Error(err)
				continue
			}
			// The broker may be gone.
			if err := broker.Publish(f.topic(wire.ChannelBlock), b, false, 0); err != nil && !errors.Is(err, io.EOF) {
				f.t.Logf("answer: %v", err)
			}
		}
	}
}

func (f *testFleet) frames(g wire.Get) []wire.Frame {
	split := func(kind wire.FrameKind, b []byte) []wire.Frame {
		if b == nil {
			return []wire.Frame{wire.ErrorFrame(g.Request, wire.CodeNotFound, "there is none")}
		}
		frames, err := wire.Split(kind, g.Request, b)
		if err != nil {
			f.t.Error(err)
		}
		return frames
	}
	switch {
	case g.Meta != nil && g.Meta.Role == wire.RoleRelease:
		return split(wire.FrameMeta, f.manifests[*g.Meta.Digest])
	case g.Meta != nil && g.Meta.Role == wire.RoleRoot:
		return split(wire.FrameMeta, f.roots[g.Meta.Version])
	case g.Meta != nil:
		return split(wire.FrameMeta, f.meta[trust.Role(g.Meta.Role)])
	case g.Offer != nil:
		o := f.offer(*g.Offer)
		b, err := wire.MarshalOffer(o.offer)
		if err != nil {
			f.t.Error(err)
		}
		f.offers[o.offer.ID()] = o
		return split(wire.FrameOffer, b)
	}
	o, ok := f.offers[g.Blocks.Encoding]
	if !ok {
		return []wire.Frame{wire.ErrorFrame(g.Request, wire.CodeUnknownEncoding, "never heard of it")}
	}
	var frames []wire.Frame
	for _, r := range g.Blocks.Ranges {
		for i := r.First; i < r.First+r.Count; i++ {
			at := int(i) * o.offer.BlockBytes
			frames = append(frames, wire.Frame{Kind: wire.FrameBlock, Request: g.Request, Index: i, Total: uint32(len(o.offer.Blocks)),
				Encoding: g.Blocks.Encoding, Body: o.encoded[at : at+o.offer.BlockLen(i)]})
		}
	}
	return frames
}

func (f *testFleet) offer(r wire.OfferRequest) offered {
	if f.makeOffer != nil {
		return f.makeOffer(r)
	}
	return makeOffer(f.t, wire.EncodingRaw, r, wire.Digest{}, f.blobs[r.Target])
}

func makeOffer(t *testing.T, kind wire.EncodingKind, r wire.OfferRequest, base wire.Digest, encoded []byte) offered {
	o, err := wire.NewOffer(kind, r.Target, r.Size, base, encoded, r.BlockBytes)
	if err != nil {
		t.Error(err)
	}
	return offered{o, encoded}
}
