package host

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// A request's trailers may be made while its body is on its way (wasi:http, outgoing-body.finish).
func TestTrailersFollowABodyThatIsStreamed(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %v %s", b, err, r.Trailer.Get("X-Sum"))
	}))
	defer s.Close()
	d := client(t, s.URL)
	r := d.newRequest("POST", s.URL+"/")
	out := d.ok(types+"[method]outgoing-request.body", r)
	stream := d.ok(types+"[method]outgoing-body.write", out)
	future := d.ok("wasi:http/outgoing-handler handle", r, absent)
	within(t, func() {
		d.ok(streams+"[method]output-stream.blocking-write-and-flush", stream, bin("body"))
	})
	d.drop(stream)
	trailers := d.call(types + "[constructor]fields")
	d.ok(types+"[method]fields.append", trailers, str("x-sum"), bin("41"))
	d.ok(types+"[static]outgoing-body.finish", out, some(trailers))
	if status, body := d.read(d.answer(future).Payload()); status != 200 || body != "body <nil> 41" {
		t.Errorf("answered %d %q", status, body)
	}
}

func TestTimeoutsAreGivenBackAsTheyWereSet(t *testing.T) {
	d := client(t, "http://127.0.0.1:1")
	o := d.call(types + "[constructor]request-options")
	for _, name := range []string{"connect-timeout", "first-byte-timeout", "between-bytes-timeout"} {
		get, set := types+"[method]request-options."+name, types+"[method]request-options.set-"+name
		if v := d.call(get, o); v.IsSet() {
			t.Errorf("%s is set from the start", name)
		}
		for _, ns := range []uint64{0, 1, 5_000_000_000, math.MaxUint64} {
			d.ok(set, o, some(engine.U64(ns)))
			if v := d.call(get, o); !v.IsSet() || v.Payload().Uint() != ns {
				t.Errorf("%s of %d is given back otherwise", name, ns)
			}
		}
		d.ok(set, o, absent)
		if v := d.call(get, o); v.IsSet() {
			t.Errorf("%s can't be taken back", name)
		}
	}
}

func TestPartsOfARequestAreCheckedWhenTheyAreSet(t *testing.T) {
	d := client(t, "http://127.0.0.1:1")
	for authority, good := range map[string]bool{
		"example.com": true, "example.com:8080": true, "[::1]:80": true, "example.com:": false, "example.com:65536": false, "example.com:x": false,
		"user@example.com": false, "": false, "a b": false, `"`: false, "ü.example": false, "xn--tda.example": true, "a%20b": false,
	} {
		if got := validAuthority(authority); got != good {
			t.Errorf("authority %q: %v", authority, got)
		}
	}
	headers := d.call(types + "[constructor]fields")
	for _, bad := range []string{"", "x", "-1", "1, 1", "99999999999999999999"} {
		d.fails("invalid-syntax", types+"[method]fields.append", headers, str("Content-Length"), bin(bad))
	}
	d.ok(types+"[method]fields.append", headers, str("Content-Length"), bin("12"))
	d.fails("HTTP-request-method-invalid", "wasi:http/outgoing-handler handle", d.newRequest("CONNECT", "http://127.0.0.1:1/"), absent)
}
