package host

import (
	"context"
	"errors"
	"net/http"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// exchange is the event's response, as far as the guest has given it.
type exchange struct {
	w    ResponseWriter
	head bool          // the request was HEAD: a body need not be as long as promised
	set  bool          // the guest has given a response, or an error
	err  error         // of the writer or of the guest; the response is not complete
	body *outgoingBody // of a response that has begun
}

// responseOutparam is the guest's one way to answer.
type responseOutparam struct{ x *exchange }

// outgoingResponse is a response that the guest is preparing.
type outgoingResponse struct {
	status  int
	headers *fields
	body    *outgoingBody
	taken   bool
}

// ServeHTTP calls wasi:http/incoming-handler. w gets status, headers and body as the guest produces them.
// Errors: a *engine.Trap, ErrNoResponse (the guest never set one), a *GuestError (it set an error), or what w returned.
func (g *Guest) ServeHTTP(x *engine.Export, w ResponseWriter, r *http.Request) error {
	ex := &exchange{w: w, head: r.Method == http.MethodHead}
	request, err := own(g, typIncomingRequest, &incomingRequest{r: r, headers: g.requestFields(r.Header)})
	if err != nil {
		return err
	}
	out, err := own(g, typResponseOutparam, &responseOutparam{ex})
	if err != nil {
		return err
	}
	defer g.unblock(w)()
	if _, err := g.call(x, request, out); err != nil {
		return err
	}
	return ex.end()
}

// end of the handler: a body that it holds on to is complete, as in other hosts.
func (ex *exchange) end() error {
	if !ex.set {
		return ErrNoResponse
	}
	if ex.err == nil && ex.body != nil && !ex.body.finished {
		if err := ex.body.finish(nil); err != nil && ex.err == nil {
			ex.err = err
		}
	}
	return ex.err
}

// unblock ends w's reads and writes when the event ends, if w can; the returned func undoes that.
func (g *Guest) unblock(w ResponseWriter) func() {
	d, ok := w.(interface {
		SetReadDeadline(time.Time) error
		SetWriteDeadline(time.Time) error
	})
	if !ok {
		return func() {}
	}
	done := make(chan struct{})
	stop := context.AfterFunc(g.ctx, func() {
		defer close(done)
		past := time.Unix(1, 0)
		_ = errors.Join(d.SetReadDeadline(past), d.SetWriteDeadline(past)) // best effort: the event has failed already
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// exchange is the target of the response's body.

func (ex *exchange) room() (int, error)     { return maxWrite, ex.err }
func (ex *exchange) flushed() (bool, error) { return true, ex.err }

func (ex *exchange) write(p []byte) error {
	if ex.err == nil {
		if _, err := ex.w.Write(p); err != nil {
			ex.err = err
		}
	}
	return ex.err
}

func (ex *exchange) finish(trailers *fields) error {
	if ex.err == nil {
		var h http.Header
		if trailers != nil {
			h = trailers.header()
		}
		ex.err = ex.w.Finish(h)
	}
	return ex.err
}

func (ex *exchange) abort(err error) {
	if ex.err == nil {
		ex.err = &GuestError{"incomplete response: " + err.Error()}
	}
}

// start the response that the guest has set.
func (ex *exchange) start(r *outgoingResponse) {
	if ex.err = ex.w.Start(r.status, r.headers.header()); ex.err != nil {
		return
	}
	if ex.head || r.status == http.StatusNotModified || r.status == http.StatusNoContent {
		r.body.length = -1
	}
	if !r.taken { // nobody can write it any more
		r.body.finished = true
	}
	ex.body = r.body
	if err := r.body.attach(ex); err != nil && ex.err == nil {
		ex.err = err
	}
}

func responseFuncs(funcs map[string]fn) {
	funcs["[static]response-outparam.set"] = f(outparamSet, kHandle, kResult)
	funcs["[method]response-outparam.send-informational"] = f(informational, kHandle, kU16, kHandle)
	funcs["[constructor]outgoing-response"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		h, body, err := newOutgoing(g, a[0], "response")
		if err != nil {
			return none, err
		}
		return own(g, typOutgoingResponse, &outgoingResponse{status: http.StatusOK, headers: h, body: body})
	}, kHandle)
	method := func(name string, do func(g *Guest, r *outgoingResponse, a []engine.Val) (engine.Val, error), params ...engine.Kind) {
		funcs["[method]outgoing-response."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			r, err := get[outgoingResponse](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, r, a[1:])
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	method("status-code", func(_ *Guest, r *outgoingResponse, _ []engine.Val) (engine.Val, error) {
		return engine.U16(uint16(r.status)), nil
	})
	method("set-status-code", func(_ *Guest, r *outgoingResponse, a []engine.Val) (engine.Val, error) {
		status := a[0].Uint()
		if status < 200 || status > 999 { // 1xx are not responses; send-informational is for those
			return errUnit, nil
		}
		r.status = int(status)
		return okUnit, nil
	}, kU16)
	method("headers", func(g *Guest, r *outgoingResponse, _ []engine.Val) (engine.Val, error) {
		return own(g, typFields, r.headers)
	})
	method("body", func(_ *Guest, r *outgoingResponse, _ []engine.Val) (engine.Val, error) { return r.body.give(&r.taken) })
}

func outparamSet(g *Guest, a []engine.Val) (engine.Val, error) {
	p, err := take[responseOutparam](g, a[0])
	if err != nil {
		return none, err
	}
	p.x.set = true
	if !a[1].IsSet() {
		p.x.err = &GuestError{describe(a[1].Payload())}
		return none, nil
	}
	r, err := take[outgoingResponse](g, a[1].Payload())
	if err != nil {
		return none, err
	}
	p.x.start(r)
	return none, nil
}

func informational(g *Guest, a []engine.Val) (engine.Val, error) {
	p, err := get[responseOutparam](g, a[0])
	if err != nil {
		return none, err
	}
	h, err := take[fields](g, a[2])
	if err != nil {
		return none, err
	}
	status := int(a[1].Uint())
	if status < 100 || status > 199 {
		return engine.Err(engine.Variant("HTTP-protocol-error")), nil
	}
	w, ok := p.x.w.(interface {
		Informational(status int, header http.Header) error
	})
	if !ok || status == http.StatusSwitchingProtocols {
		return engine.Err(engine.Variant("internal-error", someText("informational responses are not supported here"))), nil
	}
	if err := w.Informational(status, h.header()); err != nil {
		return engine.Err(errorCode(err)), nil
	}
	return okUnit, nil
}
