package wire

import (
	"fmt"
	"time"
)

// UplinkRule says how messages to the fleet on some topics leave a board, and what may wait of them.
type UplinkRule struct {
	Topic    string   `json:"topic"`              // MQTT topic filter, without "uplink:"
	Priority Priority `json:"priority,omitempty"` // "": PriorityNormal
	Bytes    int64    `json:"bytes,omitempty"`    // that wait on a board; 0: what the board's own limit leaves
	Age      Duration `json:"age,omitempty"`      // older ones are dropped; 0: as the board's own limit says
	Reject   bool     `json:"reject,omitempty"`   // when full, publishing fails; else the oldest are dropped
}

// Priority of a message to the fleet: what is sent first and dropped last.
type Priority string

// Priorities; a manifest calls the second one "normal".
const (
	PriorityHigh   Priority = "high"
	PriorityNormal Priority = ""
	PriorityLow    Priority = "low"
)

// Bounds of an UplinkRule.
const (
	MaxUplinkRules = 64
	MinUplinkBytes = 4 << 10
	MaxUplinkBytes = 1 << 30
	MinUplinkAge   = time.Second
	MaxUplinkAge   = 87_600 * time.Hour // ten years
)

func (r UplinkRule) check() error {
	if err := CheckFilter(r.Topic); err != nil {
		return err
	}
	if !oneOf(r.Priority, PriorityHigh, PriorityNormal, PriorityLow) {
		return fmt.Errorf("uplink %s: priority %.80q", r.Topic, r.Priority)
	}
	if r.Bytes != 0 && (r.Bytes < MinUplinkBytes || r.Bytes > MaxUplinkBytes) {
		return fmt.Errorf("uplink %s: %d bytes, want %d to %d", r.Topic, r.Bytes, MinUplinkBytes, MaxUplinkBytes)
	}
	if age := time.Duration(r.Age); age != 0 && (age < MinUplinkAge || age > MaxUplinkAge) {
		return fmt.Errorf("uplink %s: age of %s, want %s to %s", r.Topic, age, MinUplinkAge, MaxUplinkAge)
	}
	return nil
}
