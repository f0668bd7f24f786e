package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"dunlin.dev/dunlin/fleet/internal/requests"
	"dunlin.dev/dunlin/fleet/wire"
)

// getEvents answers with a page of a board's dead letters: ?after=<event> for the next one.
func (a *api) getEvents(w http.ResponseWriter, r *http.Request) {
	list := func(ctx context.Context, device, after string) (wire.Events, error) {
		return a.Requests.Events(ctx, device, after)
	}
	ask(a, w, r, wire.EventsList, r.URL.Query().Get("after"), list)
}

// audited asks a board for what a request to the API names, and writes down who asked.
func audited[T any](a *api, o wire.Operation, do func(ctx context.Context, device, event string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { ask(a, w, r, o, r.PathValue("event"), do) }
}

func ask[T any](a *api, w http.ResponseWriter, r *http.Request, o wire.Operation, event string, do func(ctx context.Context, device, event string) (T, error)) {
	device := r.PathValue("name")
	if err := wire.CheckName("device", device); err != nil {
		a.fail(w, r, http.StatusBadRequest, err, "")
		return
	}
	if event != "" {
		if _, err := wire.ParseEvent(event); err != nil {
			a.fail(w, r, http.StatusBadRequest, err, "dunlin events lists them")
			return
		}
	}
	v, err := do(r.Context(), device, event)
	outcome := "done"
	if err != nil {
		outcome = err.Error()
	}
	// There is one admin token, so where it came from is all that is known of who.
	a.Log.Info("request to a device", "operation", o, "device", device, "event", event, "remote", r.RemoteAddr,
		"forwarded", fmt.Sprintf("%.200s", r.Header.Get("X-Forwarded-For")), "outcome", outcome)
	var refusal *requests.Refusal
	if errors.As(err, &refusal) {
		a.fail(w, r, refused(refusal.Code), err, "")
		return
	}
	a.result(w, r, http.StatusOK, v, err)
}

// refused is a board's own error, as HTTP has it; what else it says is its failure.
func refused(c wire.ErrorCode) int {
	switch c {
	case wire.CodeBadRequest:
		return http.StatusBadRequest
	case wire.CodeNotFound:
		return http.StatusNotFound
	case wire.CodeRefused:
		return http.StatusConflict
	case wire.CodeBusy:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadGateway
}
