package wire

import (
	"encoding/json"
	"time"
)

// Hello is a board's birth message, first after each connect. Its session ties it to the State that the last will sends.
type Hello struct {
	Version   int               `json:"version"` // protocol version, see Version
	Session   string            `json:"session"` // new for each connect; a name as in CheckName
	Agent     string            `json:"agent"`   // agent's own version, "0.3.1"
	Arch      string            `json:"arch"`    // GOARCH: "arm64"
	Boot      string            `json:"boot"`    // kernel's boot id: tells a reconnect from a reboot
	Labels    map[string]string `json:"labels,omitempty"`
	Installed []Installed       `json:"installed,omitempty"`

	Operations []Operation `json:"operations,omitempty"` // of a Do that the agent knows; none: it is older than those
}

// Installed is one application that a board has, running or not.
type Installed struct {
	Application string `json:"application"`
	Version     string `json:"version"`
	Release     Digest `json:"release"` // digest of the release manifest
}

// State says whether a board is connected. Retained; the same session in the last will, so that a late will of an
// older connection is told from news.
type State struct {
	Online  bool   `json:"online"`
	Session string `json:"session"`
}

// Phase is where an application stands on a board. Append only.
type Phase string

// Phases, in the order of an install.
const (
	PhaseIdle      Phase = "idle" // installed, its triggers not serving
	PhaseFetching  Phase = "fetching"
	PhaseVerifying Phase = "verifying"
	PhaseCompiling Phase = "compiling"
	PhaseStarting  Phase = "starting"
	PhaseRunning   Phase = "running"
	PhaseFailed    Phase = "failed"
)

// ClockQuality says how far a board's time can be trusted.
type ClockQuality string

// Clock qualities.
const (
	ClockSynced    ClockQuality = "synced"    // the system clock is synchronised
	ClockEstimated ClockQuality = "estimated" // at or above the trusted floor, not synchronised
	ClockUnsynced  ClockQuality = "unsynced"  // below the trusted floor, or decades above it: At is the floor
)

// Reported is what a board says about itself: whole state, never a difference, so the newest one is enough.
type Reported struct {
	Session    string          `json:"session"`
	Sequence   uint64          `json:"sequence"` // grows within a session: a lower one is stale
	At         time.Time       `json:"at"`       // UTC
	Clock      ClockQuality    `json:"clock"`
	Generation uint64          `json:"generation"` // newest desired generation accepted; 0 before the first
	Apps       []AppReport     `json:"apps,omitempty"`
	Refused    *Refusal        `json:"refused,omitempty"` // newest desired state that was refused, until one is accepted
	Triggers   []TriggerReport `json:"triggers,omitempty"`
	Counters   Counters        `json:"counters"`
	Frozen     bool            `json:"frozen,omitempty"` // metadata expired: runs on, installs nothing
	Trust      TrustReport     `json:"trust"`
	Outbox     *OutboxReport   `json:"outbox,omitempty"` // nil where nothing waits and nothing was dropped
	Removed    []RemovedReport `json:"removed,omitempty"`
	Disk       *DiskReport     `json:"disk,omitempty"` // nil where there is room
}

// DiskReport is of a board whose disk is degraded: less of it is free than is to be kept so, in bytes.
type DiskReport struct {
	Free int64 `json:"free"`
	Keep int64 `json:"keep"`
}

// RemovedReport is an application that was removed and whose data the board still has.
type RemovedReport struct {
	Application string    `json:"application"`
	Version     string    `json:"version,omitempty"`
	Left        *Duration `json:"left,omitempty"` // until the data is deleted; nil: never
}

// OutboxReport is what waits on a board to leave it: messages to the fleet and deferred requests.
type OutboxReport struct {
	Messages int               `json:"messages"`
	Bytes    int64             `json:"bytes"`
	Dropped  map[string]uint64 `json:"dropped,omitempty"` // messages since the agent started, by why: age, full, disk, refused
}

// AppReport is one application on a board: the version that runs or is on its way.
type AppReport struct {
	Application string    `json:"application"`
	Version     string    `json:"version"`
	Release     Digest    `json:"release"`
	Phase       Phase     `json:"phase"`
	Progress    *Progress `json:"progress,omitempty"`
	Error       string    `json:"error,omitempty"`
}

// Progress of a transfer, in encoded bytes.
type Progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Refusal is a desired state that a board would not take, and why.
type Refusal struct {
	Generation uint64 `json:"generation"` // 0 if the envelope could not be read
	Reason     string `json:"reason"`
}

// TriggerStatus of one trigger.
type TriggerStatus string

// Trigger statuses.
const (
	TriggerServing  TriggerStatus = "serving"
	TriggerDegraded TriggerStatus = "degraded" // can't connect or listen; keeps trying
	TriggerStopped  TriggerStatus = "stopped"
)

