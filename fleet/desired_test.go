package fleet_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// The whole way: what a person signed is what a board verifies, over MQTT alone.
func TestAssignedReleaseVerifiesOnTheBoard(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	component := []byte("a component")
	o.publish(s, "1.0.0", component)
	b := connect(t, s, "board", nil)
	a := o.assign(s, "1.0.0", model.Selector{All: true})
	if len(a.Devices) != 1 || a.Devices[0].Generation != 1 || !a.Devices[0].Online {
		t.Fatalf("assigned %+v", a)
	}
	v, err := b.refresh(o.rootJSON, trust.State{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := v.Desired(receive(t, b.desired), "board")
	if err != nil {
		t.Fatal(err)
	}
	digest := wire.Digest(d.Releases[0].Digest)
	m, err := b.answer(wire.Get{Request: 50, Meta: &wire.MetaRequest{Role: wire.RoleRelease, Digest: &digest}}, wire.FrameMeta)
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.Release(d.Releases[0].Target, m)
	if err != nil {
		t.Fatal(err)
	}
	if r.Application() != "greenhouse" || r.Version() != "1.0.0" || r.Components()["climate"].Digest != trust.Digest(wire.Sum(component)) {
		t.Errorf("verified %s %s %v", r.Application(), r.Version(), r.Components())
	}
	// Another board's desired state is not for this one.
	connect(t, s, "other", nil)
	if _, err := v.Desired(envelope(t, s, "other"), "board"); !errors.Is(err, trust.WrongDevice) {
		t.Errorf("another board's desired state: %v, want %v", err, trust.WrongDevice)
	}
}

// envelope gives what is retained for a board.
func envelope(t *testing.T, s server, name string) []byte {
	t.Helper()
	got := make(chan []byte, 8)
	c := mqtt.NewClient(options(s, name))
	must(t, c.Connect())
	defer c.Disconnect(0)
	must(t, c.Subscribe(topic(name, wire.ChannelDesired), 1, func(_ mqtt.Client, m mqtt.Message) { got <- m.Payload() }))
	return receive(t, got)
}

func TestAssignmentsReachBoardsThatJoinLater(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	for _, v := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		o.publish(s, v, []byte("component "+v))
	}
	o.assign(s, "1.0.0", model.Selector{All: true})
	o.assign(s, "2.0.0", model.Selector{Labels: map[string]string{"site": "north"}})
	o.assign(s, "3.0.0", model.Selector{Device: "named"})
	for name, c := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"plain": {nil, "1.0.0"},
		"north": {map[string]string{"site": "north", "room": "4"}, "2.0.0"},
		"south": {map[string]string{"site": "south"}, "1.0.0"},
		"named": {map[string]string{"site": "north"}, "3.0.0"},
	} {
		b := connect(t, s, name, c.labels)
		receive(t, b.desired)
		d, err := s.client().Device(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Applications) != 1 || d.Applications[0].Desired != c.want || d.Generation.Desired != 1 {
			t.Errorf("%s: %+v, want %s in generation 1", name, d.Applications, c.want)
		}
	}
	// A label that goes away takes nothing away.
	connect(t, s, "north", nil)
	if d, err := s.client().Device(t.Context(), "north"); err != nil || d.Applications[0].Desired != "2.0.0" || d.Generation.Desired != 1 {
		t.Errorf("without its label: %+v, %v", d, err)
	}
}

func TestDesiredStateSurvivesKillOfTheServer(t *testing.T) {
	dir := t.TempDir()
	s, kill := process(t, dir, "127.0.0.1:0", "127.0.0.1:0")
	o := found(t, s)
	o.publish(s, "1.0.0", []byte("one"))
	b := connect(t, s, "board", nil)
	o.assign(s, "1.0.0", model.Selector{All: true})
	first := receive(t, b.desired)
	kill()
	b.c.Disconnect(0)
	s, kill = process(t, dir, s.http, s.mqtt)
	b = connect(t, s, "board", nil)
	if again := receive(t, b.desired); !bytes.Equal(again, first) {
		t.Errorf("after the kill the board gets other bytes:\n%s\n%s", first, again)
	}
	o.publish(s, "1.0.1", []byte("two"))
	if a := o.assign(s, "1.0.1", model.Selector{All: true}); a.Devices[0].Generation != 2 {
		t.Errorf("generation %d after the kill, want 2", a.Devices[0].Generation)
	}
	// What was answered before the kill is there after it.
	kill()
	s, _ = process(t, dir, s.http, s.mqtt)
	if d, err := s.client().Device(t.Context(), "board"); err != nil || d.Generation.Desired != 2 {
		t.Errorf("after the second kill: %+v, %v", d, err)
	}
	envelope2 := envelope(t, s, "board")
	if bytes.Equal(envelope2, first) {
		t.Error("the old desired state is back")
	}
}

