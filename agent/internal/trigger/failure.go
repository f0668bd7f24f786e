package trigger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Failure is why a Handler did not handle an event; none of the event's effects happened, unless Reason says otherwise.
// Whoever makes one has logged it: what handles it further says only what it adds.
type Failure struct {
	Event  string // the event's id; log lines about it carry the same
	Reason Reason
	Err    error
}

// Reason sorts failures by what a source does about them.
type Reason string

// Reasons of a Failure.
const (
	Busy        Reason = "busy"          // too many events wait: this one was not tried
	Closed      Reason = "closed"        // this version takes no more events: ask for the handler again
	Unavailable Reason = "unavailable"   // the component can't be loaded, or the store can't commit: wait, and acknowledge nothing
	TooLarge    Reason = "payload-limit" // the event or the answer to it
	TooSlow     Reason = "time-limit"
	TooBusy     Reason = "cpu-limit"
	TooBig      Reason = "memory-limit"
	Trapped     Reason = "trap"
	Refused     Reason = "error"    // the handler returned an error of its own
	Conflicted  Reason = "conflict" // with concurrent events, each time that it was tried
	Repeated    Reason = "repeated" // it took effect before
	Early       Reason = "early"    // the event that it follows did not take effect: run it again after that one
	Canceled    Reason = "canceled" // the client went away, maybe after the event took effect, or the agent stops
)

// OverLimit is the reason of a handler that failed after it had reached a limit, by the limit's key in the manifest: "key_value" gives
// "key-value-limit".
func OverLimit(key string) Reason { return Reason(strings.ReplaceAll(key, "_", "-") + "-limit") }

// Error names the event, so that one line is enough to find the rest in the log.
func (f *Failure) Error() string { return fmt.Sprintf("handle event %s: %v", f.Event, f.Err) }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// ReasonOf an error that a Handler returned; Refused for one that is no Failure, "" for nil.
func ReasonOf(err error) Reason {
	var f *Failure
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.Reason
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Refused
}

// Guarded calls h, and turns a panic into an error: one handler's bug is one event's failure.
func Guarded(ctx context.Context, h Handler, e *Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler panicked: %v", p)
		}
	}()
	return h(ctx, e)
}

// RetryDelay before attempt n+1 of an event that has failed n times, from 1: 100 ms, 400 ms, 1.6 s, 6.4 s, 25.6 s, and no
// more than 30 s.
func RetryDelay(n int) time.Duration {
	const first, most = 100 * time.Millisecond, 30 * time.Second
	if n > 5 {
		return most
	}
	return first << (2 * (max(n, 1) - 1))
}
