// Package api is the fleet server's HTTP interface: JSON over net/http, one admin token. The shapes are in package model.
package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/internal/content"
	"dunlin.dev/dunlin/fleet/internal/devices"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/internal/registry"
	"dunlin.dev/dunlin/fleet/internal/requests"
	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// Config of the API.
type Config struct {
	Token    string // who holds it may do everything
	Version  string // the server's
	Registry *registry.Registry
	Devices  *devices.Devices
	Blobs    *content.Blobs
	Store    *store.Store
	Requests *requests.Requests
	Founded  func(fleet string) // called after each accepted root
	Health   func() error
	Log      *slog.Logger
}

// Limits of requests.
const (
	maxBodyBytes = 16 << 20 // JSON; targets are the largest part, in base64
	maxWait      = time.Minute
	maxMessages  = 1000
)

type api struct {
	Config
	token [32]byte
}

// New gives the handler of the whole API.
func New(cfg Config) http.Handler {
	a := &api{Config: cfg, token: sha256.Sum256([]byte(cfg.Token))}
	private := http.NewServeMux()
	private.HandleFunc("GET /v1/fleet", a.getFleet)
	private.HandleFunc("GET /v1/keys", a.getKeys)
	private.HandleFunc("POST /v1/root", a.postRoot)
	private.HandleFunc("GET /v1/metadata/{role}", a.getMetadata)
	private.HandleFunc("HEAD /v1/blobs/{digest}", a.headBlob)
	private.HandleFunc("PUT /v1/blobs/{digest}", a.putBlob)
	private.HandleFunc("POST /v1/releases", a.postRelease)
	private.HandleFunc("POST /v1/desired", a.postDesired)
	private.HandleFunc("GET /v1/devices", a.getDevices)
	private.HandleFunc("GET /v1/devices/{name}", a.getDevice)
	private.HandleFunc("GET /v1/devices/{name}/streams", a.getStreams)
	private.HandleFunc("GET /v1/devices/{name}/events", a.getEvents)
	private.HandleFunc("GET /v1/devices/{name}/events/{event}", audited(a, wire.EventsShow, a.Requests.Event))
	private.HandleFunc("POST /v1/devices/{name}/events/{event}/retry", audited(a, wire.EventsRetry, a.Requests.Retry))
	private.HandleFunc("DELETE /v1/devices/{name}/events/{event}", audited(a, wire.EventsDrop, a.Requests.Drop))
	private.HandleFunc("GET /v1/data", a.getData)
	private.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, http.StatusNotFound, fmt.Errorf("no %s %s here", r.Method, r.URL.Path), "")
	})
	all := http.NewServeMux()
	all.HandleFunc("GET /healthz", a.getHealth)
	all.Handle("/", a.authenticate(private))
	return all
}

// authenticate compares digests, so neither content nor length of the token leaks through time.
func (a *api) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		given := sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(given[:], a.token[:]) != 1 || !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			a.fail(w, r, http.StatusUnauthorized, errors.New("wrong or no admin token"), "the token is in admin.token in the server's data folder")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *api) getHealth(w http.ResponseWriter, r *http.Request) {
	if err := a.Health(); err != nil {
		a.fail(w, r, http.StatusServiceUnavailable, err, "")
		return
	}
	a.answer(w, r, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *api) getFleet(w http.ResponseWriter, r *http.Request) {
	f := model.Fleet{Fleet: a.Registry.Fleet(), Version: a.Version}
	_, f.Devices = a.Devices.Online()
	for role, to := range map[trust.Role]*int64{trust.Root: &f.Root, trust.Targets: &f.Targets} {
		m, err := a.Registry.Metadata(role, 0)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			a.error(w, r, err)
			return
		}
		*to = m.Version
	}
	a.answer(w, r, http.StatusOK, f)
}

func (a *api) getKeys(w http.ResponseWriter, r *http.Request) {
	k, err := a.Registry.Keys()
	a.result(w, r, http.StatusOK, k, err)
}

func (a *api) postRoot(w http.ResponseWriter, r *http.Request) {
	var in model.NewRoot
	if !a.read(w, r, &in) {
		return
	}
	fleet, err := a.Registry.SetRoot(in.Root, in.Targets)
	if err == nil {
		a.Founded(fleet)
	}
	a.result(w, r, http.StatusOK, model.Fleet{Fleet: fleet, Version: a.Version}, err)
}

