package wire

import (
	"fmt"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/semver"
)

// ReleaseFormat is the manifest format that this build reads and writes.
const ReleaseFormat = 1

// Release is the resolved manifest of one version of an application: everything that a board needs to run it but the
// components' bytes. Its canonical JSON (MarshalRelease) is what release keys sign, as a TUF target.
type Release struct {
	Format      int                  `json:"format"`
	Application string               `json:"application"`
	Version     string               `json:"version"`         // semantic version
	Floor       string               `json:"floor,omitempty"` // boards that saw this refuse lower versions from then on
	Components  map[string]Component `json:"components"`
	Triggers    Triggers             `json:"triggers"`
}

// Component is one WebAssembly component: its bytes by digest, what it may do, and its limits. All is denied unless named.
type Component struct {
	Digest    Digest            `json:"digest"`
	Size      int64             `json:"size"`                // bytes
	Outbound  []string          `json:"outbound,omitempty"`  // allowed outbound hosts: scheme://host[:port], see ParseOutbound
	KeyValue  []string          `json:"key_value,omitempty"` // stores that it may open
	Publish   []string          `json:"publish,omitempty"`   // topic filters: local bus, or "uplink:" and a filter
	Variables map[string]string `json:"variables,omitempty"` // wasi:config
	Limits    Limits            `json:"limits"`
}

// Limits of one event on one component. None is zero in a Release.
type Limits struct {
	Memory      int64    `json:"memory"`      // bytes, each linear memory
	Time        Duration `json:"time"`        // wall time of one event
	Payload     int64    `json:"payload"`     // bytes of one event's body and of each answer or publish
	Concurrency int      `json:"concurrency"` // events at once
}

// Triggers of a release. IDs are unique over all three lists.
type Triggers struct {
	HTTP  []HTTPTrigger  `json:"http,omitempty"`
	MQTT  []MQTTTrigger  `json:"mqtt,omitempty"`
	Timer []TimerTrigger `json:"timer,omitempty"`
}

// HTTPTrigger sends requests under a route to a component; see CheckRoute.
type HTTPTrigger struct {
	ID        string `json:"id"`
	Route     string `json:"route"`
	Component string `json:"component"`
}

// MQTTTrigger subscribes a component to a topic filter of the board's bus.
type MQTTTrigger struct {
	ID        string `json:"id"`
	Topic     string `json:"topic"` // MQTT 3.1.1 topic filter
	QoS       byte   `json:"qos"`
	Component string `json:"component"`
}

// Missed says what becomes of ticks that fell while the agent was down or busy.
type Missed string

// Overlap says what becomes of a tick that is due while the one before still runs.
type Overlap string

// Policies of a timer.
const (
	MissedSkip Missed = "skip" // none of them
	MissedOnce Missed = "once" // one tick for all
	MissedAll  Missed = "all"  // each, oldest first

	OverlapSkip  Overlap = "skip"
	OverlapQueue Overlap = "queue"
)

// TimerTrigger ticks at an interval or by a cron line; exactly one of Every and Cron is set.
type TimerTrigger struct {
	ID        string   `json:"id"`
	Every     Duration `json:"every,omitempty"`
	Cron      string   `json:"cron,omitempty"`     // five fields, or six with seconds first
	Timezone  string   `json:"timezone,omitempty"` // IANA name; set with Cron: "UTC" by default
	Missed    Missed   `json:"missed"`
	Overlap   Overlap  `json:"overlap"`
	Component string   `json:"component"`
}

// Duration is a time.Duration as Go text in JSON: "500ms", "1m0s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	t, err := time.ParseDuration(string(b))
	*d = Duration(t)
	return err
}

func (d Duration) String() string { return time.Duration(d).String() }

// Bounds and defaults of Limits.
const (
	DefaultMemory      = 64 << 20
	DefaultTime        = 5 * time.Second
	DefaultPayload     = 1 << 20
	DefaultConcurrency = 4

	MinMemory      = 64 << 10 // one wasm page
	MaxMemory      = 4 << 30  // a 32-bit linear memory
	MinTime        = time.Millisecond
	MaxTime        = time.Hour
	MaxPayload     = 64 << 20
	MaxConcurrency = 32 // the engine's pool
)

// DefaultLimits are those of a component that names none.
func DefaultLimits() Limits {
	return Limits{Memory: DefaultMemory, Time: Duration(DefaultTime), Payload: DefaultPayload, Concurrency: DefaultConcurrency}
}

func (m *Release) check() error {
	if m.Format != ReleaseFormat {
		return fmt.Errorf("manifest format %d, this build reads %d: update the agent: %w", m.Format, ReleaseFormat, ErrVersion)
	}
	if err := first(CheckName("application", m.Application), semver.Check(m.Version)); err != nil {
		return err
	}
	if m.Floor != "" {
		if err := semver.Check(m.Floor); err != nil {
			return fmt.Errorf("floor: %w", err)
		}
		if semver.Compare(m.Floor, m.Version) > 0 {
			return fmt.Errorf("floor %s is above version %s", m.Floor, m.Version)
		}
	}
	if n := len(m.Components); n == 0 || n > MaxComponents {
		return fmt.Errorf("%d components, want 1 to %d", n, MaxComponents)
	}
	for name, c := range m.Components {
		if err := first(CheckName("component", name), c.check()); err != nil {
			return fmt.Errorf("component %s: %w", name, err)
		}
	}
	return m.checkTriggers()
}