// The old connection is cut and its last will arrives when the new one has said hello: the board stays online.
func TestStaleWillDoesNotPutABoardOffline(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	old := connect(t, s, "board", nil)
	now := connect(t, s, "board", nil) // takes over: the broker sends the old will
	if err := receive(t, old.lost); err == nil {
		t.Error("the old connection ended politely: no will")
	}
	must(t, now.c.Publish(topic("board", wire.ChannelState), 1, true, old.state(false)))
	if d, err := s.client().Device(t.Context(), "board"); err != nil || !d.Online {
		t.Fatalf("online %v, %v after an old session's will", d.Online, err)
	}
	// Its own will counts.
	must(t, now.c.Publish(topic("board", wire.ChannelState), 1, true, now.state(false)))
	if d, err := s.client().Device(t.Context(), "board"); err != nil || d.Online {
		t.Errorf("online %v, %v after the session's own", d.Online, err)
	}
}

func TestBoardWhoseConnectionEndsIsOffline(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	b := connect(t, s, "board", nil)
	s.eventually("board", "the board is online", func(d model.Device) bool { return d.Online })
	b.c.Disconnect(0)
	s.eventually("board", "the board is offline", func(d model.Device) bool { return !d.Online })
}

// Takeovers race with the ends of the connections that they replace: the newest must win each time.
func TestBoardThatReconnectsOverAndOverIsStillReached(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	for _, v := range []string{"1.0.0", "2.0.0"} {
		o.publish(s, v, []byte(v))
	}
	for i := range 20 {
		var b *board
		for range 3 {
			b = connect(t, s, "board", nil)
		}
		for len(b.desired) > 0 {
			<-b.desired // retained
		}
		a := o.assign(s, []string{"1.0.0", "2.0.0"}[i%2], model.Selector{All: true})
		if !a.Devices[0].Online {
			t.Fatalf("round %d: the board is offline", i)
		}
		for generation(t, receive(t, b.desired)) != a.Devices[0].Generation {
			continue // the retained one, late
		}
	}
}

func generation(t *testing.T, envelope []byte) uint64 {
	t.Helper()
	var e struct{ Payload []byte }
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	d, err := wire.UnmarshalDesired(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return d.Generation
}

func TestBoardsBeyondTheLimitAreRefused(t *testing.T) {
	s := start(t, fleet.Config{MaxDevices: 2})
	found(t, s)
	connect(t, s, "one", nil)
	connect(t, s, "two", nil)
	if token := mqtt.NewClient(options(s, "three")).Connect(); !token.WaitTimeout(patience) || token.Error() == nil {
		t.Error("a third was let in")
	}
	connect(t, s, "one", nil) // known ones come back
}

func TestReportsAreTakenInOrder(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	o.publish(s, "1.0.0", []byte("one"))
	b := connect(t, s, "board", nil)
	app := func(phase wire.Phase) []wire.AppReport {
		return []wire.AppReport{{Application: "greenhouse", Version: "1.0.0", Phase: phase}}
	}
	b.sequence = 10
	b.report(wire.Reported{Apps: app(wire.PhaseRunning)})
	b.sequence = 3
	b.report(wire.Reported{Apps: app(wire.PhaseFetching)}) // stale
	d, err := s.client().Device(t.Context(), "board")
	if err != nil || len(d.Applications) != 1 || d.Applications[0].Phase != wire.PhaseRunning {
		t.Errorf("%+v, %v; want the newer report's phase", d.Applications, err)
	}
}

// A server whose database is a backup knows less than a board: it signs above what the board has seen.
func TestGenerationGrowsPastARestoredBackup(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	o.publish(s, "1.0.0", []byte("one"))
	b := connect(t, s, "board", nil)
	o.assign(s, "1.0.0", model.Selector{All: true})
	receive(t, b.desired)
	b.report(wire.Reported{Generation: 41})
	receive(t, b.desired)
	if d, err := s.client().Device(t.Context(), "board"); err != nil || d.Generation.Desired != 42 {
		t.Errorf("generation %+v, %v; want 42", d.Generation, err)
	}
	b.report(wire.Reported{Generation: 1<<64 - 1}) // a board that lies harms nobody
	if d, err := s.client().Device(t.Context(), "board"); err != nil || d.Generation.Desired != 42 {
		t.Errorf("generation %+v, %v; want 42 still", d.Generation, err)
	}
}

// What a device would refuse, the server refuses before any device sees it.
func TestReleasesThatAreRefused(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	o.publish(s, "1.0.0", []byte("one"))
	upload(t, s, []byte("two"))
	good := manifest(t, "1.1.0", []byte("two"))
	add := func(old, m []byte, expires time.Time, k trust.Key) []byte {
		b, err := trust.AddRelease(old, m, expires, k)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	hour := time.Now().Add(time.Hour)
	signed := add(o.targets, good, hour, o.release)
	first, err := trust.RemoveReleases(nil, nil, hour, o.release)
	if err != nil {
		t.Fatal(err)
	}
	missing := manifest(t, "1.1.0", []byte("not uploaded"))
	for name, c := range map[string]struct {
		manifest, targets []byte
		code              int
	}{
		"signed by another key":         {good, add(o.targets, good, hour, key(t)), 422},
		"signed by the root key":        {good, add(o.targets, good, hour, o.root), 422},
		"one bit flipped":               {good, bytes.Replace(signed, []byte("1.1.0.json"), []byte("1.1.1.json"), 1), 422},
		"expired":                       {good, add(o.targets, good, time.Now().Add(-time.Minute), o.release), 422},
		"an older version":              {good, add(nil, good, hour, o.release), 409},
		"the same version, other bytes": {good, add(first, good, hour, o.release), 409},
		"a version too far":             {good, add(signed, good, hour, o.release), 422},
		"manifest of another release":   {manifest(t, "1.1.0", []byte("one")), signed, 422},
		"not named by the targets":      {manifest(t, "1.2.0", []byte("two")), signed, 422},
		"component missing":             {missing, add(o.targets, missing, hour, o.release), 422},
		"no JSON":                       {good, []byte("\x00"), 422},
		"a root":                        {good, o.rootJSON, 422},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.client().AddRelease(t.Context(), c.manifest, c.targets)
			var e *client.Error
			if !errors.As(err, &e) || e.Code != c.code {
				t.Errorf("got %v, want status %d", err, c.code)
			}
		})
	}
	if now, err := s.client().Metadata(t.Context(), "targets"); err != nil || !bytes.Equal(now, o.targets) {
		t.Errorf("the fleet's targets changed, %v", err)
	}
	if err := s.client().AddRelease(t.Context(), good, signed); err != nil {
		t.Fatal(err)
	}
	if err := s.client().AddRelease(t.Context(), good, signed); err != nil {
		t.Errorf("the same again: %v", err)
	}
}

