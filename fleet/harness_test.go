package fleet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

const fleetName = "test"

// patience is how long a test waits for what must happen; nothing is decided by it but failure.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	// The test binary is its own server process, for the stories that kill it.
	if dir := os.Getenv("DUNLIN_TEST_SERVER"); dir != "" {
		s, err := fleet.New(fleet.Config{Data: dir, HTTP: os.Getenv("DUNLIN_TEST_HTTP"), MQTT: os.Getenv("DUNLIN_TEST_MQTT")})
		if err == nil {
			err = s.Run(context.Background(), time.Second, func() { fmt.Printf("ready %s %s\n", s.HTTP(), s.MQTT()) })
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// process starts a server in a process of its own; kill is SIGKILL.
func process(t *testing.T, dir, http, mqtt string) (s server, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DUNLIN_TEST_SERVER="+dir, "DUNLIN_TEST_HTTP="+http, "DUNLIN_TEST_MQTT="+mqtt)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("server said %q: %v", line, err)
	}
	f := strings.Fields(line)
	return server{t: t, dir: dir, http: f[1], mqtt: f[2]}, kill
}

// server is a running one.
type server struct {
	t               *testing.T
	dir, http, mqtt string
	stop            func()
}

func start(t *testing.T, cfg fleet.Config) server {
	t.Helper()
	if cfg.Data == "" {
		cfg.Data = t.TempDir()
	}
	if cfg.HTTP == "" {
		cfg.HTTP, cfg.MQTT = "127.0.0.1:0", "127.0.0.1:0"
	}
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := fleet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- s.Run(ctx, time.Second, func() { close(ready) }) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	<-ready
	return server{t: t, dir: cfg.Data, http: s.HTTP(), mqtt: s.MQTT(), stop: stop}
}

func (s server) secret(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (s server) client() *client.Client {
	s.t.Helper()
	c, err := client.New("http://"+s.http, s.secret(fleet.AdminTokenFile))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// operator holds the people's keys.
type operator struct {
	t             *testing.T
	root, release trust.Key
	rootJSON      []byte
	targets       []byte
}

func key(t *testing.T) trust.Key {
	t.Helper()
	k, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// spec names the server's own keys and o's.
func (o *operator) spec(s server) trust.RootSpec {
	o.t.Helper()
	keys, err := s.client().Keys(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	public := func(b []byte) trust.Signers {
		k, err := trust.ParsePublicKey(b)
		if err != nil {
			o.t.Fatal(err)
		}
		return trust.Signers{Keys: []trust.PublicKey{k}}
	}
	return trust.RootSpec{
		Fleet: fleetName, Expires: time.Now().Add(time.Hour),
		Root: trust.Signers{Keys: []trust.PublicKey{o.root.Public()}}, Release: trust.Signers{Keys: []trust.PublicKey{o.release.Public()}},
		Snapshot: public(keys.Snapshot), Timestamp: public(keys.Timestamp), Director: public(keys.Director),
	}
}

// found makes keys and gives the server its first root and targets.
func found(t *testing.T, s server) *operator {
	t.Helper()
	o := &operator{t: t, root: key(t), release: key(t)}
	var err error
	if o.rootJSON, err = trust.NewRoot(o.spec(s), o.root); err != nil {
		t.Fatal(err)
	}
	if o.targets, err = trust.RemoveReleases(nil, nil, time.Now().Add(time.Hour), o.release); err != nil {
		t.Fatal(err)
	}
	if err := s.client().SetRoot(t.Context(), o.rootJSON, o.targets); err != nil {
		t.Fatal(err)
	}
	return o
}

// manifest of an application with one component.
func manifest(t *testing.T, version string, component []byte) []byte {
	t.Helper()
	b, err := wire.MarshalRelease(wire.Release{
		Format: wire.ReleaseFormat, Application: "greenhouse", Version: version,
		Components: map[string]wire.Component{"climate": {
			Digest: wire.Sum(component), Size: int64(len(component)),
			Limits: wire.Limits{Memory: 32 << 20, Time: wire.Duration(time.Second), Payload: 1 << 20, Concurrency: 4},
		}},
		Triggers: wire.Triggers{HTTP: []wire.HTTPTrigger{{ID: "http", Route: "/climate/...", Component: "climate"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func upload(t *testing.T, s server, b []byte) wire.Digest {
	t.Helper()
	if _, err := s.client().Upload(t.Context(), wire.Sum(b), int64(len(b)), strings.NewReader(string(b)), func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return wire.Sum(b)
}

// publish uploads a component and a signed release of it.
func (o *operator) publish(s server, version string, component []byte) {
	o.t.Helper()
	upload(o.t, s, component)
	m := manifest(o.t, version, component)
	targets, err := trust.AddRelease(o.targets, m, time.Now().Add(time.Hour), o.release)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := s.client().AddRelease(o.t.Context(), m, targets); err != nil {
		o.t.Fatal(err)
	}
	o.targets = targets
}

func (o *operator) assign(s server, version string, selector model.Selector) model.Assigned {
	o.t.Helper()
	a, err := s.client().Assign(o.t.Context(), model.NewDesired{Application: "greenhouse", Version: version, Selector: selector})
	if err != nil {
		o.t.Fatal(err)
	}
	return a
}

// board is a real MQTT client that behaves as a board.
type board struct {
	t        *testing.T
	c        mqtt.Client
	name     string
	session  string
	sequence uint64
	desired  chan []byte
	frames   chan wire.Frame
	dos      chan []byte
	lost     chan error
}

func options(s server, name string) *mqtt.ClientOptions {
	return mqtt.NewClientOptions().AddBroker("tcp://" + s.mqtt).SetClientID(fleetName + "." + name).SetUsername(name).
		SetPassword(s.secret(fleet.JoinTokenFile)).SetAutoReconnect(false).SetOrderMatters(false).SetConnectTimeout(patience).
		SetProtocolVersion(4).SetKeepAlive(60 * time.Second)
}

func topic(device string, c wire.Channel) string {
	return wire.Topic{Fleet: fleetName, Device: device, Channel: c}.Format()
}

// connect a board: last will, subscriptions, hello, online.
func connect(t *testing.T, s server, name string, labels map[string]string) *board {
	t.Helper()
	b := &board{t: t, name: name, session: fmt.Sprintf("s%d", time.Now().UnixNano()), desired: make(chan []byte, 64), frames: make(chan wire.Frame, 1024), dos: make(chan []byte, 1024), lost: make(chan error, 1)}
	o := options(s, name).SetBinaryWill(topic(name, wire.ChannelState), b.state(false), 1, true)
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { b.lost <- err })
	b.c = mqtt.NewClient(o)
	must(t, b.c.Connect())
	t.Cleanup(func() { b.c.Disconnect(0) })
	filters := map[string]byte{}
	for _, f := range wire.DeviceFilters(fleetName, name) {
		filters[f] = 1
	}
	must(t, b.c.SubscribeMultiple(filters, func(_ mqtt.Client, m mqtt.Message) {
		if m.Topic() == topic(name, wire.ChannelDesired) {
			b.desired <- m.Payload()
			return
		}
		if m.Topic() == topic(name, wire.ChannelDo) {
			b.dos <- m.Payload()
			return
		}
		f, err := wire.UnmarshalFrame(m.Payload())
		if err != nil {
			t.Errorf("the server sent %d bytes on %s: %v", len(m.Payload()), m.Topic(), err)
			return
		}
		b.frames <- f
	}))
	hello, err := wire.MarshalHello(wire.Hello{Version: wire.Version, Session: b.session, Agent: "0.1.0", Arch: "arm64", Boot: "b0", Labels: labels, Operations: wire.Operations()})
	if err != nil {
		t.Fatal(err)
	}
	must(t, b.c.Publish(topic(name, wire.ChannelHello), 1, false, hello))
	must(t, b.c.Publish(topic(name, wire.ChannelState), 1, true, b.state(true)))
	return b
}

func (b *board) state(online bool) []byte {
	p, err := wire.MarshalState(wire.State{Online: online, Session: b.session})
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *board) report(r wire.Reported) {
	b.t.Helper()
	b.sequence++
	r.Session, r.Sequence, r.At, r.Clock = b.session, b.sequence, time.Now().UTC().Truncate(time.Second), wire.ClockSynced
	p, err := wire.MarshalReported(r)
	if err != nil {
		b.t.Fatal(err)
	}
	must(b.t, b.c.Publish(topic(b.name, wire.ChannelReported), 1, false, p))
}

func (b *board) ask(g wire.Get) {
	b.t.Helper()
	p, err := wire.MarshalGet(g)
	if err != nil {
		b.t.Fatal(err)
	}
	must(b.t, b.c.Publish(topic(b.name, wire.ChannelGet), 1, false, p))
}

// answer joins the parts that answer a request.
func (b *board) answer(g wire.Get, kind wire.FrameKind) ([]byte, error) {
	b.t.Helper()
	b.ask(g)
	p := wire.Parts{Kind: kind, Request: g.Request, Limit: wire.MaxOfferBytes}
	for {
		done, err := p.Add(receive(b.t, b.frames))
		if done || err != nil {
			return p.Bytes(), err
		}
	}
}

// refresh brings a board that knows root to the newest metadata, over MQTT.
func (b *board) refresh(root []byte, s trust.State) (*trust.Verifier, error) {
	b.t.Helper()
	v, err := trust.Open(root, s, time.Now())
	if err != nil {
		return nil, err
	}
	for n := uint32(1); ; n++ {
		f, ok := v.Next()
		if !ok {
			return v, nil
		}
		file, err := b.answer(wire.Get{Request: n, Meta: &wire.MetaRequest{Role: wire.Role(f.Role), Version: f.Version}}, wire.FrameMeta)
		var answer *wire.Error
		if f.Role == trust.Root && errors.As(err, &answer) && answer.Code == wire.CodeNotFound {
			err = v.NoNewerRoot()
		} else if err == nil {
			err = v.Update(f.Role, file)
		}
		if err != nil {
			return v, err
		}
	}
}

func must(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatal("the broker didn't answer")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually polls the server's own view, which changes on other goroutines.
func (s server) eventually(name, what string, ok func(model.Device) bool) model.Device {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var revision uint64
	for {
		list, err := s.client().Devices(ctx, revision, 10*time.Second)
		if err != nil {
			s.t.Fatalf("wait until %s: %v", what, err)
		}
		revision = list.Revision
		for _, d := range list.Devices {
			if d.Name == name && ok(d) {
				return d
			}
		}
	}
}
