package host

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// outgoingRequest is a request that the guest is preparing.
type outgoingRequest struct {
	method    string
	path      string
	scheme    string // lower case; "" for none
	authority string
	headers   *fields
	body      *outgoingBody
	taken     bool
}

// requestOptions are the guest's timeouts; 0: none.
type requestOptions struct {
	connect, firstByte, betweenBytes *uint64 // nanoseconds, as the guest has set them; nil: none
}

// limitOf a timeout; 0 is none, while a guest's 0 is the shortest one.
func limitOf(timeout *uint64) time.Duration {
	if timeout == nil {
		return 0
	}
	return time.Duration(instant(*timeout))
}

func noOptions() *requestOptions { return &requestOptions{} }

func requestFuncs(funcs map[string]fn) {
	funcs["[constructor]outgoing-request"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		h, body, err := newOutgoing(g, a[0], "request")
		if err != nil {
			return none, err
		}
		return own(g, typOutgoingRequest, &outgoingRequest{method: "GET", headers: h, body: body})
	}, kHandle)
	method := func(name string, do func(g *Guest, r *outgoingRequest, a []engine.Val) (engine.Val, error), params ...engine.Kind) {
		funcs["[method]outgoing-request."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			r, err := get[outgoingRequest](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, r, a[1:])
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	method("body", func(_ *Guest, r *outgoingRequest, _ []engine.Val) (engine.Val, error) { return r.body.give(&r.taken) })
	method("headers", func(g *Guest, r *outgoingRequest, _ []engine.Val) (engine.Val, error) {
		return own(g, typFields, r.headers)
	})
	method("method", func(_ *Guest, r *outgoingRequest, _ []engine.Val) (engine.Val, error) {
		return methodVal(r.method), nil
	})
	method("set-method", func(_ *Guest, r *outgoingRequest, a []engine.Val) (engine.Val, error) {
		name, ok := methodName(a[0])
		return set(&r.method, name, ok)
	}, kVariant)
	method("path-with-query", func(_ *Guest, r *outgoingRequest, _ []engine.Val) (engine.Val, error) { return someText(r.path), nil })
	method("set-path-with-query", func(_ *Guest, r *outgoingRequest, a []engine.Val) (engine.Val, error) {
		path := a[0].Payload().Text()
		return set(&r.path, path, validPath(path))
	}, kOption)
	method("scheme", func(_ *Guest, r *outgoingRequest, _ []engine.Val) (engine.Val, error) {
		if r.scheme == "" {
			return absent, nil
		}
		return engine.Some(schemeVal(r.scheme)), nil
	})
	method("set-scheme", func(_ *Guest, r *outgoingRequest, a []engine.Val) (engine.Val, error) {
		if !a[0].IsSet() {
			return set(&r.scheme, "", true)
		}
		name, ok := schemeName(a[0].Payload())
		return set(&r.scheme, name, ok)
	}, kOption)
	method("authority", func(_ *Guest, r *outgoingRequest, _ []engine.Val) (engine.Val, error) {
		return someText(r.authority), nil
	})
	method("set-authority", func(_ *Guest, r *outgoingRequest, a []engine.Val) (engine.Val, error) {
		authority := a[0].Payload().Text()
		return set(&r.authority, authority, !a[0].IsSet() || validAuthority(authority))
	}, kOption)

	funcs["[constructor]request-options"] = f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
		return own(g, typRequestOptions, noOptions())
	})
	timeout := func(name string, of func(*requestOptions) **uint64) {
		funcs["[method]request-options."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			o, err := get[requestOptions](g, a[0])
			if err != nil {
				return none, err
			}
			if d := *of(o); d != nil {
				return engine.Some(engine.U64(*d)), nil
			}
			return absent, nil
		}, kHandle)
		funcs["[method]request-options.set-"+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			o, err := get[requestOptions](g, a[0])
			if err != nil {
				return none, err
			}
			*of(o) = nil
			if a[1].IsSet() {
				d := a[1].Payload().Uint()
				*of(o) = &d
			}
			return okUnit, nil
		}, kHandle, kOption)
	}
	timeout("connect-timeout", func(o *requestOptions) **uint64 { return &o.connect })
	timeout("first-byte-timeout", func(o *requestOptions) **uint64 { return &o.firstByte })
	timeout("between-bytes-timeout", func(o *requestOptions) **uint64 { return &o.betweenBytes })

	funcs["[method]future-incoming-response.subscribe"] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
		r, err := get[futureResponse](g, a[0])
		if err != nil {
			return none, err
		}
		return own(g, typPollable, &pollable{src: r})
	}, kHandle)
	funcs["[method]future-incoming-response.get"] = f(futureGet, kHandle)
}

// set a part of a request if it is valid.
func set(part *string, to string, valid bool) (engine.Val, error) {
	if !valid {
		return errUnit, nil
	}
	*part = to
	return okUnit, nil
}

// validPath says whether s can be a path with a query.
func validPath(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '#' {
			return false
		}
	}
	return s == "" || s[0] == '/' || s[0] == '?' || s == "*"
}

// notInAuthority are the characters of no host and port (RFC 3986, 3.2.2), with which net/http would send no Host at all.
func notInAuthority(c rune) bool {
	letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	return !letter && (c < '0' || c > '9') && !strings.ContainsRune("!$&'()*+,-.:;=[]_~", c)
}

// validAuthority says whether s is host[:port]. Credentials belong in a header, and what is not ASCII in punycode.
func validAuthority(s string) bool {
	if strings.ContainsFunc(s, notInAuthority) {
		return false
	}
	u, err := url.Parse("http://" + s)
	if err != nil || u.Host != s || u.Hostname() == "" || strings.HasSuffix(s, ":") {
		return false
	}
	if u.Port() == "" {
		return true
	}
	_, err = strconv.ParseUint(u.Port(), 10, 16)
	return err == nil
}