func TestRootsThatAreRefused(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	mallory := &operator{t: t, root: key(t), release: key(t)}
	theirs, err := trust.NewRoot(mallory.spec(s), mallory.root)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := trust.RemoveReleases(nil, nil, time.Now().Add(time.Hour), mallory.release)
	if err != nil {
		t.Fatal(err)
	}
	next := func(change func(*trust.RootSpec), keys ...trust.Key) []byte {
		spec := o.spec(s)
		change(&spec)
		b, err := trust.NextRoot(o.rootJSON, spec, keys...)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string][2][]byte{
		"a second first root":   {theirs, targets},
		"another director":      {next(func(r *trust.RootSpec) { r.Director.Keys = []trust.PublicKey{key(t).Public()} }, o.root), nil},
		"another timestamp key": {next(func(r *trust.RootSpec) { r.Timestamp.Keys = []trust.PublicKey{key(t).Public()} }, o.root), nil},
		"expired":               {next(func(r *trust.RootSpec) { r.Expires = time.Now().Add(-time.Minute) }, o.root), nil},
		"release keys that didn't sign the targets": {next(func(r *trust.RootSpec) { r.Release.Keys = []trust.PublicKey{key(t).Public()} }, o.root), nil},
		"nothing": {[]byte("{}"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.client().SetRoot(t.Context(), c[0], c[1])
			var e *client.Error
			if !errors.As(err, &e) || e.Code != http.StatusUnprocessableEntity {
				t.Errorf("got %v, want status 422", err)
			}
		})
	}
	if now, err := s.client().Metadata(t.Context(), "root"); err != nil || !bytes.Equal(now, o.rootJSON) {
		t.Errorf("the root changed, %v", err)
	}
	second := next(func(r *trust.RootSpec) { r.Expires = time.Now().Add(2 * time.Hour) }, o.root)
	if err := s.client().SetRoot(t.Context(), second, nil); err != nil {
		t.Fatal(err)
	}
	// A board that knows the first root steps to the second.
	b := connect(t, s, "board", nil)
	v, err := b.refresh(o.rootJSON, trust.State{})
	if err != nil || !bytes.Equal(v.State().Root, second) {
		t.Errorf("the board didn't follow the root: %v", err)
	}
}
