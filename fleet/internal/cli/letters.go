package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/wire"
)

// local is the dead letters of an agent on this machine, over its control socket.
type local struct{ client *http.Client }

func (l local) all(ctx context.Context) (wire.Events, error) {
	return askAgent[wire.Events](ctx, l, http.MethodGet, "events")
}

func (l local) one(ctx context.Context, event string) (wire.DeadEvent, error) {
	return askAgent[wire.DeadEvent](ctx, l, http.MethodGet, "events/"+url.PathEscape(event))
}

func (l local) retry(ctx context.Context, event string) (wire.Renamed, error) {
	return askAgent[wire.Renamed](ctx, l, http.MethodPost, "events/"+url.PathEscape(event)+"/retry")
}

func (l local) drop(ctx context.Context, event string) (wire.Renamed, error) {
	return askAgent[wire.Renamed](ctx, l, http.MethodDelete, "events/"+url.PathEscape(event))
}

// askAgent asks the agent; its refusals are its own words.
func askAgent[T any](ctx context.Context, l local, method, path string) (answer T, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost/"+path, nil)
	if err != nil {
		return answer, Usage("%v", err)
	}
	resp, err := l.client.Do(req)
	var broken *url.Error
	if errors.As(err, &broken) {
		err = broken.Err // its URL is no place that the user knows
	}
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer, fmt.Errorf("read the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return answer, errors.New(strings.TrimSpace(string(body)))
	}
	return answer, json.Unmarshal(body, &answer)
}

// remote is the dead letters of a board of the fleet, through the fleet's server.
type remote struct {
	client *client.Client
	device string
}

// maxLetters bounds what is taken of one board: more than a board keeps.
const maxLetters = 10_000

func (r remote) all(ctx context.Context) (all wire.Events, err error) {
	all.Dead, all.More = []wire.DeadEvent{}, true
	for after := ""; all.More && len(all.Dead) < maxLetters; {
		page, err := r.client.Events(ctx, r.device, after)
		if err != nil {
			return all, err
		}
		page.Dead = append(all.Dead, page.Dead...)
		if all = page; len(all.Dead) > 0 {
			after = all.Dead[len(all.Dead)-1].Event
		}
	}
	return all, nil
}

func (r remote) one(ctx context.Context, event string) (wire.DeadEvent, error) {
	return r.client.Event(ctx, r.device, event)
}

func (r remote) retry(ctx context.Context, event string) (wire.Renamed, error) {
	return r.client.RetryEvent(ctx, r.device, event)
}

func (r remote) drop(ctx context.Context, event string) (wire.Renamed, error) {
	return r.client.DropEvent(ctx, r.device, event)
}
