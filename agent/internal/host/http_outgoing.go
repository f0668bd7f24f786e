package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// futureResponse becomes the answer to an outgoing request.
type futureResponse struct {
	cancel  context.CancelCauseFunc
	between time.Duration

	mu   sync.Mutex
	done bool
	got  bool
	resp *http.Response
	err  error
}

func (r *futureResponse) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

// drop gives up on an answer that nobody took.
func (r *futureResponse) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got && r.err == nil {
		return
	}
	r.got = true
	r.cancel(nil)
	if r.resp != nil {
		_ = r.resp.Body.Close()
	}
}

// run the request, in a goroutine of its own.
func (r *futureResponse) run(g *Guest, send func() (*http.Response, error)) {
	resp, err := send()
	r.mu.Lock()
	r.done, r.resp, r.err = true, resp, err
	late := r.got
	r.mu.Unlock()
	if late && resp != nil { // dropped meanwhile
		_ = resp.Body.Close()
	}
	g.inFlight.Add(-1)
	g.notify()
}

// outgoingHandle starts an outgoing request, if the component's grants allow it.
func outgoingHandle(g *Guest, a []engine.Val) (engine.Val, error) {
	r, err := take[outgoingRequest](g, a[0])
	if err != nil {
		return none, err
	}
	options := noOptions()
	if a[1].IsSet() {
		if options, err = take[requestOptions](g, a[1].Payload()); err != nil {
			return none, err
		}
	}
	future, err := g.send(r, options)
	if err != nil {
		if r.body != nil {
			r.body.fail(err)
		}
		return engine.Err(errorCode(err)), nil
	}
	return ownOK(g, typFutureIncomingResponse, future)
}

func (g *Guest) send(r *outgoingRequest, options *requestOptions) (*futureResponse, error) {
	target, named, deferred := g.deferred(r)
	if !deferred {
		var err error
		if target, named, err = g.target(r); err != nil {
			return nil, err
		}
	}
	if r.method == http.MethodConnect {
		return nil, code("HTTP-request-method-invalid", errors.New("CONNECT makes a tunnel, which a handler has no end of"))
	}
	if g.requests++; g.limits.Requests > 0 && g.requests > g.limits.Requests {
		limit := &LimitError{"requests", strconv.Itoa(g.limits.Requests)}
		return nil, code("internal-error", g.note("wasi:http", limit), someText(limit.Error()))
	}
	if deferred {
		return g.sendDeferred(r, target, named)
	}
	if g.inFlight.Load() >= maxInFlight {
		return nil, code("connection-limit-reached", fmt.Errorf("%d outgoing requests are under way, which is the limit", maxInFlight))
	}
	ctx, cancel := context.WithCancelCause(g.ctx)
	if named {
		ctx = context.WithValue(ctx, nameds{}, true)
	}
	req, err := http.NewRequestWithContext(options.trace(ctx, cancel), r.method, target.Scheme+"://"+target.Host, http.NoBody)
	if err != nil {
		cancel(nil)
		return nil, code("HTTP-request-URI-invalid", err)
	}
	req.URL = target
	req.Header = r.headers.header()
	if len(req.Header["User-Agent"]) == 0 {
		req.Header["User-Agent"] = []string{""} // net/http would add its own
	}
	repeatable, err := r.attachBody(g, req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	future := &futureResponse{cancel: cancel, between: limitOf(options.betweenBytes)}
	g.inFlight.Add(1)
	go future.run(g, func() (*http.Response, error) {
		resp, err := attempt(g.client, req, repeatable)
		if err == nil {
			if err = wellFormed(resp); err != nil {
				_ = resp.Body.Close()
				resp = nil
			}
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				err = cause // one of the guest's own timeouts
			}
			cancel(nil)
		}
		return resp, err
	})
	return future, nil
}

