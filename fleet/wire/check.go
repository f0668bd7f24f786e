package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

func marshal[T any, P interface {
	*T
	checker
}](name string, m T, limit int) ([]byte, error) {
	return encode(name, P(&m), limit)
}

func unmarshal[T any, P interface {
	*T
	checker
}](name string, b []byte, limit int) (T, error) {
	var m T
	if err := decode(name, b, P(&m), limit); err != nil {
		var zero T
		return zero, err
	}
	return m, nil
}

// MarshalHello gives the canonical bytes of m; an error if its values aren't allowed. So do all the Marshal functions.
func MarshalHello(m Hello) ([]byte, error) { return marshal("hello", m, MaxMessageBytes) }

// UnmarshalHello reads canonical bytes, and refuses all else. So do all the Unmarshal functions. A hello of another
// protocol version is an ErrVersion.
func UnmarshalHello(b []byte) (Hello, error) {
	var v struct{ Version int }
	if json.Unmarshal(b, &v) == nil && v.Version != 0 && v.Version != Version {
		return Hello{}, fmt.Errorf("decode hello: board speaks protocol %d, this server %d; upgrade the older one, servers first: %w", v.Version, Version, ErrVersion)
	}
	return unmarshal[Hello]("hello", b, MaxMessageBytes)
}

// MarshalState gives the canonical bytes of m.
func MarshalState(m State) ([]byte, error) { return marshal("state", m, MaxMessageBytes) }

// UnmarshalState is the inverse of MarshalState.
func UnmarshalState(b []byte) (State, error) { return unmarshal[State]("state", b, MaxMessageBytes) }

// MarshalReported gives the canonical bytes of m.
func MarshalReported(m Reported) ([]byte, error) { return marshal("reported", m, MaxMessageBytes) }

// UnmarshalReported is the inverse of MarshalReported.
func UnmarshalReported(b []byte) (Reported, error) {
	return unmarshal[Reported]("reported", b, MaxMessageBytes)
}

// MarshalDesired gives the canonical bytes of m, for the director to sign.
func MarshalDesired(m Desired) ([]byte, error) { return marshal("desired", m, MaxDesiredBytes) }

// UnmarshalDesired is the inverse of MarshalDesired. It verifies nothing: boards ask trust.
func UnmarshalDesired(b []byte) (Desired, error) {
	return unmarshal[Desired]("desired", b, MaxDesiredBytes)
}

// MarshalGet gives the canonical bytes of m.
func MarshalGet(m Get) ([]byte, error) { return marshal("get", m, MaxMessageBytes) }

// UnmarshalGet is the inverse of MarshalGet.
func UnmarshalGet(b []byte) (Get, error) { return unmarshal[Get]("get", b, MaxMessageBytes) }

// MarshalLog gives the canonical bytes of m.
func MarshalLog(m Log) ([]byte, error) { return marshal("log", m, MaxMessageBytes) }

// UnmarshalLog is the inverse of MarshalLog.
func UnmarshalLog(b []byte) (Log, error) { return unmarshal[Log]("log", b, MaxMessageBytes) }

// MarshalDo gives the canonical bytes of m, for the director to sign.
func MarshalDo(m Do) ([]byte, error) { return marshal("do", m, MaxDoBytes) }

// UnmarshalDo is the inverse of MarshalDo. It verifies nothing: boards ask trust.
func UnmarshalDo(b []byte) (Do, error) { return unmarshal[Do]("do", b, MaxDoBytes) }

// MarshalDone gives the canonical bytes of m.
func MarshalDone(m Done) ([]byte, error) { return marshal("done", m, MaxMessageBytes) }

// UnmarshalDone is the inverse of MarshalDone.
func UnmarshalDone(b []byte) (Done, error) { return unmarshal[Done]("done", b, MaxMessageBytes) }

// MarshalRelease gives the canonical bytes of m: what release keys sign and boards keep.
func MarshalRelease(m Release) ([]byte, error) { return marshal("release", m, MaxManifestBytes) }

// ParseRelease is the inverse of MarshalRelease. On a board, give it the manifest of a trust.Release.
func ParseRelease(b []byte) (Release, error) {
	return unmarshal[Release]("release", b, MaxManifestBytes)
}

