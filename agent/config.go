// Package agent is the daemon on the board: it keeps the releases that the fleet wants installed and runs their handlers
// on HTTP, MQTT and timer events, with the link up or down. New wires it; Run runs it.
package agent

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"

	"dunlin.dev/dunlin/agent/internal/reconcile"
	"dunlin.dev/dunlin/agent/internal/space"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/fleet/manifest"
	"dunlin.dev/dunlin/fleet/wire"
)

// Config of an agent, as agent.toml has it.
type Config struct {
	State  string            `toml:"state"`  // directory of the store and the compiled code; default /var/lib/dunlin
	Listen string            `toml:"listen"` // address of the HTTP trigger; default :8080; "off" for none
	Labels map[string]string `toml:"labels"` // what rollouts select this board by
	Bus    Bus               `toml:"bus"`
	Fleet  *Fleet            `toml:"fleet"` // nil: no fleet
	Uplink Uplink            `toml:"uplink"`
	Disk   Disk              `toml:"disk"`

	KeepRemoved string `toml:"keep_removed"` // how long data of an application that was removed stays; default 720h; "0s": not; "forever"

	Version string    `toml:"-"` // of the program
	Built   time.Time `toml:"-"` // when the program was built: the clock is never before that

	Variables manifest.Lookup `toml:"-"` // of a Spin application that RunLocal runs

	local bool          // run by RunLocal, before a developer's eyes
	keep  time.Duration // KeepRemoved; negative: for ever

	// Tests have less patience.
	silence   time.Duration                                    // link.Config's Silence
	keepAlive time.Duration                                    // of both brokers' connections
	look      time.Duration                                    // at the disk, at least so often; 0: a minute
	rest      func(failures int, jitter float64) time.Duration // of a release that failed; nil: reconcile.Backoff

	// The system's clock, and whether something disciplines it. Tests set theirs.
	system func() time.Time
	synced func() bool
}

// Bus is the board's own MQTT: a broker inside the agent, or one that is there already.
type Bus struct {
	Listen string `toml:"listen"` // address of the agent's broker; default 127.0.0.1:1883 where URL is empty; "off" for none
	URL    string `toml:"url"`    // of an outside broker: mqtt://[user:password@]host[:port] or mqtts://
}

// Fleet says which fleet the board belongs to and what it trusts.
type Fleet struct {
	Name      string `toml:"name"`
	Device    string `toml:"device"` // default: the host's name
	URL       string `toml:"url"`    // mqtt://host[:port] of the fleet server
	Root      string `toml:"root"`   // file: the fleet's root.json, where all trust starts
	TokenFile string `toml:"token_file"`
	Requests  string `toml:"requests"` // what the server may ask for beside releases: "all" (default), "read", or "off"
}

// Disk says how much of the state directory's file system the agent leaves alone.
type Disk struct {
	KeepFree string `toml:"keep_free"` // "64MiB", or a share, "5%"; default 5%, at most 64MiB

	keep space.Keep
}

func (d *Disk) complete() (err error) {
	if d.keep, err = space.ParseKeep(d.KeepFree); err != nil {
		return fmt.Errorf("check config: disk.keep_free: %w", err)
	}
	return nil
}

// Uplink bounds what waits on the board to leave it, and how fast it does; empty fields are the defaults.
type Uplink struct {
	Bytes string `toml:"bytes"` // that wait, "64MiB"
	Age   string `toml:"age"`   // older messages are dropped, "720h"; none are by default
	Rate  string `toml:"rate"`  // of what waited while the link was down, a second: "32KiB"; "off": as fast as the link takes it

	limits store.UplinkLimits
	rate   int64 // bytes a second; 0: off
}

// defaultRate is a quarter of a megabit a second: what a poor cellular link stands beside its live messages.
const defaultRate = 32 << 10

func (u *Uplink) complete() error {
	u.limits.Bytes, u.rate = store.MaxUplinks, defaultRate
	size := func(key, value string, low, high int64, into *int64) error {
		if value == "" {
			return nil
		}
		n, err := manifest.ParseSize(value)
		if err != nil {
			return fmt.Errorf("check config: %s: %w", key, err)
		}
		if n < low || n > high {
			return fmt.Errorf("check config: %s is %q, want %d to %d bytes", key, value, low, high)
		}
		*into = n
		return nil
	}
	if err := size("uplink.bytes", u.Bytes, 64<<10, 1<<40, &u.limits.Bytes); err != nil {
		return err
	}
	if u.Rate == off {
		u.rate = 0
	} else if err := size("uplink.rate", u.Rate, 64, 1<<40, &u.rate); err != nil {
		return err
	}
	if u.Age == "" {
		return nil
	}
	age, err := time.ParseDuration(u.Age)
	if err != nil || age < time.Second {
		return fmt.Errorf("check config: uplink.age is %q, want a duration from 1s, as in %q", u.Age, "720h")
	}
	u.limits.Age = age
	return nil
}

