// demo does Dunlin's main job before your eyes: a fleet server and a board as separate processes, a signed application that
// goes from here to the board over MQTT and handles this machine's own readings, a server that goes away, and an update.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dunlin.dev/dunlin/test/process"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the programs")
	guest := flag.String("app", "test/guests/coldroom", "folder of the example application")
	keep := flag.Bool("keep", os.Getenv("KEEP") == "1", "stay up at the end and print the addresses")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *bin, *guest, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		os.Exit(1)
	}
}

// demo is the stage.
type demo struct {
	bin, guest, dir   string
	fleet, board      *process.Process
	url, mqtt         string // the fleet server's
	page, bus         string // the board's
	begun             time.Time
	installed, update time.Duration
	offline           int
	threshold         float64 // of alarms
}

func run(ctx context.Context, bin, guest string, keep bool) (err error) {
	d := &demo{begun: time.Now()}
	if d.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if d.guest, err = filepath.Abs(guest); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "dunlin-demo-"); err != nil {
		return err
	}
	defer func() {
		d.board.Stop()
		d.fleet.Stop()
		if err == nil {
			_ = os.RemoveAll(d.dir)
		} else {
			fmt.Fprintln(os.Stderr, "demo: the logs are in", d.dir)
		}
	}()
	// Half of what the memory reads now: its first reading is an alarm, whatever machine this is.
	used, err := memoryUsed()
	if err != nil {
		return err
	}
	d.threshold = used / 2
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("the demo took longer than five minutes"))
	defer cancel()
	if err := d.raise(ctx); err != nil {
		return err
	}
	s, err := connectSensors(d.bus)
	if err != nil {
		return err
	}
	defer s.client.Disconnect(100)
	sensing, quiet := context.WithCancel(ctx)
	finished := make(chan struct{})
	defer func() { quiet(); <-finished }()
	if err := d.install(ctx); err != nil {
		close(finished)
		return err
	}
	go func() { s.run(sensing, 150*time.Millisecond); close(finished) }()
	for _, act := range []func(context.Context, *sensors) error{d.watch, d.goOffline, d.comeBack} {
		if err := act(ctx, s); err != nil {
			return err
		}
	}
	quiet()
	<-finished
	if err := d.count(ctx, s); err != nil {
		return err
	}
	if keep {
		cancel()
		return d.stay()
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

// raise starts the fleet server, makes the keys, and starts the board.
func (d *demo) raise(ctx context.Context) (err error) {
	say("a fleet server, keys that stay with you, and a board")
	if err := d.serve(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.cli(ctx, "keys", "init", "--to", d.url, "--fleet", "demo", "--dir", filepath.Join(d.dir, "keys")); err != nil {
		return err
	}
	config := fmt.Sprintf("state = %q\nlisten = \"127.0.0.1:0\"\nlabels = { site = \"demo\" }\n\n[bus]\nlisten = \"127.0.0.1:0\"\n\n"+
		"[fleet]\nname = \"demo\"\ndevice = \"coldroom-1\"\nurl = %q\nroot = %q\ntoken_file = %q\n",
		filepath.Join(d.dir, "board"), "mqtt://"+d.mqtt, filepath.Join(d.dir, "keys", "root.json"), filepath.Join(d.dir, "fleet", "join.token"))
	path := filepath.Join(d.dir, "agent.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if d.board, err = process.Start(filepath.Join(d.dir, "board.log"), filepath.Join(d.bin, "dunlin-agent"), "--config", path); err != nil {
		return err
	}
	m, err := d.board.Line(ctx, `msg=ready http=(\S+) bus=(\S+)`)
	if err != nil {
		return err
	}
	d.page, d.bus = m[1], m[2]
	if _, err := d.board.Line(ctx, `fleet link is up`); err != nil {
		return err
	}
	return d.cli(ctx, "devices")
}

func (d *demo) serve(ctx context.Context, listen, broker string) (err error) {
	d.fleet, err = process.Start(filepath.Join(d.dir, "fleet.log"), filepath.Join(d.bin, "dunlin-fleet"), "--data", filepath.Join(d.dir, "fleet"), "--listen", listen, "--mqtt", broker)
	if err != nil {
		return err
	}
	m, err := d.fleet.Line(ctx, `ready http=(\S+) mqtt=(\S+)`)
	if err != nil {
		return err
	}
	d.mqtt = m[2]
	d.url = "http://" + m[1]
	return nil
}

// cli runs a dunlin command as a person would, and shows it.
func (d *demo) cli(ctx context.Context, args ...string) error {
	fmt.Println("$ dunlin", strings.ReplaceAll(strings.Join(args, " "), d.dir+"/", ""))
	if args[0] != "keys" {
		args = append(args, "--to", d.url)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "dunlin"), args...)
	cmd.Env = append(os.Environ(), "DUNLIN_TOKEN_FILE="+filepath.Join(d.dir, "fleet", "admin.token"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("dunlin %s: %w", args[0], err)
	}
	return nil
}

func (d *demo) push(ctx context.Context, manifest string) (time.Duration, error) {
	begun := time.Now()
	path, err := d.adapt(manifest)
	if err != nil {
		return 0, err
	}
	err = d.cli(ctx, "push", "-f", path, "--all", "--keys", filepath.Join(d.dir, "keys"))
	return time.Since(begun), err
}

// adapt copies the example's manifest, with settings for a minute in place of days: what a cold room's thermometers need is
// slower, and colder, than this machine.
func (d *demo) adapt(manifest string) (path string, err error) {
	b, err := os.ReadFile(filepath.Join(d.guest, manifest))
	if err != nil {
		return "", err
	}
	text := string(b)
	for from, to := range map[string]string{
		`source = "`:          `source = "` + d.guest + "/",
		`every = "5s"`:        `every = "1s"`,
		`silent_after = "60"`: `silent_after = "3"`,
		`threshold = "8"`:     fmt.Sprintf(`threshold = "%.2f"`, d.threshold),
	} {
		if strings.Count(text, from) != 1 {
			return "", fmt.Errorf("adapt %s: it has no %s, or two", manifest, from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	path = filepath.Join(d.dir, manifest)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func (d *demo) install(ctx context.Context) (err error) {
	say("push: the release is signed here, and goes over MQTT to the board (alarms: above %.2f, or silent for 3 s)", d.threshold)
	d.installed, err = d.push(ctx, "dunlin.toml")
	return err
}

// state is what the example's page tells, as JSON.
type state struct {
	Version string `json:"version"`
	Sensors []struct {
		Name        string  `json:"name"`
		Temperature float64 `json:"temperature"`
		Count       int     `json:"count"`
		Alarm       string  `json:"alarm"`
	} `json:"sensors"`
}

func (s state) handled() int {
	n := 0
	for _, sensor := range s.Sensors {
		n += sensor.Count
	}
	return n
}

func (d *demo) state(ctx context.Context) (s state, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.page+"/coldroom/api", nil)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return s, err
	}
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("GET %s: %s: %s", req.URL, resp.Status, body)
	}
	return s, json.Unmarshal(body, &s)
}

// show prints the page's state, a line a second, for n seconds.
func (d *demo) show(ctx context.Context, n int) error {
	for range n {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s, err := d.state(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("   %s  version %s  %4d events", time.Now().Format("15:04:05"), s.Version, s.handled())
		for _, sensor := range s.Sensors {
			fmt.Printf("  %s %.2f (%s)", sensor.Name, sensor.Temperature, sensor.Alarm)
		}
		fmt.Println()
	}
	return nil
}

func (d *demo) watch(ctx context.Context, s *sensors) error {
	say("this machine's own readings, over MQTT, handled on the board (http://%s/coldroom)", d.page)
	if err := d.show(ctx, 4); err != nil {
		return err
	}
	return s.alarm(ctx, "memory", "high")
}

func (d *demo) goOffline(ctx context.Context, s *sensors) error {
	say("the fleet server stops, and then the sensor of the load; the board goes on, and its timer notices")
	d.fleet.Stop()
	before := s.total()
	s.mute("load")
	if err := errors.Join(d.show(ctx, 4), s.alarm(ctx, "load", "silent")); err != nil {
		return err
	}
	s.mute("")
	if err := s.alarm(ctx, "load", "back"); err != nil {
		return err
	}
	d.offline = s.total() - before
	if d.offline == 0 {
		return errors.New("no event was handled while the fleet server was away")
	}
	return nil
}

func (d *demo) comeBack(ctx context.Context, s *sensors) (err error) {
	say("the fleet server is back; version 2 goes out while events come in")
	if err := d.serve(ctx, strings.TrimPrefix(d.url, "http://"), d.mqtt); err != nil {
		return err
	}
	if d.update, err = d.push(ctx, "dunlin-v2.toml"); err != nil {
		return err
	}
	return d.show(ctx, 3)
}

// count holds what was acknowledged against what the board counted, and prints what was measured.
func (d *demo) count(ctx context.Context, s *sensors) error {
	now, err := d.state(ctx)
	if err != nil {
		return err
	}
	alarms, err := s.outcome()
	if err != nil {
		return err
	}
	if now.handled() != s.total() {
		return fmt.Errorf("%d events were acknowledged and the board counted %d", s.total(), now.handled())
	}
	memory, err := d.board.Memory()
	if err != nil {
		return err
	}
	p50, p99 := s.quantiles()
	say("measured, on this machine, in this run")
	table := [][2]string{
		{"push to serving, version 1 (sign, send, compile, start)", d.installed.Round(time.Millisecond).String()},
		{"push to serving, version 2 (as a patch; the board reconnects first)", d.update.Round(time.Millisecond).String()},
		{"events acknowledged / counted by the handler", fmt.Sprintf("%d / %d", s.total(), now.handled())},
		{"of these with the fleet server gone", fmt.Sprint(d.offline)},
		{"QoS 1 publish to durable acknowledgement, p50 / p99", fmt.Sprintf("%s / %s", p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond))},
		{"alarms published", fmt.Sprint(alarms)},
		{"the board's memory (PSS)", fmt.Sprintf("%.1f MB", float64(memory.PSS)/1e6)},
		{"the demo took", time.Since(d.begun).Round(time.Second).String()},
	}
	for _, row := range table {
		fmt.Printf("   %-64s %s\n", row[0], row[1])
	}
	return nil
}

// stay keeps everything up until a signal comes.
func (d *demo) stay() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer takeTerminal()()
	say("still up; press ctrl-c to end it")
	fmt.Printf("   page          http://%s/coldroom\n   board's bus   mqtt://%s\n   fleet server  %s (admin token: %s)\n   files         %s\n",
		d.page, d.bus, d.url, filepath.Join(d.dir, "fleet", "admin.token"), d.dir)
	<-ctx.Done()
	return nil
}
