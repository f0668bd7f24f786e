package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
	"dunlin.dev/dunlin/test/readings"
)

const (
	boardIP, farIP = "10.77.0.1", "10.77.0.2"
	pagePort       = "8080"
	api            = "http://127.0.0.1:8090" // of the fleet server, in its own namespace
)

// patience is what anything gets on a fair network; only a failure takes so long.
const patience = 5 * time.Minute

// play is what happens on the stage.
type play struct {
	options
	dir   string
	out   *os.File
	relay *relay

	board, far           *namespace
	agent, fleet, broker *process.Process
	sensors              *readings.Sensors
	uplinks              *uplinks
	page                 *page
	begun                time.Time
}

func (p *play) say(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

func (p *play) path(name string) string { return filepath.Join(p.dir, name) }

// start a program in a namespace.
func (p *play) start(in *namespace, name, program string, args ...string) (proc *process.Process, err error) {
	in.do(func() { proc, err = process.Start(p.path(name+".log"), program, args...) })
	return proc, err
}

// command runs `dunlin` where the fleet server is.
func (p *play) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "dunlin"), append(args, "--to", api)...)
	cmd.Env = append(os.Environ(), "DUNLIN_TOKEN_FILE="+p.path("fleet/admin.token"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	var err error
	p.far.do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("dunlin %s: %w: %s", args[0], err, said.Bytes())
	}
	return nil
}

// raise everything, on a fair network, until the first version runs.
func (p *play) raise(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the board did not come up"))
	defer cancel()
	if err := p.startFleet(ctx); err != nil {
		return err
	}
	if err := p.command(ctx, "keys", "init", "--fleet", "proof", "--dir", p.path("keys")); err != nil {
		return err
	}
	bus := fmt.Sprintf("listen = %q", boardIP+":1883")
	if p.mosquitto != "" {
		if err := p.startBroker(); err != nil {
			return err
		}
		bus = fmt.Sprintf("url = %q", "mqtt://"+farIP+":1884")
	}
	config := fmt.Sprintf("state = %q\nlisten = \"127.0.0.1:%s\"\n[bus]\n%s\n[fleet]\nname = \"proof\"\ndevice = \"hut\"\nurl = %q\nroot = %q\ntoken_file = %q\n",
		p.path("board"), pagePort, bus, "mqtt://"+farIP+":1883", p.path("keys/root.json"), p.path("fleet/join.token"))
	if err := os.WriteFile(p.path("agent.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	var err error
	if p.agent, err = p.start(p.board, "agent", filepath.Join(p.bin, "dunlin-agent"), "--config", p.path("agent.toml")); err != nil {
		return err
	}
	if _, err := p.agent.Line(ctx, `fleet link is up`); err != nil {
		return err
	}
	if err := p.push(ctx, "1.0.0", guests.Ledger); err != nil {
		return err
	}
	if p.mosquitto == "" {
		return nil
	}
	_, err = p.agent.Line(ctx, `connected to the broker`)
	return err
}

func (p *play) startFleet(ctx context.Context) (err error) {
	p.fleet, err = p.start(p.far, "fleet", filepath.Join(p.bin, "dunlin-fleet"), "--data", p.path("fleet"), "--listen", "127.0.0.1:8090", "--mqtt", farIP+":1883")
	if err != nil {
		return err
	}
	_, err = p.fleet.Line(ctx, `ready http=`)
	return err
}

func (p *play) startBroker() (err error) {
	conf := "listener 1884 " + farIP + "\nlistener 1884 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_queued_bytes 0\n"
	if err := os.WriteFile(p.path("mosquitto.conf"), []byte(conf), 0o600); err != nil {
		return err
	}
	p.broker, err = p.start(p.far, "mosquitto", p.mosquitto, "-c", p.path("mosquitto.conf"))
	return err
}

const manifest = `dunlin_manifest_version = 1
[application]
name = "proof"
version = "%s"
[[trigger.http]]
route = "/..."
component = "ledger"
[[trigger.mqtt]]
topic = "in/+"
qos = 2
component = "ledger"
[[trigger.mqtt]]
topic = "up/twice"
qos = 2
component = "ledger"
[[trigger.mqtt]]
topic = "id/+"
qos = 1
message_id = "json:/id"
component = "ledger"
[[trigger.mqtt]]
topic = "up/once"
qos = 1
message_id = "json:/id"
component = "ledger"
[[trigger.mqtt]]
topic = "ledger/+/+"
qos = 1
component = "ledger"
[component.ledger]
source = "ledger.wasm"
key_value_stores = ["default"]
publish = ["ledger/#", "uplink:ledger/#"]
`

// push a version, and wait until the board runs it.
func (p *play) push(ctx context.Context, version string, wasm []byte) error {
	folder := p.path("app-" + version)
	err := errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "ledger.wasm"), wasm, 0o600),
		os.WriteFile(filepath.Join(folder, "dunlin.toml"), fmt.Appendf(nil, manifest, version), 0o600))
	if err != nil {
		return err
	}
	return p.command(ctx, "push", "-f", filepath.Join(folder, "dunlin.toml"), "--device", "hut", "--keys", p.path("keys"), "--timeout", (p.length + patience).String())
}