// LoadConfig reads and checks a file. Unknown keys are errors with their line and column.
func LoadConfig(path string) (Config, error) {
	var cfg Config
	data, err := os.ReadFile(path)
	if err != nil {
		return cfg, fmt.Errorf("read config: %w", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&cfg); err != nil {
		return cfg, fmt.Errorf("read config: %w", positioned(path, err))
	}
	return cfg, cfg.complete()
}

func positioned(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var all []error
		for _, e := range strict.Errors {
			row, col := e.Position()
			all = append(all, fmt.Errorf("%s:%d:%d: unknown key %q", path, row, col, strings.Join(e.Key(), ".")))
		}
		return errors.Join(all...)
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, col := decode.Position()
		return fmt.Errorf("%s:%d:%d: %s", path, row, col, decode.Error())
	}
	return fmt.Errorf("%s: %w", path, err)
}

// complete fills defaults in and checks what can be checked without touching anything.
func (c *Config) complete() error {
	if c.rest == nil {
		c.rest = reconcile.Backoff
	}
	if c.look == 0 {
		c.look = time.Minute
	}
	if c.system == nil {
		c.system = time.Now
	}
	if c.synced == nil {
		c.synced = kernelSynced
	}
	if c.State == "" {
		c.State = "/var/lib/dunlin"
	}
	if c.Listen == "" {
		c.Listen = ":8080"
	}
	if err := errors.Join(c.Uplink.complete(), c.Disk.complete(), c.completeKeep()); err != nil {
		return err
	}
	if err := errors.Join(checkListen("listen", c.Listen), checkListen("bus.listen", c.Bus.Listen), checkLabels(c.Labels)); err != nil {
		return err
	}
	if c.Bus.URL != "" && c.Bus.Listen != "" && c.Bus.Listen != "off" {
		return fmt.Errorf("check config: bus.listen and bus.url exclude each other: the board's bus is one broker")
	}
	if c.Bus.URL == "" && c.Bus.Listen == "" {
		c.Bus.Listen = "127.0.0.1:1883"
	}
	if c.Bus.URL != "" {
		if err := checkBroker("bus.url", c.Bus.URL); err != nil {
			return err
		}
	}
	f := c.Fleet
	if f == nil {
		return nil
	}
	if f.Device == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("check config: fleet.device is not set and the host has no name: %w", err)
		}
		f.Device = strings.ToLower(host)
	}
	for _, field := range [][2]string{{"name", f.Name}, {"url", f.URL}, {"root", f.Root}, {"token_file", f.TokenFile}} {
		if field[1] == "" {
			return fmt.Errorf("check config: fleet.%s is not set", field[0])
		}
	}
	if err := errors.Join(wire.CheckName("fleet", f.Name), wire.CheckName("device", f.Device)); err != nil {
		return fmt.Errorf("check config: %w", err)
	}
	if f.Requests == "" {
		f.Requests = requestsAll
	}
	if !slices.Contains([]string{requestsAll, requestsRead, off}, f.Requests) {
		return fmt.Errorf("check config: fleet.requests is %q, want %q, %q or %q", f.Requests, requestsAll, requestsRead, off)
	}
	return checkBroker("fleet.url", f.URL)
}

// completeKeep: a month is what a removal that was a mistake takes to be noticed.
func (c *Config) completeKeep() error {
	switch c.KeepRemoved {
	case "":
		c.keep = 30 * 24 * time.Hour
	case "forever":
		c.keep = -1
	default:
		d, err := time.ParseDuration(c.KeepRemoved)
		if err != nil || d < 0 {
			return fmt.Errorf("check config: keep_removed is %q, want a duration as in %q, or %q", c.KeepRemoved, "720h", "forever")
		}
		c.keep = d
	}
	return nil
}

func checkListen(key, address string) error {
	if address == "" || address == off {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("check config: %s is %q, want host:port, :port or %q", key, address, off)
	}
	return nil
}

// checkLabels holds labels to what a hello may carry.
func checkLabels(labels map[string]string) error {
	if len(labels) > wire.MaxLabels {
		return fmt.Errorf("check config: %d labels, limit is %d", len(labels), wire.MaxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if err := wire.CheckName("label", key); err != nil {
			return fmt.Errorf("check config: %w", err)
		}
		if value := labels[key]; len(value) > wire.MaxLabelBytes || !utf8.ValidString(value) {
			return fmt.Errorf("check config: label %s is %.80q, want at most %d bytes of UTF-8", key, value, wire.MaxLabelBytes)
		}
	}
	return nil
}

func checkBroker(key, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "mqtt" && u.Scheme != "mqtts") {
		if err == nil {
			raw = u.Redacted()
		}
		return fmt.Errorf("check config: %s is %q, want mqtt://host[:port] or mqtts://host[:port]", key, raw)
	}
	return nil
}