func (c Component) check() error {
	if c.Size < 1 || c.Size > MaxBlobBytes {
		return fmt.Errorf("%d bytes, want 1 to %d", c.Size, MaxBlobBytes)
	}
	for _, o := range c.Outbound {
		if _, err := ParseOutbound(o); err != nil {
			return err
		}
	}
	for _, s := range c.KeyValue {
		if err := CheckName("key-value store", s); err != nil {
			return err
		}
	}
	for _, f := range c.Publish {
		if err := CheckFilter(strings.TrimPrefix(f, UplinkPrefix)); err != nil {
			return err
		}
	}
	for k, v := range c.Variables {
		if err := first(CheckVariable(k), text("variable "+k, v, MaxMessageBytes)); err != nil {
			return err
		}
	}
	return c.Limits.Check()
}

// CheckVariable checks a variable's name: 1 to 64 of a-z 0-9 _ and -, starting with a letter.
func CheckVariable(s string) error {
	if err := CheckName("variable", s); err != nil {
		return err
	}
	if s[0] < 'a' || s[0] > 'z' || strings.Contains(s, ".") {
		return fmt.Errorf("variable name %q: start it with a letter, and use lower-case letters, digits, _ and -", s)
	}
	return nil
}

// Check reports which limit is out of bounds.
func (l Limits) Check() error {
	switch {
	case l.Memory < MinMemory || l.Memory > MaxMemory:
		return fmt.Errorf("memory limit of %d bytes, want %d to %d", l.Memory, MinMemory, int64(MaxMemory))
	case time.Duration(l.Time) < MinTime || time.Duration(l.Time) > MaxTime:
		return fmt.Errorf("time limit of %s, want %s to %s", l.Time, MinTime, MaxTime)
	case l.Payload < 1 || l.Payload > MaxPayload:
		return fmt.Errorf("payload limit of %d bytes, want 1 to %d", l.Payload, MaxPayload)
	case l.Concurrency < 1 || l.Concurrency > MaxConcurrency:
		return fmt.Errorf("concurrency limit of %d, want 1 to %d", l.Concurrency, MaxConcurrency)
	}
	return nil
}

func (m *Release) checkTriggers() error {
	t := m.Triggers
	if n := len(t.HTTP) + len(t.MQTT) + len(t.Timer); n > MaxTriggers {
		return fmt.Errorf("%d triggers, limit is %d", n, MaxTriggers)
	}
	ids := map[string]bool{}
	common := func(id, component string) error {
		if err := CheckTriggerID(id); err != nil {
			return err
		}
		if ids[id] {
			return fmt.Errorf("two triggers have the id %q", id)
		}
		ids[id] = true
		if _, ok := m.Components[component]; !ok {
			return fmt.Errorf("trigger %s names the component %.80q, which there is not", id, component)
		}
		return nil
	}
	routes := map[string]string{}
	for _, h := range t.HTTP {
		matches, err := CheckRoute(h.Route)
		if err := first(common(h.ID, h.Component), err); err != nil {
			return err
		}
		if other, ok := routes[matches]; ok {
			return fmt.Errorf("triggers %s and %s have the same route %s", other, h.ID, h.Route)
		}
		routes[matches] = h.ID
	}
	for _, q := range t.MQTT {
		if err := first(common(q.ID, q.Component), CheckFilter(q.Topic)); err != nil {
			return err
		}
		if q.QoS > 2 {
			return fmt.Errorf("trigger %s: qos %d, want 0, 1 or 2", q.ID, q.QoS)
		}
	}
	for _, c := range t.Timer {
		if err := first(common(c.ID, c.Component), c.check()); err != nil {
			return err
		}
	}
	return nil
}

func (t TimerTrigger) check() error {
	if (t.Every == 0) == (t.Cron == "") || (t.Cron == "") != (t.Timezone == "") {
		return fmt.Errorf("trigger %s: want every, or cron and timezone", t.ID)
	}
	if every := time.Duration(t.Every); t.Cron == "" && (every < MinEvery || every > MaxEvery) {
		return fmt.Errorf("trigger %s: interval of %s, want %s to %s", t.ID, every, MinEvery, MaxEvery)
	}
	if t.Cron != "" {
		if _, err := ParseCron(t.Cron, t.Timezone); err != nil {
			return fmt.Errorf("trigger %s: %w", t.ID, err)
		}
	}
	if !oneOf(t.Missed, MissedSkip, MissedOnce, MissedAll) || !oneOf(t.Overlap, OverlapSkip, OverlapQueue) {
		return fmt.Errorf("trigger %s: missed %q and overlap %q", t.ID, t.Missed, t.Overlap)
	}
	return nil
}
