package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// outbox takes deferred requests, or refuses them.
type outbox struct {
	origins []string
	sent    [][]byte
	err     error
}

func (o *outbox) Defer(origin string, request []byte) error {
	if o.err == nil {
		o.origins, o.sent = append(o.origins, origin), append(o.sent, request)
	}
	return o.err
}

func deferring(t *testing.T, box *outbox, hosts ...string) direct {
	return newDirect(t, t.Context(), &Env{Deferrer: box, Grants: Grants{DeferredHosts: hosts}})
}

func (d direct) header(resp engine.Val, name string) string {
	v := d.call(types+"[method]fields.get", d.call(types+"[method]incoming-response.headers", resp), str(name)).Elems()
	if len(v) == 0 {
		return ""
	}
	return string(v[0].Raw())
}

func TestADeferredRequestIsAnsweredWhenItIsWholeAndSentAsTheHandlerMadeIt(t *testing.T) {
	type seen struct{ line, body, key, mine string }
	var got []seen
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if ua := r.Header.Get("User-Agent"); ua != "" || r.ContentLength != int64(len(b)) {
			t.Errorf("user agent %q, content-length %d of %d", ua, r.ContentLength, len(b))
		}
		got = append(got, seen{r.Method + " " + r.RequestURI, string(b), r.Header.Get("Idempotency-Key"), strings.Join(r.Header["X-Mine"], ",")})
	}))
	defer s.Close()
	box := &outbox{}
	d := deferring(t, box, s.URL)
	for _, early := range []bool{true, false} { // whether the body is finished before the request is handed over
		r := d.newRequest("POST", s.URL+"/readings?x=1", "x-mine", "a", "x-mine", "b")
		out := d.ok(types+"[method]outgoing-request.body", r)
		var future engine.Val
		if !early {
			future = d.ok("wasi:http/outgoing-handler handle", r, absent)
			if v := d.call(types+"[method]future-incoming-response.get", future); v.IsSet() || len(box.sent) > 1 {
				t.Error("answered before it is whole")
			}
		}
		stream := d.ok(types+"[method]outgoing-body.write", out)
		d.ok(streams+"[method]output-stream.blocking-write-and-flush", stream, bin("28.5"))
		d.drop(stream)
		d.ok(types+"[static]outgoing-body.finish", out, absent)
		if early {
			future = d.ok("wasi:http/outgoing-handler handle", r, absent)
		}
		resp := d.answer(future).Payload()
		if h := d.header(resp, "dunlin-deferred"); h != "true" {
			t.Errorf("dunlin-deferred: %q", h)
		}
		if status, body := d.read(resp); status != 202 || body != "" {
			t.Errorf("answered %d %q", status, body)
		}
	}
	d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("DELETE", s.URL+"/readings/7"), absent)) // without a body
	if len(got) > 0 {
		t.Errorf("sent before the event's end: %v", got)
	}
	h := &Host{client: defaultClient()}
	for i, b := range box.sent {
		if box.origins[i] != s.URL {
			t.Errorf("origin %q", box.origins[i])
		}
		if err := h.SendDeferred(t.Context(), b, "board-1"); err != nil {
			t.Error(err)
		}
	}
	post := seen{"POST /readings?x=1", "28.5", `"board-1"`, "a,b"}
	if len(got) != 3 || got[0] != post || got[1] != post || got[2] != (seen{"DELETE /readings/7", "", `"board-1"`, ""}) {
		t.Errorf("the host got %+v", got)
	}
}

func TestWhatIsNotWholeOrFindsNoRoomIsNotDeferredAndTold(t *testing.T) {
	box := &outbox{}
	d := deferring(t, box, "https://api.example.com")
	r := d.newRequest("PUT", "https://api.example.com/")
	out := d.ok(types+"[method]outgoing-request.body", r)
	future := d.ok("wasi:http/outgoing-handler handle", r, absent)
	d.drop(out)
	if v := d.answer(future); v.IsSet() || v.Payload().Text() != "HTTP-protocol-error" {
		t.Errorf("a request whose body was dropped: %v", v)
	}
	box.err = errors.New("the outbox is full")
	v := d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("POST", "https://api.example.com/"), absent))
	if v.IsSet() || v.Payload().Text() != "internal-error" || !strings.Contains(v.Payload().Payload().Payload().Text(), "the outbox is full") {
		t.Errorf("a request without room: %v", v)
	}
	if len(box.sent) > 0 {
		t.Errorf("deferred: %q", box.sent)
	}
	// Neither what a handler needs the answer of, nor other hosts.
	d.fails("HTTP-request-denied", "wasi:http/outgoing-handler handle", d.newRequest("GET", "https://api.example.com/"), absent)
	d.fails("HTTP-request-denied", "wasi:http/outgoing-handler handle", d.newRequest("POST", "https://other.example.com/"), absent)
}

// The address that a name has when the request leaves is what counts.
func TestADeferredRequestReachesNothingThatEgressRefuses(t *testing.T) {
	reached := false
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer s.Close()
	h := &Host{client: defaultClient()}
	h.Guard(func() (string, []string) { return s.Listener.Addr().String(), nil }) // as if it were the agent's own
	box := &outbox{}
	for _, url := range []string{s.URL, "http://169.254.169.254"} {
		d := deferring(t, box, "http://*:*")
		d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("POST", url+"/"), absent))
		err := h.SendDeferred(t.Context(), box.sent[len(box.sent)-1], "k")
		if err == nil || !strings.Contains(err.Error(), "denied") || reached {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestAnAnswerSaysWhetherADeferredRequestIsTakenRefusedOrForLater(t *testing.T) {
	for status, want := range map[int]string{200: "taken", 204: "taken", 302: "refused", 400: "refused", 404: "refused", 409: "refused", 408: "later", 425: "later", 429: "later", 500: "later", 503: "later"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Location", "http://elsewhere.example/")
			w.WriteHeader(status)
		}))
		d := deferredRequest{method: "POST", url: s.URL, named: true}
		err := (&Host{client: defaultClient()}).SendDeferred(t.Context(), d.encode(), "k")
		s.Close()
		got := "taken"
		var answer *answerError
		switch {
		case errors.As(err, &answer) && answer.Refused():
			got = "refused"
		case errors.As(err, &answer) && answer.RetryAfter() == 7*time.Second:
			got = "later"
		case err != nil:
			got = err.Error()
		}
		if got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
	var unreadable interface{ Refused() bool }
	if err := (&Host{client: defaultClient()}).SendDeferred(context.Background(), []byte("x"), "k"); !errors.As(err, &unreadable) || !unreadable.Refused() {
		t.Errorf("bytes that are no request: %v", err)
	}
}

func FuzzDeferred(f *testing.F) {
	f.Add((&deferredRequest{method: "POST", url: "https://a.example/", named: true, header: [][2]string{{"A", "b"}, {"A", "c"}}, body: []byte("x")}).encode())
	f.Add([]byte{deferredFormat, 0, 0, 0, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDeferred(b)
		if err == nil && !bytes.Equal(d.encode(), b) {
			t.Errorf("%x reads as %+v", b, d)
		}
	})
}