func (a *api) getMetadata(w http.ResponseWriter, r *http.Request) {
	version, ok := a.number(w, r, "version", 1<<53)
	if !ok {
		return
	}
	m, err := a.Registry.Metadata(trust.Role(r.PathValue("role")), int64(version))
	if err != nil {
		a.error(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	a.write(w, r, m.Bytes)
}

func (a *api) postRelease(w http.ResponseWriter, r *http.Request) {
	var in model.NewRelease
	if !a.read(w, r, &in) {
		return
	}
	p, err := a.Registry.AddRelease(in.Manifest, in.Targets)
	a.result(w, r, http.StatusOK, p, err)
}

func (a *api) postDesired(w http.ResponseWriter, r *http.Request) {
	var in model.NewDesired
	if !a.read(w, r, &in) {
		return
	}
	err := errors.Join(in.Selector.Check(), wire.CheckName("application", in.Application))
	if in.Remove && in.Version != "" {
		err = errors.Join(err, fmt.Errorf("remove %s: it says a version too, %.80q", in.Application, in.Version))
	}
	if err != nil {
		a.fail(w, r, http.StatusBadRequest, err, "")
		return
	}
	p := wire.Pointer{Application: in.Application}
	if !in.Remove {
		if p, err = a.Registry.Find(in.Application, in.Version); err != nil {
			a.error(w, r, err)
			return
		}
	}
	out, err := a.Devices.Assign(p, in.Selector)
	a.result(w, r, http.StatusOK, out, err)
}

func (a *api) getDevices(w http.ResponseWriter, r *http.Request) {
	after, ok1 := a.number(w, r, "after", 1<<62)
	if !ok1 {
		return
	}
	seconds, ok2 := a.number(w, r, "wait", uint64(maxWait/time.Second))
	if !ok2 {
		return
	}
	ctx, cancel := contextWithTimeout(r, time.Duration(seconds)*time.Second)
	defer cancel()
	a.answer(w, r, http.StatusOK, a.Devices.List(ctx, after))
}

func (a *api) getDevice(w http.ResponseWriter, r *http.Request) {
	d, err := a.Devices.Get(r.PathValue("name"))
	a.result(w, r, http.StatusOK, d, err)
}

func (a *api) getData(w http.ResponseWriter, r *http.Request) {
	after, ok := a.number(w, r, "after", 1<<62)
	if !ok {
		return
	}
	list, err := a.Store.Uplinks(after, maxMessages, r.URL.Query().Get("device"))
	out := model.Uplinks{Messages: []model.Uplink{}}
	for _, u := range list {
		out.Messages = append(out.Messages, model.Uplink{
			Sequence: u.Sequence, Device: u.Device, Received: u.Received, At: time.UnixMilli(u.Data.At).UTC(), Clock: u.Data.Clock,
			Historical: u.Data.Historical, Boot: u.Data.Boot, Up: u.Data.Up,
			Application: u.Data.Application, Topic: u.Data.Topic, Number: u.Data.Sequence, Missing: u.Missing, Payload: u.Data.Payload,
		})
	}
	a.result(w, r, http.StatusOK, out, err)
}

func (a *api) getStreams(w http.ResponseWriter, r *http.Request) {
	list, err := a.Store.Streams(r.PathValue("name"))
	out := model.Streams{Streams: []model.Stream{}}
	for _, s := range list {
		out.Streams = append(out.Streams, model.Stream{Application: s.Application, Topic: s.Topic, Number: s.Sequence, Missing: s.Missing})
	}
	a.result(w, r, http.StatusOK, out, err)
}

func (a *api) digest(w http.ResponseWriter, r *http.Request) (wire.Digest, bool) {
	d, err := wire.ParseDigest(r.PathValue("digest"))
	if err != nil {
		a.fail(w, r, http.StatusBadRequest, err, "")
		return d, false
	}
	return d, true
}

func (a *api) number(w http.ResponseWriter, r *http.Request, name string, limit uint64) (uint64, bool) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n > limit {
		a.fail(w, r, http.StatusBadRequest, fmt.Errorf("read parameter %s=%.40q: want a number up to %d", name, s, limit), "")
		return 0, false
	}
	return n, true
}

func (a *api) read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("more than one value")
		}
	}
	if err != nil {
		a.fail(w, r, http.StatusBadRequest, fmt.Errorf("read request: %w", err), "")
		return false
	}
	return true
}
