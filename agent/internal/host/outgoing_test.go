package host

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const types = "wasi:http/types "

// newRequest for a URL, as a guest makes it; its body is not taken.
func (d direct) newRequest(method, url string, header ...string) engine.Val {
	d.t.Helper()
	scheme, rest, _ := strings.Cut(url, "://")
	authority, path, _ := strings.Cut(rest, "/")
	headers := d.call(types + "[constructor]fields")
	for i := 0; i < len(header); i += 2 {
		d.ok(types+"[method]fields.append", headers, str(header[i]), bin(header[i+1]))
	}
	r := d.call(types+"[constructor]outgoing-request", headers)
	d.ok(types+"[method]outgoing-request.set-method", r, methodVal(method))
	d.ok(types+"[method]outgoing-request.set-scheme", r, some(schemeVal(scheme)))
	d.ok(types+"[method]outgoing-request.set-authority", r, some(str(authority)))
	d.ok(types+"[method]outgoing-request.set-path-with-query", r, some(str("/"+path)))
	return r
}

// wait for the answer to a request that was sent.
func (d direct) answer(future engine.Val) engine.Val {
	d.t.Helper()
	within(d.t, func() {
		d.call("wasi:io/poll [method]pollable.block", d.call(types+"[method]future-incoming-response.subscribe", future))
	})
	v := d.call(types+"[method]future-incoming-response.get", future)
	if !v.IsSet() || !v.Payload().IsSet() {
		d.t.Fatalf("no answer: %v", v)
	}
	if again := d.call(types+"[method]future-incoming-response.get", future); !again.IsSet() || again.Payload().IsSet() {
		d.t.Error("the answer was given twice")
	}
	return v.Payload().Payload()
}

// fetch sends a request and reads all of its answer.
func (d direct) fetch(r engine.Val) (status int, body string) {
	d.t.Helper()
	resp := d.answer(d.ok("wasi:http/outgoing-handler handle", r, absent))
	if !resp.IsSet() {
		d.t.Fatalf("answered %v", resp.Payload())
	}
	return d.read(resp.Payload())
}

func (d direct) read(resp engine.Val) (status int, body string) {
	d.t.Helper()
	in := d.ok(types+"[method]incoming-response.consume", resp)
	stream := d.ok(types+"[method]incoming-body.stream", in)
	for {
		var v engine.Val
		within(d.t, func() { v = d.call(streams+"[method]input-stream.blocking-read", stream, number(1<<20)) })
		if !v.IsSet() {
			break
		}
		body += string(v.Payload().Raw())
	}
	return int(d.call(types+"[method]incoming-response.status", resp).Uint()), body
}

func client(t *testing.T, url string) direct {
	return newDirect(t, t.Context(), &Env{Grants: Grants{OutboundHosts: []string{url}}})
}

func TestOutgoingRequestIsAnsweredWithItsTrailers(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != "" || r.Header.Get("X-Mine") != "yes" {
			t.Errorf("headers %v", r.Header)
		}
		w.Header().Set("Trailer", "X-End")
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI)
		w.Header().Set("X-End", "done")
	}))
	defer s.Close()
	d := client(t, s.URL)
	resp := d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("GET", s.URL+"/path?q=1", "x-mine", "yes"), absent)).Payload()
	in := d.ok(types+"[method]incoming-response.consume", resp)
	stream := d.ok(types+"[method]incoming-body.stream", in)
	d.traps("must be dropped first", types+"[static]incoming-body.finish", in)

	// The trap took the body; a guest is over then. Here, look at the trailers of another.
	d.table.remove(stream.Rep())
	resp = d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("GET", s.URL+"/path?q=1", "x-mine", "yes"), absent)).Payload()
	trailers := d.call(types+"[static]incoming-body.finish", d.ok(types+"[method]incoming-response.consume", resp))
	within(t, func() { d.call(pollIt, engine.List(d.call(types+"[method]future-trailers.subscribe", trailers))) })
	got := d.call(types+"[method]future-trailers.get", trailers).Payload().Payload().Payload().Payload()
	if v := d.call(types+"[method]fields.get", got, str("X-END")).Elems(); len(v) != 1 || string(v[0].Raw()) != "done" {
		t.Errorf("trailers %v", v)
	}
}

func TestOutgoingBodyStreamsWhileTheRequestIsUnderWay(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%d %v", n, err)
	}))
	defer s.Close()
	for _, early := range []bool{true, false} {
		d := client(t, s.URL)
		r := d.newRequest("POST", s.URL+"/")
		out := d.ok(types+"[method]outgoing-request.body", r)
		if v := d.call(types+"[method]outgoing-request.body", r); v.IsSet() {
			t.Error("the body was given twice")
		}
		var future engine.Val
		if !early {
			future = d.ok("wasi:http/outgoing-handler handle", r, absent)
		}
		stream := d.ok(types+"[method]outgoing-body.write", out)
		within(t, func() {
			for range 100 {
				d.ok(streams+"[method]output-stream.blocking-write-and-flush", stream, engine.Bytes(make([]byte, 4096)))
			}
		})
		d.traps("must be dropped first", types+"[static]outgoing-body.finish", out, absent)
		rep, err := d.table.add(d.bodyOf(stream))
		if err != nil {
			t.Fatal(err)
		}
		out = engine.Own(typOutgoingBody, rep) // the trap took it
		d.drop(stream)
		d.ok(types+"[static]outgoing-body.finish", out, absent)
		if early {
			future = d.ok("wasi:http/outgoing-handler handle", r, absent)
		}
		if status, body := d.read(d.answer(future).Payload()); status != 200 || body != "409600 <nil>" {
			t.Errorf("answered %d %q", status, body)
		}
	}
}

