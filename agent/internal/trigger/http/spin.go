package http

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"strings"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// addSpinHeaders gives a request the headers that Spin's HTTP trigger adds (spinframework/spin, crates/trigger-http/src/headers.rs):
// where it was routed, and who sent it. Handlers trust them, so a client's own ones go.
func addSpinHeaders(r *http.Request, pattern string) {
	for name := range r.Header {
		if strings.HasPrefix(name, "Spin-") {
			delete(r.Header, name)
		}
	}
	// Set as they are: a value that could not be a header could not have been in the request line either.
	set := func(name, value string) { r.Header[textproto.CanonicalMIMEHeaderKey("spin-"+name)] = []string{value} }
	prefix, wild := strings.CutSuffix(pattern, "/...")
	set("full-url", "http://"+r.Host+r.URL.RequestURI())
	set("matched-route", pattern)
	set("raw-component-route", pattern)
	set("component-route", prefix)
	set("base-path", "/")
	set("client-addr", r.RemoteAddr)
	path := r.URL.EscapedPath()
	segments, names := split(path), split(prefix)
	for i, name := range names {
		if name[0] == ':' && i < len(segments) {
			set("path-match-"+name[1:], segments[i])
		}
	}
	info := ""
	if wild {
		if rest := segments[min(len(names), len(segments)):]; len(rest) > 0 {
			info = "/" + strings.Join(rest, "/")
		}
		if strings.HasSuffix(path, "/") {
			info += "/"
		}
	}
	set("path-info", info)
}

// Static is a handler that gives every request the same answer.
func Static(status int, headers map[string]string, body string) trigger.Handler {
	return func(_ context.Context, e *trigger.Event) error {
		h := e.HTTP.Response.Header()
		for name, value := range headers {
			h.Set(name, value)
		}
		e.HTTP.Response.WriteHeader(status)
		if e.HTTP.Request.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
			return nil
		}
		if _, err := io.WriteString(e.HTTP.Response, body); err != nil {
			return &trigger.Failure{Reason: trigger.Canceled, Err: err}
		}
		return nil
	}
}
