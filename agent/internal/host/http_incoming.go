package host

import (
	"io"
	"net/http"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// incomingRequest is the event's request.
type incomingRequest struct {
	r        *http.Request
	headers  *fields
	consumed bool
}

// incomingResponse answers an outgoing request.
type incomingResponse struct {
	status  int
	headers *fields
	body    *incomingBody // nil once consumed
}

func (r *incomingResponse) drop() {
	if r.body != nil {
		r.body.drop()
	}
}

// incomingBody is a request's or a response's body.
type incomingBody struct {
	src       *source
	trailer   func() http.Header // valid once src is at its end
	streamed  bool               // the stream was given out
	streaming bool               // and is still held
}

func (b *incomingBody) drop() { b.src.close() }

// futureTrailers reads what is left of a body, for what follows it.
type futureTrailers struct {
	body *incomingBody
	got  bool
}

func (t *futureTrailers) drop() { t.body.drop() }

func (t *futureTrailers) ready() bool {
	done, err := t.body.src.drained()
	return done || err != nil
}

// readOnly hides a reader's Close: net/http's server closes a request's body itself, and only after a Read has returned.
type readOnly struct{ io.Reader }

// requestReader gives the errors of a request's body their error-code, and hides its Close as readOnly does.
type requestReader struct{ r io.Reader }

func (b requestReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	return n, bodyError(err, "connection-terminated")
}

// limitedBody fails a body that is longer than the event's limit.
type limitedBody struct {
	io.Reader
	left, limit int64
	code        string
}

func (l *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.Reader.Read(p)
	if int64(n) > l.left {
		return int(l.left), code(l.code, ErrBodyLimit, engine.Some(engine.U64(uint64(l.limit))))
	}
	l.left -= int64(n)
	return n, err
}

// limited reads r up to the event's limit.
func (g *Guest) limited(r io.Reader, code string) io.Reader {
	if g.limits.Body <= 0 {
		return r
	}
	return &limitedBody{r, g.limits.Body, g.limits.Body, code}
}

// requestBody of the event's request.
func (g *Guest) requestBody(r *http.Request) *incomingBody {
	src := &source{err: errClosed}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		src = newSource(requestReader{g.limited(r.Body, "HTTP-request-body-size")}, r.ContentLength, g.notify)
	}
	return &incomingBody{src: src, trailer: func() http.Header { return r.Trailer }}
}

func incomingFuncs(funcs map[string]fn) {
	request := func(name string, do func(g *Guest, r *incomingRequest) (engine.Val, error)) {
		funcs["[method]incoming-request."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			r, err := get[incomingRequest](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, r)
		}, kHandle)
	}
	request("method", func(_ *Guest, r *incomingRequest) (engine.Val, error) { return methodVal(r.r.Method), nil })
	request("path-with-query", func(_ *Guest, r *incomingRequest) (engine.Val, error) {
		return someText(r.r.URL.RequestURI()), nil
	})
	request("scheme", func(_ *Guest, r *incomingRequest) (engine.Val, error) {
		if r.r.TLS != nil {
			return engine.Some(schemeHTTPS), nil
		}
		return engine.Some(schemeHTTP), nil
	})
	request("authority", func(_ *Guest, r *incomingRequest) (engine.Val, error) { return someText(r.r.Host), nil })
	request("headers", func(g *Guest, r *incomingRequest) (engine.Val, error) { return own(g, typFields, r.headers) })
	request("consume", func(g *Guest, r *incomingRequest) (engine.Val, error) {
		if r.consumed {
			return errUnit, nil
		}
		r.consumed = true
		return ownOK(g, typIncomingBody, g.requestBody(r.r))
	})

	response := func(name string, do func(g *Guest, r *incomingResponse) (engine.Val, error)) {
		funcs["[method]incoming-response."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			r, err := get[incomingResponse](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, r)
		}, kHandle)
	}
	response("status", func(_ *Guest, r *incomingResponse) (engine.Val, error) { return engine.U16(uint16(r.status)), nil })
	response("headers", func(g *Guest, r *incomingResponse) (engine.Val, error) { return own(g, typFields, r.headers) })
	response("consume", func(g *Guest, r *incomingResponse) (engine.Val, error) {
		if r.body == nil {
			return errUnit, nil
		}
		b := r.body
		r.body = nil
		return ownOK(g, typIncomingBody, b)
	})

	funcs["[method]incoming-body.stream"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		b, err := get[incomingBody](g, a[0])
		if err != nil {
			return none, err
		}
		if b.streamed {
			return errUnit, nil
		}
		b.streamed, b.streaming = true, true
		return ownOK(g, typInputStream, &inputStream{src: b.src, body: b})
	}, kHandle)
	funcs["[static]incoming-body.finish"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		b, err := take[incomingBody](g, a[0])
		if err != nil {
			return none, err
		}
		if b.streaming {
			return none, errStreamAlive
		}
		return own(g, typFutureTrailers, &futureTrailers{body: b})
	}, kHandle)
	funcs["[method]future-trailers.subscribe"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		t, err := get[futureTrailers](g, a[0])
		if err != nil {
			return none, err
		}
		return own(g, typPollable, &pollable{src: t})
	}, kHandle)
	funcs["[method]future-trailers.get"] = f(trailersGet, kHandle)
}

func trailersGet(g *Guest, a []engine.Val) (engine.Val, error) {
	t, err := get[futureTrailers](g, a[0])
	if err != nil {
		return none, err
	}
	done, err := t.body.src.drained()
	switch {
	case t.got:
		return engine.Some(errUnit), nil
	case err != nil:
		t.got = true
		return engine.Some(engine.OK(engine.Err(errorCode(err)))), nil
	case !done:
		return absent, nil
	}
	t.got = true
	trailer := t.body.trailer()
	if len(trailer) == 0 {
		return engine.Some(engine.OK(engine.OK(absent))), nil
	}
	v, err := own(g, typFields, fieldsOf(trailer))
	if err != nil {
		return none, err
	}
	return engine.Some(engine.OK(engine.OK(engine.Some(v)))), nil
}
