package wire

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/archive"
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
	Uplinks     []UplinkRule         `json:"uplinks,omitempty"` // of messages to the fleet; the first that matches a topic counts
}

// Component is one WebAssembly component: its bytes by digest, what it may do, and its limits. All is denied unless named.
type Component struct {
	Digest      Digest            `json:"digest"`
	Size        int64             `json:"size"`                  // bytes
	Environment map[string]string `json:"environment,omitempty"` // wasi:cli/environment
	Outbound    []string          `json:"outbound,omitempty"`    // allowed outbound hosts: scheme://host[:port], see ParseOutbound
	Deferred    []string          `json:"deferred,omitempty"`    // hosts as in Outbound: requests to them that change something wait for the network
	KeyValue    []string          `json:"key_value,omitempty"`   // stores that it may open
	BlobStores  []string          `json:"blob_stores,omitempty"` // wasi:blobstore containers that it may open
	Publish     []string          `json:"publish,omitempty"`     // topic filters: local bus, or "uplink:" and a filter
	Variables   map[string]string `json:"variables,omitempty"`   // wasi:config
	Files       *Blob             `json:"files,omitempty"`       // what it reads below "/": an archive of fleet/archive
	Directory   string            `json:"directory,omitempty"`   // where it finds its private directory, as "/data"; "": it has none
	Limits      Limits            `json:"limits"`
}

// Blob names bytes.
type Blob struct {
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
}

// Limits of one component. All of them bite in every release: one that a release doesn't name has its default, see Complete.
type Limits struct {
	Memory      int64    `json:"memory"`      // bytes, all linear memories and tables of one event together
	Time        Duration `json:"time"`        // wall time of one event
	Payload     int64    `json:"payload"`     // bytes of one event's body and of each answer or publish
	Concurrency int      `json:"concurrency"` // events at once

	CPU      Duration `json:"cpu,omitempty"`       // processor time of one event
	Queue    int      `json:"queue,omitempty"`     // events that wait for their turn
	LogLines int      `json:"log_lines,omitempty"` // lines a second
	KeyValue int64    `json:"key_value,omitempty"` // bytes of keys and values that are kept, all its stores and blob containers together
	Requests int      `json:"requests,omitempty"`  // outgoing HTTP requests of one event
	Files    int64    `json:"files,omitempty"`     // bytes that its private directory holds, each entry rounded up to 4 KiB
}

// Triggers of a release. IDs are unique over all three lists.
type Triggers struct {
	HTTP  []HTTPTrigger  `json:"http,omitempty"`
	MQTT  []MQTTTrigger  `json:"mqtt,omitempty"`
	Timer []TimerTrigger `json:"timer,omitempty"`
}

// Durabilities of all triggers, by their ids.
func (t Triggers) Durabilities() map[string]Durability {
	all := map[string]Durability{}
	for _, h := range t.HTTP {
		all[h.ID] = h.Durability
	}
	for _, q := range t.MQTT {
		all[q.ID] = q.Durability
	}
	for _, c := range t.Timer {
		all[c.ID] = c.Durability
	}
	return all
}

// HTTPTrigger sends requests under a route to a component, or answers them by itself; see CheckRoute.
type HTTPTrigger struct {
	ID        string  `json:"id"`
	Route     string  `json:"route"`
	Component string  `json:"component,omitempty"` // "" with Static only
	Spin      bool    `json:"spin,omitempty"`      // requests carry the headers that Spin adds, as spin-path-info
	Static    *Static `json:"static,omitempty"`

	Durability Durability `json:"durability,omitempty"`
}

// Static is an answer that needs no component.
type Static struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
}

// Check the status and the headers (RFC 9110, sections 15 and 5).
func (s *Static) Check() error {
	if s.Status < 200 || s.Status > 599 {
		return fmt.Errorf("status %d, want 200 to 599", s.Status)
	}
	for name, value := range s.Headers {
		odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r) }
		if name == "" || strings.ContainsFunc(name, odd) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return fmt.Errorf("header %.80q: %.80q is not one that can be sent", name, value)
		}
	}
	return text("body", s.Body, MaxMessageBytes)
}

// MQTTTrigger subscribes a component to a topic filter of the board's bus.
type MQTTTrigger struct {
	ID        string `json:"id"`
	Topic     string `json:"topic"` // MQTT 3.1.1 topic filter
	QoS       byte   `json:"qos"`
	MessageID string `json:"message_id,omitempty"` // where repeats are told by, see ParseMessageID; "": nowhere
	Unordered bool   `json:"unordered,omitempty"`  // messages of one topic are handled beside each other
	Component string `json:"component"`

	Durability Durability `json:"durability,omitempty"`
}