// larger is the same component with a section behind it that nothing reads and no compressor shrinks: it takes a while to send.
func larger(wasm []byte, seed uint64) []byte {
	dice := rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(make([]byte, 24), seed)))
	body := make([]byte, 300<<10)
	_, _ = dice.Read(body) // it never fails
	content := append(append([]byte{5}, "proof"...), body...)
	return append(append(append([]byte{}, wasm...), binary.AppendUvarint([]byte{0}, uint64(len(content)))...), content...)
}

// storm is the bad network, and what happens meanwhile.
func (p *play) storm(ctx context.Context) error {
	way := readings.Way{Dial: func(ctx context.Context) (net.Conn, error) { return p.far.dial(ctx, boardIP+":1883") }, Pace: 20 * time.Millisecond, Silent: 3 * time.Second}
	if p.mosquitto != "" {
		way.Dial = func(ctx context.Context) (net.Conn, error) { return p.far.dial(ctx, "127.0.0.1:1884") }
	}
	p.sensors = readings.Start(ctx, way,
		&readings.Sensor{ID: "in", Topic: "in/0", QoS: 2, Format: "%d", Handlers: 1},
		&readings.Sensor{ID: "id", Topic: "id/0", QoS: 1, Format: `{"id":%[1]d,"n":%[1]d}`, Handlers: 1},
		&readings.Sensor{ID: "up-in", Topic: "up/twice", QoS: 2, Format: "%d", Handlers: 1},
		&readings.Sensor{ID: "up-id", Topic: "up/once", QoS: 1, Format: `{"id":%[1]d,"n":%[1]d}`, Handlers: 1})
	var err error
	if p.uplinks, err = collect(ctx, p.path("fleet/admin.token"), &http.Client{Transport: &http.Transport{DialContext: dialer(p.far)}}); err != nil {
		return err
	}
	p.page = watch(ctx, &http.Client{Transport: &http.Transport{DialContext: dialer(p.board)}}, "http://127.0.0.1:"+pagePort+"/")

	pushed := make(chan error, 1)
	scenes := []scene{
		{p.length / 3, "the fleet server is killed and started again", func() error { p.fleet.Kill(); return p.startFleet(ctx) }},
		{p.length / 2, "version 2 is pushed", func() error {
			go func() { pushed <- p.push(ctx, "2.0.0", larger(guests.Ledger, p.seed)) }()
			return nil
		}},
	}
	for _, f := range forecast(p.seed, p.length) {
		scenes = append(scenes, scene{f.at, f.name, func() error { p.relay.turn(f); return nil }})
	}
	slices.SortStableFunc(scenes, func(a, b scene) int { return cmp.Compare(a.at, b.at) })
	p.begun = time.Now()
	for _, s := range scenes {
		if err := p.until(ctx, s.at); err != nil {
			return err
		}
		p.say("%6.1f s  %s", s.at.Seconds(), s.name)
		if err := s.act(); err != nil {
			return err
		}
	}
	if err := p.until(ctx, p.length); err != nil {
		return err
	}
	p.say("%6.1f s  fair again; %d readings are acknowledged", p.length.Seconds(), p.sensors.Acknowledged())
	p.relay.turn(phase{up: fair, down: fair})
	select {
	case err := <-pushed:
		return err
	case <-time.After(patience):
		return errors.New("version 2 is not installed")
	}
}

// scene is what happens at a time of the storm.
type scene struct {
	at   time.Duration
	name string
	act  func() error
}

// until that time of the storm.
func (p *play) until(ctx context.Context, at time.Duration) error {
	select {
	case <-time.After(time.Until(p.begun.Add(at))):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func dialer(n *namespace) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) { return n.dial(ctx, addr) }
}
