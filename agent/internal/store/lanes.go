package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

// Priority of a message that leaves the board: what is sent first, and dropped last.
type Priority int8

// Priorities.
const (
	Low Priority = iota - 1
	Normal
	High
)

// UplinkRule bounds what waits of an application's messages to the fleet, on the topics that it matches.
type UplinkRule struct {
	Filter   string // MQTT topic filter, without "uplink:"
	Priority Priority
	Bytes    int64         // of rows that wait; 0: as much as the board's limit leaves
	Age      time.Duration // older messages are dropped; 0: the board's
	Reject   bool          // a full outbox refuses the next message, and drops none that it took
}

// UplinkLimits of the whole board.
type UplinkLimits struct {
	Bytes int64         // of rows; 0 is MaxUplinks
	Age   time.Duration // 0: none
}

// ErrFull refuses a message for which the outbox has no room, where its rule says so.
var ErrFull = errors.New("the outbox to the fleet is full")

// Why messages were dropped.
const (
	DroppedAge     = "age"     // older than its rule lets it become
	DroppedFull    = "full"    // a newer one, or one of a higher priority, needed the room
	DroppedDisk    = "disk"    // the board's disk needed it
	DroppedRefused = "refused" // its receiver takes it neither now nor later
)

const (
	maxLanes   = 4096 // with something in them; further topics share one
	maxStreams = 8192 // topics whose sequence is remembered: those that were used last
	sharedLane = 0    // of topics that found no lane of their own
)

// Lane is what waits of one topic of one application, in the order in which it leaves.
type Lane struct {
	ID          uint64
	Application string
	Topic       string // "uplink:" and the topic, or the origin of deferred requests; "" for the lane that many share
	Priority    Priority
	First, Last uint64 // ids of the oldest and the newest message
	Messages    int
	Bytes       int64

	class *class
}

// class is a rule, and what waits under it.
type class struct {
	UplinkRule
	bytes int64
}

// lanes is what waits, in memory. Store.mu guards it; the committer alone changes it, but for the rules.
type lanes struct {
	all     map[uint64]*Lane
	rules   map[string][]*class // by application
	other   *class              // of what no rule matches
	board   UplinkLimits
	bytes   int64
	kept    int64             // of them, what is never dropped for room
	streams map[uint64]stream // by lane id of the topic, also where it has no lane of its own
}

// stream is how far a topic's sequence has come.
type stream struct{ sequence, id uint64 }

func newLanes() lanes {
	return lanes{all: map[uint64]*Lane{}, rules: map[string][]*class{}, other: &class{}, board: UplinkLimits{Bytes: MaxUplinks}, streams: map[uint64]stream{}}
}

// laneID of a topic. Nobody finds two topics of one lane, so no application meets another's.
func laneID(application, topic string) uint64 {
	sum := sha256.Sum256([]byte(application + "\x00" + topic))
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

func isUplink(topic string) bool { return strings.HasPrefix(topic, wire.UplinkPrefix) }

// classOf a topic: that of the first rule that matches.
func (l *lanes) classOf(application, topic string) *class {
	if bare, ok := strings.CutPrefix(topic, wire.UplinkPrefix); ok {
		for _, c := range l.rules[application] {
			if wire.MatchFilter(c.Filter, bare) {
				return c
			}
		}
	}
	return l.other
}

// count what a lane holds more.
func (l *lanes) count(c *class, bytes int64) {
	l.bytes += bytes
	c.bytes += bytes
	if c.Reject {
		l.kept += bytes
	}
}

// crowded says that a topic finds no lane of its own, which deferred requests need.
func (l *lanes) crowded(application, topic string) bool {
	return !isUplink(topic) && l.all[laneID(application, topic)] == nil && len(l.all) >= maxLanes/2
}

// room says whether more bytes of a class that drops nothing fit, beside what a group adds.
func (l *lanes) room(c *class, more, group, groupKept int64) bool {
	return !c.Reject || (c.Bytes == 0 || c.bytes+group+more <= c.Bytes) && l.kept+groupKept+more <= l.board.Bytes
}

// SetUplinkLimits of the board.
func (s *Store) SetUplinkLimits(limits UplinkLimits) {
	if limits.Bytes == 0 {
		limits.Bytes = MaxUplinks
	}
	s.ruling.Lock()
	defer s.ruling.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lanes.board = limits
}

// SetUplinkRules of an application, the first that matches a topic first. They hold for what waits too; no rules is as before any were set.
func (s *Store) SetUplinkRules(application string, rules []UplinkRule) {
	s.ruling.Lock() // no group is on its way with the rules before
	defer s.ruling.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.lanes
	delete(l.rules, application)
	for _, r := range rules {
		l.rules[application] = append(l.rules[application], &class{UplinkRule: r})
	}
	for _, lane := range l.all {
		if lane.Application == application && lane.ID != sharedLane {
			l.count(lane.class, -lane.Bytes)
			lane.class = l.classOf(application, lane.Topic)
			lane.Priority = lane.class.Priority
			l.count(lane.class, lane.Bytes)
		}
	}
}

// roomFor is asked before a message is added to a transaction that has as many bytes of messages already.
func (s *Store) roomFor(application, topic string, more int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.lanes.classOf(application, topic)
	if s.lanes.crowded(application, topic) {
		return fmt.Errorf("%w: requests to too many hosts wait", ErrFull)
	}
	if s.lanes.room(c, more, 0, 0) {
		return nil
	}
	return fmt.Errorf("%w: %d bytes wait on topics like this one (%q)", ErrFull, c.bytes, c.Filter)
}

// Deferred says whether the lane is of requests to a host, and not of messages to the fleet.
func (l *Lane) Deferred() bool { return l.ID != sharedLane && !isUplink(l.Topic) }
