package trust

import (
	"errors"
	"fmt"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Kind of a verdict: ask with errors.Is(err, trust.Expired).
type Kind string

// Kinds.
const (
	Expired     Kind = "expired"
	Rollback    Kind = "older than what was seen"
	Signature   Kind = "not signed by enough trusted keys"
	Malformed   Kind = "malformed"
	Mismatch    Kind = "doesn't match what was signed"
	WrongFleet  Kind = "for another fleet"
	WrongDevice Kind = "for another device"
	Unknown     Kind = "not among the signed releases"
	BelowFloor  Kind = "below the floor"
	TooLarge    Kind = "too large"
	Order       Kind = "out of order" // a bug of the caller
)

func (k Kind) Error() string { return string(k) }

// Error is a verdict against something. Role and Version say against what, Hint is the way out.
type Error struct {
	Kind    Kind
	Role    Role  // or "release"
	Version int64 // metadata version or desired generation, 0 if it is not known
	Detail  string
	Hint    string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("verify ")
	b.WriteString(string(e.Role))
	if e.Version != 0 {
		fmt.Fprintf(&b, " %d", e.Version)
	}
	b.WriteString(": " + string(e.Kind))
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap gives the Kind, for errors.Is.
func (e *Error) Unwrap() error { return e.Kind }

// hints by role and kind; what a person can do.
func hint(role Role, kind Kind) string {
	switch kind {
	case Expired:
		switch role {
		case Root:
			return "sign a new root with the root keys and upload it"
		case Targets:
			return "sign the targets again with a release key (any push does)"
		}
		return "is the fleet server running, and is this clock right?"
	case Signature:
		return "were keys changed without a new root?"
	case Rollback:
		return "was the server restored from an old backup? It must go on above this number"
	}
	return ""
}

func verdict(kind Kind, role Role, version int64, format string, args ...any) *Error {
	return &Error{Kind: kind, Role: role, Version: version, Detail: fmt.Sprintf(format, args...), Hint: hint(role, kind)}
}

// fromTUF sorts go-tuf's errors. got is the version that the refused file claims, known the one that it had to reach.
func fromTUF(role Role, got, known int64, err error) *Error {
	kind := Malformed
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		kind = Expired
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		kind = Signature
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		kind = Mismatch
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		switch {
		case role == Snapshot && got == known: // go-tuf's text has the two numbers the wrong way round
			return verdict(Rollback, role, got, "it goes back to older targets")
		case role == Timestamp || got <= known:
			kind = Rollback
		default:
			kind = Mismatch
		}
	case errors.Is(err, &metadata.ErrRepository{}):
		kind = Mismatch
	case errors.Is(err, &metadata.ErrRuntime{}):
		kind = Order
	}
	return verdict(kind, role, got, "%s", tufText(err))
}

// tufText is the message of a go-tuf error without its type prefix.
func tufText(err error) string {
	_, s, ok := strings.Cut(err.Error(), " error: ")
	if !ok {
		return err.Error()
	}
	return s
}