// Durability says what is waited for before an event of a trigger is acknowledged: that its effects are on the disk (""), the same
// where that may take some time longer, so that others share the write ("batch"), or only that others see them ("memory").
type Durability string

// Durabilities; a manifest calls the first one "sync".
const (
	DurabilitySync   Durability = ""
	DurabilityBatch  Durability = "batch"
	DurabilityMemory Durability = "memory"
)

// check refuses what is none.
func (d Durability) check() error {
	if !oneOf(d, DurabilitySync, DurabilityBatch, DurabilityMemory) {
		return fmt.Errorf("durability %.80q, want %q or %q, or none", d, DurabilityBatch, DurabilityMemory)
	}
	return nil
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
	Jitter    Duration `json:"jitter,omitempty"` // each tick comes by up to this much later, at random
	Component string   `json:"component"`

	Durability Durability `json:"durability,omitempty"`
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
	DefaultCPU         = 5 * time.Second
	DefaultQueue       = 256
	DefaultLogLines    = 50
	DefaultKeyValue    = 16 << 20
	DefaultRequests    = 64
	DefaultFiles       = 16 << 20

	MinMemory      = 64 << 10 // one wasm page
	MaxMemory      = 4 << 30  // a 32-bit linear memory
	MinTime        = time.Millisecond
	MaxTime        = time.Hour
	MaxPayload     = 64 << 20
	MaxConcurrency = 32 // the engine's pool
	MaxQueue       = 100_000
	MaxLogRate     = 10_000
	MaxKeyValue    = 1 << 30
	MaxRequests    = 10_000
	MinFiles       = 4 << 10 // one entry
	MaxFiles       = 1 << 30
)

// DefaultLimits are those of a component that names none.
func DefaultLimits() Limits {
	return Limits{Memory: DefaultMemory, Time: Duration(DefaultTime), Payload: DefaultPayload, Concurrency: DefaultConcurrency}.Complete()
}

// Complete gives l with the defaults of the limits that releases did not always name.
func (l Limits) Complete() Limits {
	l.CPU = cmp.Or(l.CPU, Duration(DefaultCPU))
	l.Queue = cmp.Or(l.Queue, DefaultQueue)
	l.LogLines = cmp.Or(l.LogLines, DefaultLogLines)
	l.KeyValue = cmp.Or(l.KeyValue, DefaultKeyValue)
	l.Requests = cmp.Or(l.Requests, DefaultRequests)
	l.Files = cmp.Or(l.Files, DefaultFiles)
	return l
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
	if n := len(m.Uplinks); n > MaxUplinkRules {
		return fmt.Errorf("%d rules for uplinks, limit is %d", n, MaxUplinkRules)
	}
	for _, r := range m.Uplinks {
		if err := r.check(); err != nil {
			return err
		}
	}
	return m.checkTriggers()
}

