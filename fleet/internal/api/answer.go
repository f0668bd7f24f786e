package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"dunlin.dev/dunlin/fleet/internal/content"
	"dunlin.dev/dunlin/fleet/internal/devices"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/internal/registry"
	"dunlin.dev/dunlin/fleet/internal/requests"
	"dunlin.dev/dunlin/fleet/internal/store"
)

// codes by what is in an error's chain, first match first.
var codes = []struct {
	err  error
	code int
	hint string
}{
	{registry.ErrNoFleet, http.StatusConflict, "make the keys first: dunlin keys init --to URL"},
	{devices.ErrNoFleet, http.StatusConflict, "make the keys first: dunlin keys init --to URL"},
	{registry.ErrRefused, http.StatusUnprocessableEntity, ""},
	{registry.ErrMissing, http.StatusUnprocessableEntity, "upload the components first"},
	{registry.ErrConflict, http.StatusConflict, "fetch the newest targets and sign again"},
	{content.ErrMismatch, http.StatusUnprocessableEntity, "the file changed or was damaged on the way: upload it again"},
	{content.ErrOffset, http.StatusRequestedRangeNotSatisfiable, ""},
	{content.ErrBusy, http.StatusConflict, "try again in a moment"},
	{content.ErrNoSpace, http.StatusInsufficientStorage, "make room on the server's disk"},
	{store.ErrNotFound, http.StatusNotFound, ""},
	{devices.ErrOffline, http.StatusServiceUnavailable, "ask again when it is back: dunlin devices tells"},
	{requests.ErrTooOld, http.StatusNotImplemented, "install a newer dunlin-agent on the board"},
	{requests.ErrBusy, http.StatusTooManyRequests, "try again in a moment"},
	{requests.ErrSilent, http.StatusGatewayTimeout, "whether it was done is not known: ask it what it has now"},
	{requests.ErrLost, http.StatusGatewayTimeout, "ask again when it is back: dunlin devices tells"},
	{requests.ErrNonsense, http.StatusBadGateway, ""},
	{io.ErrUnexpectedEOF, http.StatusBadRequest, "the upload broke off: go on where it ended"},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout, "the upload stood still: go on where it ended"},
}

func (a *api) result(w http.ResponseWriter, r *http.Request, code int, v any, err error) {
	if err != nil {
		a.error(w, r, err)
		return
	}
	a.answer(w, r, code, v)
}

func (a *api) error(w http.ResponseWriter, r *http.Request, err error) {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			a.fail(w, r, c.code, err, c.hint)
			return
		}
	}
	a.Log.Error("answer request", "method", r.Method, "path", r.URL.Path, "error", err)
	a.fail(w, r, http.StatusInternalServerError, errors.New("the server failed: see its log"), "")
}

func (a *api) fail(w http.ResponseWriter, r *http.Request, code int, err error, hint string) {
	a.Log.Debug("refuse request", "method", r.Method, "path", r.URL.Path, "code", code, "error", err)
	a.answer(w, r, code, model.Error{Error: err.Error(), Hint: hint})
}

func (a *api) answer(w http.ResponseWriter, r *http.Request, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		a.Log.Error("encode answer", "path", r.URL.Path, "error", err)
		http.Error(w, `{"error":"the server failed: see its log"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	a.write(w, r, append(b, '\n'))
}

func (a *api) write(w http.ResponseWriter, r *http.Request, b []byte) {
	if _, err := w.Write(b); err != nil {
		a.Log.Debug("write answer", "path", r.URL.Path, "error", err)
	}
}

func contextWithTimeout(r *http.Request, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), d)
}
