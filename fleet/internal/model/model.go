// Package model is what the fleet server's HTTP API speaks: plain types that the server fills and the CLI prints.
package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

// Selector picks devices: exactly one of its fields is set.
type Selector struct {
	Device string            `json:"device,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // all of them
	All    bool              `json:"all,omitempty"`
}

// Check reports whether s is one selector.
func (s Selector) Check() error {
	n := 0
	for _, set := range []bool{s.Device != "", len(s.Labels) > 0, s.All} {
		if set {
			n++
		}
	}
	if n != 1 {
		return errors.New("check selector: want exactly one of device, labels and all")
	}
	if s.Device != "" {
		return wire.CheckName("device", s.Device)
	}
	if len(s.Labels) > wire.MaxLabels {
		return fmt.Errorf("check selector: %d labels, at most %d", len(s.Labels), wire.MaxLabels)
	}
	return nil
}

// Matches reports whether s picks the device of that name with those labels.
func (s Selector) Matches(name string, labels map[string]string) bool {
	switch {
	case s.All:
		return true
	case s.Device != "":
		return s.Device == name
	}
	for k, v := range s.Labels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return len(s.Labels) > 0
}

func (s Selector) String() string {
	switch {
	case s.All:
		return "all devices"
	case s.Device != "":
		return "device " + s.Device
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		parts = append(parts, k+"="+s.Labels[k])
	}
	return "devices with " + strings.Join(parts, ", ")
}

// Device is one board as the server sees it.
type Device struct {
	Name         string               `json:"name"`
	Online       bool                 `json:"online"`
	FirstSeen    time.Time            `json:"first_seen"`
	LastSeen     time.Time            `json:"last_seen"`
	Labels       map[string]string    `json:"labels,omitempty"`
	Agent        string               `json:"agent"` // agent's version
	Arch         string               `json:"arch"`
	Boot         string               `json:"boot"`
	Generation   Generation           `json:"generation"`
	Applications []Application        `json:"applications,omitempty"`
	Refused      *wire.Refusal        `json:"refused,omitempty"`
	Frozen       bool                 `json:"frozen,omitempty"`
	Clock        wire.ClockQuality    `json:"clock,omitempty"`
	ReportedAt   time.Time            `json:"reported_at,omitzero"` // by the board's clock
	Triggers     []wire.TriggerReport `json:"triggers,omitempty"`
	Counters     wire.Counters        `json:"counters"`
	Trust        wire.TrustReport     `json:"trust"`
	Outbox       *wire.OutboxReport   `json:"outbox,omitempty"` // what waits on it to be sent
	Removed      []wire.RemovedReport `json:"removed,omitempty"`
	Disk         *wire.DiskReport     `json:"disk,omitempty"` // nil where there is room
}

// Generation of a board's desired state: what it should have, and what it says it has.
type Generation struct {
	Desired  uint64 `json:"desired"`
	Reported uint64 `json:"reported"`
}

// Application is one application of a board: the version that it should run, and what it reports.
type Application struct {
	Application string         `json:"application"`
	Desired     string         `json:"desired,omitempty"` // version; empty: not assigned, to be removed
	Digest      *wire.Digest   `json:"digest,omitempty"`  // of the desired release
	Version     string         `json:"version,omitempty"` // reported
	Phase       wire.Phase     `json:"phase,omitempty"`   // reported
	Progress    *wire.Progress `json:"progress,omitempty"`
	Error       string         `json:"error,omitempty"`
}

// Devices answers GET /v1/devices. Revision grows with each change of any device, from one start of the server to the
// next: ?after=<revision>&wait=<seconds> answers when there is a newer one.
type Devices struct {
	Revision uint64   `json:"revision"`
	Devices  []Device `json:"devices"`
}

// Fleet answers GET /v1/fleet.
type Fleet struct {
	Fleet   string `json:"fleet,omitempty"` // empty before the first root
	Root    int64  `json:"root"`            // metadata versions, 0 for none
	Targets int64  `json:"targets"`
	Devices int    `json:"devices"`
	Version string `json:"version"` // the server's
}

// Keys answers GET /v1/keys: public halves of the keys that the server made for itself, in TUF's JSON form.
type Keys struct {
	Snapshot  json.RawMessage `json:"snapshot"`
	Timestamp json.RawMessage `json:"timestamp"`
	Director  json.RawMessage `json:"director"`
}

// NewRoot is POST /v1/root: a root, and with the first one also the first targets.
type NewRoot struct {
	Root    []byte `json:"root"`
	Targets []byte `json:"targets,omitempty"`
}

// NewRelease is POST /v1/releases: a release manifest, and targets that name it.
type NewRelease struct {
	Manifest []byte `json:"manifest"`
	Targets  []byte `json:"targets"`
}

// NewDesired is POST /v1/desired: run a release on the devices that the selector picks, or none of the application, now and from now on.
type NewDesired struct {
	Application string   `json:"application"`
	Version     string   `json:"version,omitempty"` // empty with Remove
	Remove      bool     `json:"remove,omitempty"`
	Selector    Selector `json:"selector"`
}

// Assigned answers POST /v1/desired: the devices that the selector picks now, with their generation of desired state.
type Assigned struct {
	Revision uint64          `json:"revision"`
	Devices  []AssignedState `json:"devices"`
}

// AssignedState is one device of an Assigned.
type AssignedState struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"`
	Online     bool   `json:"online"`
}

// Uplinks answers GET /v1/data: messages that boards' handlers published on uplink topics, oldest first.
type Uplinks struct {
	Messages []Uplink `json:"messages"`
}

// Uplink is one message from a board's handler.
type Uplink struct {
	Sequence    uint64            `json:"sequence"` // the server's; ask for those after it
	Device      string            `json:"device"`
	Received    time.Time         `json:"received"`
	At          time.Time         `json:"at"` // by the board's clock
	Clock       wire.ClockQuality `json:"clock"`
	Historical  bool              `json:"historical,omitempty"` // published before the connection that it came over
	Boot        wire.BootID       `json:"boot"`                 // of the board, when it was published
	Up          int64             `json:"up"`                   // milliseconds since that boot
	Application string            `json:"application"`
	Topic       string            `json:"topic"`
	Number      uint64            `json:"number,omitempty"`  // its place among the messages of its topic, from 1; 0: the board didn't count it
	Missing     uint64            `json:"missing,omitempty"` // messages of its topic right before it that were lost on the board
	Payload     []byte            `json:"payload"`
}

// Streams answers GET /v1/devices/<name>/streams: the topics on which a board has sent messages.
type Streams struct {
	Streams []Stream `json:"streams"`
}

// Stream is one topic of one board. What is newer than its newest message has not arrived yet; what is missing before that was lost on the board.
type Stream struct {
	Application string `json:"application"`
	Topic       string `json:"topic"`
	Number      uint64 `json:"number"`  // of the newest message
	Missing     uint64 `json:"missing"` // messages before it that were lost on the board
}

// Error is the body of every answer that is not a success.
type Error struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}