func (c Component) check() error {
	if c.Size < 1 || c.Size > MaxBlobBytes {
		return fmt.Errorf("%d bytes, want 1 to %d", c.Size, MaxBlobBytes)
	}
	if f := c.Files; f != nil && (f.Size < 1 || f.Size > MaxBlobBytes) {
		return fmt.Errorf("files of %d bytes, want 1 to %d", f.Size, MaxBlobBytes)
	}
	if c.Directory != "" {
		if err := CheckDirectory(c.Directory); err != nil {
			return err
		}
	}
	for k, v := range c.Environment {
		if err := first(CheckEnvironment(k), text("environment "+k, v, MaxMessageBytes)); err != nil {
			return err
		}
	}
	for _, o := range c.Outbound {
		if _, err := ParseOutbound(o); err != nil {
			return err
		}
	}
	for _, d := range c.Deferred {
		if err := CheckDeferred(d); err != nil {
			return err
		}
	}
	for _, s := range c.KeyValue {
		if err := CheckName("key-value store", s); err != nil {
			return err
		}
	}
	for _, s := range c.BlobStores {
		if err := CheckName("blob store", s); err != nil {
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

// CheckDirectory checks the path at which a component finds its private directory: absolute, clean, as files have it.
func CheckDirectory(s string) error {
	rest, absolute := strings.CutPrefix(s, "/")
	if !absolute {
		return fmt.Errorf("directory %.80q: want an absolute path, as in \"/data\"", s)
	}
	if rest == "" {
		return nil
	}
	if err := archive.CheckPath(rest); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}

// CheckEnvironment checks the name of an environment variable: 1 to 64 of A-Z a-z 0-9 and _, not starting with a digit (POSIX 8.1).
func CheckEnvironment(s string) error {
	odd := func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if s == "" || len(s) > MaxNameBytes || s[0] >= '0' && s[0] <= '9' || strings.ContainsFunc(s, odd) {
		return fmt.Errorf("environment variable %.80q: use letters, digits and _, and start with a letter or _", s)
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
	case l.CPU != 0 && (time.Duration(l.CPU) < MinTime || time.Duration(l.CPU) > MaxTime):
		return fmt.Errorf("cpu limit of %s, want %s to %s", l.CPU, MinTime, MaxTime)
	case l.Queue < 0 || l.Queue > MaxQueue:
		return fmt.Errorf("queue limit of %d, want 1 to %d", l.Queue, MaxQueue)
	case l.LogLines < 0 || l.LogLines > MaxLogRate:
		return fmt.Errorf("log_lines limit of %d, want 1 to %d", l.LogLines, MaxLogRate)
	case l.KeyValue < 0 || l.KeyValue > MaxKeyValue:
		return fmt.Errorf("key_value limit of %d bytes, want 1 to %d", l.KeyValue, MaxKeyValue)
	case l.Requests < 0 || l.Requests > MaxRequests:
		return fmt.Errorf("requests limit of %d, want 1 to %d", l.Requests, MaxRequests)
	case l.Files != 0 && l.Files < MinFiles || l.Files > MaxFiles:
		return fmt.Errorf("files limit of %d bytes, want %d to %d", l.Files, MinFiles, MaxFiles)
	}
	return nil
}

func (m *Release) checkTriggers() error {
	t := m.Triggers
	if n := len(t.HTTP) + len(t.MQTT) + len(t.Timer); n > MaxTriggers {
		return fmt.Errorf("%d triggers, limit is %d", n, MaxTriggers)
	}
	ids := map[string]bool{}
	common := func(id, component string, durability Durability, need bool) error {
		if err := CheckTriggerID(id); err != nil {
			return err
		}
		if err := durability.check(); err != nil {
			return fmt.Errorf("trigger %s: %w", id, err)
		}
		if ids[id] {
			return fmt.Errorf("two triggers have the id %q", id)
		}
		ids[id] = true
		if _, ok := m.Components[component]; !ok && need {
			return fmt.Errorf("trigger %s names the component %.80q, which there is not", id, component)
		}
		return nil
	}
	routes := map[string]string{}
	for _, h := range t.HTTP {
		matches, err := CheckRoute(h.Route)
		if err := first(common(h.ID, h.Component, h.Durability, h.Static == nil), err); err != nil {
			return err
		}
		if h.Static != nil {
			if h.Component != "" {
				return fmt.Errorf("trigger %s has a component and an answer of its own", h.ID)
			}
			if err := h.Static.Check(); err != nil {
				return fmt.Errorf("trigger %s: %w", h.ID, err)
			}
		}
		if other, ok := routes[matches]; ok {
			return fmt.Errorf("triggers %s and %s have the same route %s", other, h.ID, h.Route)
		}
		routes[matches] = h.ID
	}
	for _, q := range t.MQTT {
		if err := first(common(q.ID, q.Component, q.Durability, true), CheckFilter(q.Topic)); err != nil {
			return err
		}
		if q.QoS > 2 {
			return fmt.Errorf("trigger %s: qos %d, want 0, 1 or 2", q.ID, q.QoS)
		}
		if _, err := ParseMessageID(q.MessageID); err != nil {
			return fmt.Errorf("trigger %s: %w", q.ID, err)
		}
	}
	for _, c := range t.Timer {
		if err := first(common(c.ID, c.Component, c.Durability, true), c.check()); err != nil {
			return err
		}
	}
	return nil
}

// MaxJitter of a timer: an hour, and half of its interval, so that a tick is handled before the next is due.
func (t TimerTrigger) MaxJitter() time.Duration {
	if t.Every != 0 {
		return min(time.Hour, time.Duration(t.Every)/2)
	}
	return time.Hour
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
	if jitter, most := time.Duration(t.Jitter), t.MaxJitter(); jitter < 0 || jitter > most {
		return fmt.Errorf("trigger %s: jitter of %s, want at most %s", t.ID, jitter, most)
	}
	return nil
}