func (m *Hello) check() error {
	if m.Version != Version {
		return fmt.Errorf("protocol %d, want %d: %w", m.Version, Version, ErrVersion)
	}
	if err := first(CheckName("session", m.Session), text("agent version", m.Agent, MaxNameBytes), text("arch", m.Arch, MaxNameBytes), text("boot id", m.Boot, MaxNameBytes)); err != nil {
		return err
	}
	if len(m.Labels) > MaxLabels {
		return fmt.Errorf("%d labels, limit is %d", len(m.Labels), MaxLabels)
	}
	for k, v := range m.Labels {
		if err := first(CheckName("label", k), text("label "+k, v, MaxLabelBytes)); err != nil {
			return err
		}
	}
	if len(m.Installed) > MaxReleases {
		return fmt.Errorf("%d installed applications, limit is %d", len(m.Installed), MaxReleases)
	}
	for _, i := range m.Installed {
		if err := first(CheckName("application", i.Application), text("version", i.Version, MaxNameBytes)); err != nil {
			return err
		}
	}
	if len(m.Operations) > MaxOperations {
		return fmt.Errorf("%d operations, limit is %d", len(m.Operations), MaxOperations)
	}
	for _, o := range m.Operations {
		if err := CheckName("operation", string(o)); err != nil {
			return err
		}
	}
	return nil
}

func (m *State) check() error { return CheckName("session", m.Session) }