func (d direct) bodyOf(stream engine.Val) *outgoingBody {
	s, err := get[outputStream](d.Guest, stream)
	if err != nil {
		d.t.Fatal(err)
	}
	return s.body
}

// drop a handle as a guest does.
func (d direct) drop(v engine.Val) {
	if o, ok := d.table.remove(v.Rep()).(dropper); ok {
		o.drop()
	}
}

func TestUnfinishedOutgoingBodyCutsTheRequestOff(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			t.Error("the server saw a complete body")
		}
	}))
	defer s.Close()
	d := client(t, s.URL)
	r := d.newRequest("POST", s.URL+"/")
	out := d.ok(types+"[method]outgoing-request.body", r)
	future := d.ok("wasi:http/outgoing-handler handle", r, absent)
	stream := d.ok(types+"[method]outgoing-body.write", out)
	d.ok(streams+"[method]output-stream.blocking-write-and-flush", stream, bin("half"))
	d.drop(stream)
	d.drop(out)
	if v := d.answer(future); v.IsSet() || v.Payload().Text() != "HTTP-protocol-error" {
		t.Errorf("answered %v", v)
	}
}

func TestOutgoingRequestsNeedTheirGrant(t *testing.T) {
	var hits atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	}))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, test := range []struct {
		grants  string
		url     string
		allowed bool
	}{
		{"", s.URL, false},
		{s.URL, s.URL, true},
		{"https://127.0.0.1:" + port, s.URL, false},
		{"http://127.0.0.1", s.URL, false},
		{"*://*:*", s.URL, true},
		{"http://*.example.com:*", s.URL, false},
		{"http://127.0.0.1:" + port, "http://127.0.0.1:" + port + "@evil.example/", false},
		{"http://localhost:" + port, s.URL, false},
	} {
		var l logs
		d := newDirect(t, t.Context(), &Env{Log: l.add, Grants: Grants{OutboundHosts: []string{test.grants}}})
		headers := d.call(types + "[constructor]fields")
		r := d.call(types+"[constructor]outgoing-request", headers)
		d.ok(types+"[method]outgoing-request.set-scheme", r, some(schemeHTTP))
		authority, _, _ := strings.Cut(strings.TrimPrefix(test.url, "http://"), "/")
		if v := d.call(types+"[method]outgoing-request.set-authority", r, some(str(authority))); !v.IsSet() {
			continue // refused even earlier
		}
		if !test.allowed {
			d.fails("HTTP-request-denied", "wasi:http/outgoing-handler handle", r, absent)
			if len(l) != 1 || !strings.Contains(l[0], "allowed_outbound_hosts") {
				t.Errorf("logged %v", l)
			}
			continue
		}
		if status, _ := d.fetch(r); status != http.StatusFound {
			t.Errorf("status %d: a redirect is the guest's to follow", status)
		}
	}
	if n := hits.Load(); n != 2 {
		t.Errorf("%d requests went out, want 2", n)
	}
}

func TestIdempotentRequestsAreTriedAgain(t *testing.T) {
	for _, test := range []struct {
		method string
		want   int32
		status int
	}{{"GET", 3, 200}, {"PUT", 3, 200}, {"POST", 1, 503}} {
		var hits atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hits.Add(1) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		d := client(t, s.URL)
		if status, _ := d.fetch(d.newRequest(test.method, s.URL+"/")); status != test.status || hits.Load() != test.want {
			t.Errorf("%s: status %d after %d attempts", test.method, status, hits.Load())
		}
		s.Close()
	}
}

func TestOutgoingTimeouts(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(release)
	d := client(t, s.URL)
	options := func(name string) engine.Val {
		o := d.call(types + "[constructor]request-options")
		d.ok(types+"[method]request-options.set-"+name, o, some(engine.U64(uint64(30*time.Millisecond))))
		return some(o)
	}
	future := d.ok("wasi:http/outgoing-handler handle", d.newRequest("POST", s.URL+"/"), options("first-byte-timeout"))
	if v := d.answer(future); v.IsSet() || v.Payload().Text() != "connection-read-timeout" {
		t.Errorf("first byte: %v", v)
	}
	future = d.ok("wasi:http/outgoing-handler handle", d.newRequest("POST", s.URL+"/half"), options("between-bytes-timeout"))
	resp := d.answer(future).Payload()
	stream := d.ok(types+"[method]incoming-body.stream", d.ok(types+"[method]incoming-response.consume", resp))
	within(t, func() {
		var v engine.Val
		for v = okUnit; v.IsSet(); v = d.call(streams+"[method]input-stream.blocking-read", stream, number(10)) {
		}
		if v.Payload().Text() != "last-operation-failed" {
			t.Fatalf("got %v", v.Payload())
		}
		code := d.call(types+"http-error-code", v.Payload().Payload())
		if !code.IsSet() || code.Payload().Text() != "connection-read-timeout" {
			t.Errorf("between bytes: %v", code)
		}
	})
}

func TestOutgoingErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	_ = l.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	defer secure.Close()
	for _, test := range []struct{ url, want string }{
		{closed, "connection-refused"},
		{"https" + strings.TrimPrefix(plain.URL, "http"), "TLS-protocol-error"},
		{secure.URL, "TLS-certificate-error"},
	} {
		d := client(t, test.url)
		v := d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("POST", test.url+"/"), absent))
		if v.IsSet() || v.Payload().Text() != test.want {
			t.Errorf("%s: got %v, want %s", test.url, v.Payload(), test.want)
		}
	}
	d := client(t, "http://a.example")
	r := d.call(types+"[constructor]outgoing-request", d.call(types+"[constructor]fields"))
	d.fails("HTTP-request-URI-invalid", "wasi:http/outgoing-handler handle", r, absent)
}
