package requests

import (
	"context"
	"errors"
	"fmt"

	"dunlin.dev/dunlin/fleet/wire"
)

// ErrNonsense is in the chain of an error about an answer that means nothing: boards are not believed.
var ErrNonsense = errors.New("its answer means nothing")

func of[T any](device string, b []byte, err error, decode func([]byte) (T, error)) (T, error) {
	var zero T
	if err != nil {
		return zero, err
	}
	v, err := decode(b)
	if err != nil {
		return zero, fmt.Errorf("device %s: %w: %w", device, ErrNonsense, err)
	}
	return v, nil
}

// Events is a page of a board's dead letters, those after one; "": from the first. Pages end: their names grow.
func (r *Requests) Events(ctx context.Context, device, after string) (wire.Events, error) {
	arguments := map[string]string{}
	from := uint64(0)
	if after != "" {
		var err error
		if from, err = wire.ParseEvent(after); err != nil {
			return wire.Events{}, err
		}
		arguments["after"] = after
	}
	b, err := r.Ask(ctx, device, wire.EventsList, arguments)
	page, err := of(device, b, err, wire.UnmarshalEvents)
	if err == nil && after != "" && len(page.Dead) > 0 {
		if first, _ := wire.ParseEvent(page.Dead[0].Event); first <= from {
			return wire.Events{}, fmt.Errorf("device %s: %w: asked for events after %s, it gives %s", device, ErrNonsense, after, page.Dead[0].Event)
		}
	}
	return page, err
}

// Event is one dead letter with its payload, or the beginning of that.
func (r *Requests) Event(ctx context.Context, device, event string) (wire.DeadEvent, error) {
	b, err := r.Ask(ctx, device, wire.EventsShow, map[string]string{"event": event})
	return of(device, b, err, wire.UnmarshalDeadEvent)
}

// Retry a dead letter, which gets a new name.
func (r *Requests) Retry(ctx context.Context, device, event string) (wire.Renamed, error) {
	b, err := r.Ask(ctx, device, wire.EventsRetry, map[string]string{"event": event})
	return of(device, b, err, wire.UnmarshalRenamed)
}

// Drop a dead letter for good.
func (r *Requests) Drop(ctx context.Context, device, event string) (wire.Renamed, error) {
	b, err := r.Ask(ctx, device, wire.EventsDrop, map[string]string{"event": event})
	return of(device, b, err, wire.UnmarshalRenamed)
}