// TriggerReport is one trigger's health.
type TriggerReport struct {
	Application string        `json:"application"`
	ID          string        `json:"id"`
	Status      TriggerStatus `json:"status"`
	Detail      string        `json:"detail,omitempty"`
}

// Counters since the agent started.
type Counters struct {
	Handled uint64 `json:"handled"`
	Failed  uint64 `json:"failed"`
	Retried uint64 `json:"retried"`
	Dropped uint64 `json:"dropped"`
	Dead    uint64 `json:"dead"` // dead letters that wait now
}

// TrustReport is the metadata versions that a board trusts; 0 where it has none.
type TrustReport struct {
	Root      int64 `json:"root"`
	Timestamp int64 `json:"timestamp"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
}

// Desired is what one board should run: the payload that the director signs (see trust.SignDesired). Applications that
// it doesn't name are removed.
type Desired struct {
	Fleet      string    `json:"fleet"`
	Device     string    `json:"device"`
	Generation uint64    `json:"generation"` // only grows, from 1
	Issued     time.Time `json:"issued"`     // UTC, whole seconds
	Releases   []Pointer `json:"releases,omitempty"`
}

// Pointer names one release among the signed targets.
type Pointer struct {
	Application string `json:"application"`
	Version     string `json:"version"`
	Release     Digest `json:"release"` // digest of the release manifest
	Target      string `json:"target"`  // TUF target path, "<application>/<version>.json"
}

// Log is a batch of log lines.
type Log struct {
	Session string    `json:"session"`
	Lines   []LogLine `json:"lines"`
	Dropped uint64    `json:"dropped,omitempty"` // lines lost before these, since the agent started
}

// LogLine is one line of a handler (Application set) or of the agent.
type LogLine struct {
	Sequence    uint64    `json:"sequence"`
	At          time.Time `json:"at"`
	Level       string    `json:"level"` // debug, info, warn, error
	Application string    `json:"application,omitempty"`
	Component   string    `json:"component,omitempty"`
	Text        string    `json:"text"`
}

// Do is a request to one board: the payload that the director signs (see trust.SignDo). It counts in the session that it names, before
// its deadline, and once: a repeat of its id only has its answer repeated.
type Do struct {
	Fleet     string            `json:"fleet"`
	Device    string            `json:"device"`
	Session   string            `json:"session"` // of the board's newest Hello
	ID        string            `json:"id"`
	Operation Operation         `json:"operation"`
	Deadline  time.Time         `json:"deadline"` // UTC
	Arguments map[string]string `json:"arguments,omitempty"`
}

// Done answers a Do: a Result in the operation's own shape, or a Code and its Error.
type Done struct {
	ID     string          `json:"id"`
	Code   ErrorCode       `json:"code,omitempty"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Role names a metadata file of the trust chain, or a release manifest.
type Role string

// Roles of a MetaRequest.
const (
	RoleRoot      Role = "root"
	RoleTimestamp Role = "timestamp"
	RoleSnapshot  Role = "snapshot"
	RoleTargets   Role = "targets"
	RoleRelease   Role = "release" // a release manifest, by digest
)

// Get asks the fleet for content; exactly one of the pointers is set. Answers are Frames with the same request id.
type Get struct {
	Request uint32        `json:"request"` // chosen by the board; answers carry it
	Meta    *MetaRequest  `json:"meta,omitempty"`
	Offer   *OfferRequest `json:"offer,omitempty"`
	Blocks  *BlockRequest `json:"blocks,omitempty"`
}

// MetaRequest asks for one metadata file (by version; 0 for the newest) or release manifest (by digest).
// The answer is FrameMeta parts, or an error frame with CodeNotFound.
type MetaRequest struct {
	Role    Role    `json:"role"`
	Version int64   `json:"version,omitempty"`
	Digest  *Digest `json:"digest,omitempty"` // RoleRelease only
}

// OfferRequest asks how the fleet would send a blob to a board that holds others. The answer is FrameOffer parts.
type OfferRequest struct {
	Target     Digest   `json:"target"`
	Size       int64    `json:"size"`           // target's signed size in bytes
	Have       []Digest `json:"have,omitempty"` // possible bases of a patch, best first
	BlockBytes int      `json:"block_bytes"`
}

// BlockRequest asks for some blocks of an offered encoding. The answer is one FrameBlock for each, in any order.
type BlockRequest struct {
	Encoding Digest  `json:"encoding"` // Offer.ID
	Ranges   []Range `json:"ranges"`   // ascending, not touching; at most MaxWindow blocks together
}

// Range is Count blocks from First.
type Range struct {
	First uint32 `json:"first"`
	Count uint32 `json:"count"`
}
