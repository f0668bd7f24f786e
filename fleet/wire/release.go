package wire

import (
	"time"
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
	Outbound  []string          `json:"outbound,omitempty"`  // allowed outbound hosts: scheme://host[:port], * allowed as in ParseHost
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

// HTTPTrigger sends requests under a route to a component; see ParseRoute.
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

func (m *Release) check() error { return nil }