func (m *Reported) check() error {
	if err := first(CheckName("session", m.Session), utc("at", m.At)); err != nil {
		return err
	}
	if !oneOf(m.Clock, ClockSynced, ClockEstimated, ClockUnsynced) {
		return fmt.Errorf("unknown clock quality %q", m.Clock)
	}
	if len(m.Apps) > MaxReleases || len(m.Triggers) > MaxReleases*MaxTriggers {
		return fmt.Errorf("%d applications and %d triggers, limits are %d and %d", len(m.Apps), len(m.Triggers), MaxReleases, MaxReleases*MaxTriggers)
	}
	for _, a := range m.Apps {
		if err := first(CheckName("application", a.Application), text("version", a.Version, MaxNameBytes), text("error", a.Error, MaxErrorBytes)); err != nil {
			return err
		}
		if !oneOf(a.Phase, PhaseIdle, PhaseFetching, PhaseVerifying, PhaseCompiling, PhaseStarting, PhaseRunning, PhaseFailed) {
			return fmt.Errorf("application %s: unknown phase %q", a.Application, a.Phase)
		}
		if p := a.Progress; p != nil && (p.Done < 0 || p.Total < p.Done) {
			return fmt.Errorf("application %s: progress %d of %d", a.Application, p.Done, p.Total)
		}
	}
	for _, t := range m.Triggers {
		if err := first(CheckName("application", t.Application), CheckTriggerID(t.ID), text("detail", t.Detail, MaxErrorBytes)); err != nil {
			return err
		}
		if !oneOf(t.Status, TriggerServing, TriggerDegraded, TriggerStopped) {
			return fmt.Errorf("trigger %s: unknown status %q", t.ID, t.Status)
		}
	}
	if len(m.Removed) > MaxReleases {
		return fmt.Errorf("%d removed applications, limit is %d", len(m.Removed), MaxReleases)
	}
	for _, r := range m.Removed {
		if err := first(CheckName("application", r.Application), text("version", r.Version, MaxNameBytes)); err != nil {
			return err
		}
	}
	if m.Refused != nil {
		if err := text("reason", m.Refused.Reason, MaxErrorBytes); err != nil {
			return err
		}
	}
	if d := m.Disk; d != nil && (d.Free < 0 || d.Keep < 0) {
		return fmt.Errorf("disk with %d bytes free, %d to be kept so", d.Free, d.Keep)
	}
	if o := m.Outbox; o != nil {
		if o.Messages < 0 || o.Bytes < 0 || len(o.Dropped) > MaxLabels {
			return fmt.Errorf("outbox of %d messages with %d bytes, dropped for %d reasons", o.Messages, o.Bytes, len(o.Dropped))
		}
		for why := range o.Dropped {
			if err := CheckName("reason", why); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Desired) check() error {
	if err := first(CheckName("fleet", m.Fleet), CheckName("device", m.Device), utc("issued", m.Issued)); err != nil {
		return err
	}
	if m.Generation == 0 || m.Issued.Nanosecond() != 0 {
		return fmt.Errorf("generation %d issued %s: want a generation from 1 and whole seconds", m.Generation, m.Issued)
	}
	if len(m.Releases) > MaxReleases {
		return fmt.Errorf("%d releases, limit is %d", len(m.Releases), MaxReleases)
	}
	for i, r := range m.Releases {
		if err := first(CheckName("application", r.Application), text("version", r.Version, MaxNameBytes), text("target", r.Target, MaxTopicBytes)); err != nil {
			return err
		}
		if i > 0 && m.Releases[i-1].Application >= r.Application {
			return fmt.Errorf("release of %s after %s: sort by application, one each", r.Application, m.Releases[i-1].Application)
		}
	}
	return nil
}

func (m *Get) check() error {
	set := 0
	for _, is := range []bool{m.Meta != nil, m.Offer != nil, m.Blocks != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("%d requests in one message, want meta, offer or blocks", set)
	}
	switch {
	case m.Meta != nil:
		return m.Meta.check()
	case m.Offer != nil:
		return m.Offer.check()
	}
	return m.Blocks.check()
}

func (m *MetaRequest) check() error {
	if !oneOf(m.Role, RoleRoot, RoleTimestamp, RoleSnapshot, RoleTargets, RoleRelease) {
		return fmt.Errorf("unknown role %q", m.Role)
	}
	if m.Version < 0 || (m.Role == RoleRelease) != (m.Digest != nil) || m.Role == RoleRelease && m.Version != 0 {
		return fmt.Errorf("%s by version %d, digest %v: want a digest for a release, a version for the rest", m.Role, m.Version, m.Digest)
	}
	return nil
}

func (m *OfferRequest) check() error {
	if m.Size < 1 || m.Size > MaxBlobBytes {
		return fmt.Errorf("target of %d bytes, want 1 to %d", m.Size, MaxBlobBytes)
	}
	if len(m.Have) > MaxHave {
		return fmt.Errorf("%d bases, limit is %d", len(m.Have), MaxHave)
	}
	if m.BlockBytes < MinBlockBytes || m.BlockBytes > MaxBlockBytes {
		return fmt.Errorf("blocks of %d bytes, want %d to %d", m.BlockBytes, MinBlockBytes, MaxBlockBytes)
	}
	return nil
}

func (m *BlockRequest) check() error {
	var count, next uint64
	for i, r := range m.Ranges {
		if r.Count == 0 || i > 0 && uint64(r.First) <= next {
			return fmt.Errorf("range of %d blocks from %d: want ascending ranges that don't touch", r.Count, r.First)
		}
		count += uint64(r.Count)
		next = uint64(r.First) + uint64(r.Count)
	}
	if count == 0 || count > MaxWindow || next > 1<<32 {
		return fmt.Errorf("%d blocks up to %d in one request, want 1 to %d", count, next, MaxWindow)
	}
	return nil
}

func (m *Log) check() error {
	if err := CheckName("session", m.Session); err != nil {
		return err
	}
	if len(m.Lines) == 0 || len(m.Lines) > MaxLogLines {
		return fmt.Errorf("%d lines, want 1 to %d", len(m.Lines), MaxLogLines)
	}
	for _, l := range m.Lines {
		if !oneOf(l.Level, "debug", "info", "warn", "error") {
			return fmt.Errorf("line %d: unknown level %q", l.Sequence, l.Level)
		}
		if err := first(utc("at", l.At), text("text", l.Text, MaxMessageBytes), text("application", l.Application, MaxNameBytes), text("component", l.Component, MaxNameBytes)); err != nil {
			return err
		}
	}
	return nil
}

// CheckTriggerID checks a trigger's id: as a name, up to MaxTriggerID bytes.
func CheckTriggerID(s string) error {
	if len(s) > MaxTriggerID {
		return fmt.Errorf("trigger id %.100q is longer than %d bytes", s, MaxTriggerID)
	}
	if s == "" || s[0] == '-' || s[0] == '.' || strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f || !nameByte(byte(r)) }) {
		return fmt.Errorf("trigger id %q: use lower-case letters, digits, dots, - and _, and start it with a letter or digit", s)
	}
	return nil
}

func text(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s of %d bytes, limit is %d", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", what)
	}
	return nil
}

func utc(what string, t time.Time) error {
	if t.IsZero() || t.Location() != time.UTC {
		return fmt.Errorf("%s %s: want a time in UTC", what, t)
	}
	return nil
}

func oneOf[T comparable](v T, allowed ...T) bool {
	for _, a := range allowed {
		if v == a {
			return true
		}
	}
	return false
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