// url of the request, or an error-code.
func (r *outgoingRequest) url() (*url.URL, error) {
	scheme := r.scheme
	if scheme == "" {
		scheme = "https"
	}
	if scheme != "http" && scheme != "https" {
		return nil, code("HTTP-protocol-error", fmt.Errorf("scheme %q is neither http nor https", scheme))
	}
	if r.authority == "" {
		return nil, code("HTTP-request-URI-invalid", errors.New("the request has no authority"))
	}
	u, err := url.Parse(scheme + "://" + r.authority + "/")
	if err != nil || u.Host != r.authority || u.User != nil {
		return nil, code("HTTP-request-URI-invalid", fmt.Errorf("%s://%s is nothing that can be requested from", scheme, r.authority))
	}
	path := asASCII(r.path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if whole, err := url.Parse(scheme + "://" + r.authority + path); err == nil && whole.RequestURI() == path {
		return whole, nil
	}
	// A path that net/url would change goes out as it is, or as a part of the absolute form where a "//" would be taken for a host.
	u.Opaque = path
	if strings.HasPrefix(path, "//") {
		u.Opaque = "//" + r.authority + path
	}
	return u, nil
}

// asASCII escapes what can't stand in a request line.
func asASCII(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if path[i] < 0x80 {
			b.WriteByte(path[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", path[i])
		}
	}
	return b.String()
}

// wellFormed looks for what net/http lets pass in an answer.
func wellFormed(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return code("HTTP-upgrade-failed", errors.New("the server switched to another protocol, which nobody had asked for"))
	}
	for name := range resp.Header {
		if !validName(name) {
			return code("HTTP-protocol-error", fmt.Errorf("the server sent a header named %q", name))
		}
	}
	return nil
}

// attachBody gives req its body, and reports whether the request can be sent again.
func (r *outgoingRequest) attachBody(g *Guest, req *http.Request) (repeatable bool, err error) {
	idempotent := r.method == "GET" || r.method == "HEAD" || r.method == "OPTIONS" || r.method == "TRACE" || r.method == "PUT" || r.method == "DELETE"
	b := r.body
	switch {
	case b.err != nil:
		return false, b.err
	case !r.taken || b.finished && b.written == 0:
		return idempotent, nil
	case b.finished:
		sent := b.unsent
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(sent))), nil }
		req.Body, _ = req.GetBody()
		req.ContentLength = int64(len(sent))
		if b.trailers != nil {
			req.Trailer, req.ContentLength = b.trailers.header(), -1
		}
		return idempotent && b.trailers == nil, nil
	}
	p := newPipe(g.notify)
	req.Body, req.ContentLength, req.Trailer = p, b.length, p.trailer
	return false, b.attach(p)
}

func futureGet(g *Guest, a []engine.Val) (engine.Val, error) {
	r, err := get[futureResponse](g, a[0])
	if err != nil {
		return none, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.done:
		return absent, nil
	case r.got:
		return engine.Some(errUnit), nil
	}
	r.got = true
	if r.err != nil {
		why := errorCode(r.err)
		if why.Text() == "destination-IP-prohibited" {
			g.log.emit(slog.LevelWarn, "wasi:http", r.err.Error())
		}
		return engine.Some(engine.OK(engine.Err(why))), nil
	}
	resp := r.resp
	src := &source{err: errClosed}
	body := &responseBody{resp.Body, g.limited(resp.Body, "HTTP-response-body-size"), r.between, r.cancel}
	if resp.Body == http.NoBody || resp.ContentLength == 0 {
		_ = body.Close()
	} else {
		src = newSource(body, resp.ContentLength, g.notify)
	}
	v, err := own(g, typIncomingResponse, &incomingResponse{
		status:  resp.StatusCode,
		headers: fieldsOf(resp.Header),
		body:    &incomingBody{src: src, trailer: func() http.Header { return resp.Trailer }},
	})
	if err != nil {
		_ = body.Close()
		return none, err
	}
	return engine.Some(engine.OK(engine.OK(v))), nil
}

// responseBody bounds each read in time and gives its errors their error-code.
type responseBody struct {
	close   io.Closer
	r       io.Reader
	between time.Duration
	cancel  context.CancelCauseFunc
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.between == 0 {
		n, err := b.r.Read(p)
		return n, bodyError(err, "HTTP-response-incomplete")
	}
	late := time.AfterFunc(b.between, func() { b.cancel(errBetweenBytes) })
	n, err := b.r.Read(p)
	if !late.Stop() && err != nil {
		err = errBetweenBytes
	}
	return n, bodyError(err, "HTTP-response-incomplete")
}

func (b *responseBody) Close() error {
	b.cancel(nil)
	return b.close.Close()
}
