package host

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// deferrable are the methods whose answer a handler can do without.
var deferrable = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// deferred says whether a request waits for the network in the outbox, by deferred_outbound_hosts.
func (g *Guest) deferred(r *outgoingRequest) (u *url.URL, named, ok bool) {
	if len(g.env.Grants.DeferredHosts) == 0 || !slices.Contains(deferrable, r.method) {
		return nil, false, false
	}
	u, err := r.url()
	if err != nil {
		return nil, false, false // for send to tell
	}
	ok, named, err = matchOutbound(g.env.Grants.DeferredHosts, u)
	return u, named, ok && err == nil
}

// sendDeferred answers 202 once the request is whole and in the event's transaction; it leaves after the commit.
func (g *Guest) sendDeferred(r *outgoingRequest, u *url.URL, named bool) (*futureResponse, error) {
	if g.env.Deferrer == nil {
		return nil, code("internal-error", errors.New("nothing takes deferred requests here"), someText("nothing takes deferred requests here"))
	}
	d := &deferral{g: g, origin: u.Scheme + "://" + strings.ToLower(u.Host), future: &futureResponse{cancel: func(error) {}},
		request: deferredRequest{method: r.method, url: u.String(), named: named}}
	header := r.headers.header()
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			d.request.header = append(d.request.header, [2]string{name, value})
		}
	}
	if b := r.body; r.taken {
		return d.future, b.attach(d)
	} else if b.err != nil {
		return nil, b.err
	}
	return d.future, d.finish(nil)
}

// deferral is the target of a deferred request's body.
type deferral struct {
	g       *Guest
	origin  string
	request deferredRequest
	future  *futureResponse
}

func (d *deferral) room() (int, error) { return maxWrite, nil }

func (d *deferral) write(p []byte) error {
	if err := d.g.hold(len(p)); err != nil {
		return misuse(err)
	}
	d.request.body = append(d.request.body, p...)
	return nil
}

func (d *deferral) flushed() (bool, error) { return true, nil }

func (d *deferral) finish(trailers *fields) error {
	if trailers != nil && len(trailers.header()) > 0 {
		return d.end(errors.New("a deferred request has no trailers"))
	}
	return d.end(d.g.note("wasi:http", d.g.env.Deferrer.Defer(d.origin, d.request.encode())))
}

func (d *deferral) abort(err error) { _ = d.end(err) }

// end gives the guest its answer.
func (d *deferral) end(err error) error {
	if err != nil {
		var known *codeError
		if !errors.As(err, &known) {
			err = fmt.Errorf("request to %s can't be deferred: %w", d.origin, err)
			d.g.log.emit(slog.LevelWarn, "wasi:http", err.Error())
			err = code("internal-error", err, someText(err.Error()))
		}
	}
	f := d.future
	f.mu.Lock()
	f.done, f.err = true, err
	if err == nil {
		f.resp = &http.Response{StatusCode: http.StatusAccepted, Header: http.Header{"Dunlin-Deferred": {"true"}}, Body: http.NoBody}
	}
	f.mu.Unlock()
	d.g.notify()
	return nil // the guest finds it in the answer
}
