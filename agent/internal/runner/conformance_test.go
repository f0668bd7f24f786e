package runner

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/test/guests"
)

// The incoming half of wasi:http over real connections, by the paths of test/guests/conformance; what a guest can try from
// within is host's TestWASIConformance.

// raw sends bytes on a connection of its own, and gives the answer with all of its body.
func raw(t *testing.T, url, method, text string, then ...func(*net.TCPConn) error) (*http.Response, string, error) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	for _, do := range then {
		if err := do(c.(*net.TCPConn)); err != nil {
			t.Fatal(err)
		}
	}
	return answerOf(c, method)
}

func answerOf(c io.Reader, method string) (*http.Response, string, error) {
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(res.Body)
	return res, string(b), errors.Join(err, res.Body.Close())
}

func TestRequestsArriveAsTheyWereSent(t *testing.T) {
	url := serve(t, start(t, guests.Conformance, Limits{}))
	const checks = "headers immutable\nconsumed once true\n"
	for name, c := range map[string]struct{ method, text, want string }{
		"query and escapes": {"GET", "GET /see/%20%2f?a=b&c=%zz HTTP/1.1\r\nHost: board.local\r\n\r\n",
			"method get\nscheme Http\nauthority board.local\npath /see/%20%2f?a=b&c=%zz\n" + checks},
		"a method of its own": {"PURGE", "PURGE /see HTTP/1.1\r\nHost: a:80\r\n\r\n", "method other PURGE\nscheme Http\nauthority a:80\npath /see\n" + checks},
		"case of methods":     {"get", "get /see HTTP/1.1\r\nHost: a\r\n\r\n", "method other get\nscheme Http\nauthority a\npath /see\n" + checks},
		"absolute form": {"GET", "GET http://a.example/see?x HTTP/1.1\r\nHost: b.example\r\n\r\n",
			"method get\nscheme Http\nauthority a.example\npath /see?x\n" + checks},
		"http/1.0 without a host": {"GET", "GET /see HTTP/1.0\r\n\r\n", "method get\nscheme Http\nauthority \npath /see\n" + checks},
		"the connection's headers": {"GET", "GET /see HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-mine\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n" +
			"Upgrade: h2c\r\nHTTP2-Settings: x\r\nX-Two: 1\r\nx-two: \t2 \r\nX-Bytes: \xff\xc3\xbc\r\n\r\n",
			"method get\nscheme Http\nauthority a\npath /see\n" + checks + "x-bytes: \\xff\\xc3\\xbc\nx-two: 1\nx-two: 2\n"},
	} {
		if res, body, err := raw(t, url, c.method, c.text); err != nil || res.StatusCode != http.StatusOK || body != c.want {
			t.Errorf("%s: %v, the handler saw\n%s\nwant\n%s", name, err, body, c.want)
		}
	}
}

func TestAnswersLeaveAsTheyWereMade(t *testing.T) {
	url := serve(t, start(t, guests.Conformance, Limits{}))
	for _, status := range []int{200, 201, 204, 299, 304, 404, 418, 451, 500, 503, 599, 600, 999} {
		res, body, err := raw(t, url, "GET", fmt.Sprintf("GET /status/%d HTTP/1.1\r\nHost: a\r\n\r\n", status))
		if err != nil || res.StatusCode != status || body != "" {
			t.Errorf("%d has become %+v %q, %v", status, res, body, err)
		}
	}
	for path, want := range map[string]string{
		"/no-body-taken": "", "/body-after-set": "before after", "/finished-before-set": "all of it", "/respond/5": "xxxxx",
		"/respond/5?content-length=5&x-a=b": "xxxxx", "/respond/0?content-length=0": "",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			res, body, err := raw(t, url, method, method+" "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
			if method == "HEAD" {
				want = ""
			}
			if err != nil || res.StatusCode != http.StatusOK || body != want {
				t.Errorf("%s %s: %+v %q, %v", method, path, res, body, err)
			} else if strings.Contains(path, "=5") && (res.ContentLength != 5 || res.Header.Get("X-A") != "b") {
				t.Errorf("%s %s: headers %v", method, path, res.Header)
			}
		}
	}
	// Whatever is not as long as it promised, or never ended, must not look whole.
	for _, path := range []string{"/respond/3?content-length=5", "/respond/7?content-length=5", "/dropped-before-set", "/never", "/error", "/error-loop"} {
		if res, body, err := raw(t, url, "GET", "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err == nil && res.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s: %d and a body %q that looks whole", path, res.StatusCode, body)
		}
	}
	// A header that is no header of HTTP never gets that far, and says nothing of another request.
	if res, body, err := raw(t, url, "GET", "GET /unread HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil || body != "not read\n" {
		t.Errorf("afterwards: %+v %q, %v", res, body, err)
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	url := serve(t, start(t, guests.Conformance, Limits{}))
	res, body, err := raw(t, url, "POST", "POST /trailers-in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-More\r\n\r\n"+
		"5\r\nhello\r\n0\r\nX-Sum: 42\r\nX-More: a\r\nX-More: b\r\n\r\n")
	if err != nil || res.StatusCode != http.StatusOK || body != "5 bytes\nx-more: a\nx-more: b\nx-sum: 42\n" {
		t.Errorf("in: %v %q", err, body)
	}
	if _, body, err = raw(t, url, "POST", "POST /trailers-in HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"); err != nil || body != "5 bytes\nSome(Ok(Ok(None)))\n" {
		t.Errorf("none in: %v %q", err, body)
	}
	res, body, err = raw(t, url, "GET", "GET /trailers-out HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
	if err != nil || body != "hello" || res.Trailer.Get("X-Sum") != "42" || strings.Join(res.Trailer["X-More"], " ") != "a b" {
		t.Errorf("out: %v %q %v", err, body, res.Trailer)
	}
}

func TestBodiesAreStreamedThroughAndOn(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		_ = c.Flush()
		b := make([]byte, 64<<10)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = c.Flush()
			if err != nil {
				return
			}
		}
	}))
	defer upstream.Close()
	f := start(t, guests.Conformance, Limits{Payload: 8 << 20, Time: time.Minute})
	f.cfg.Grants.OutboundHosts = []string{upstream.URL}
	url := serve(t, f)
	for _, path := range []string{"/echo", "/double-echo?" + upstream.URL + "/"} {
		in, feed := io.Pipe()
		res := make(chan *http.Response, 1)
		go func() {
			r, err := http.Post(url+path, "text/plain", in)
			if err != nil {
				t.Error(err)
				_ = in.CloseWithError(err)
			}
			res <- r
		}()
		var back io.ReadCloser
		// The next part leaves when the one before has come back: neither side may wait for all of it.
		for i, part := range []string{"first", strings.Repeat("second", 500_000), "third"} {
			go func() { _, _ = io.WriteString(feed, part) }()
			if i == 0 {
				r := <-res
				if r == nil {
					return
				}
				back = r.Body
			}
			got := make([]byte, len(part))
			if _, err := io.ReadFull(back, got); err != nil || string(got) != part {
				t.Fatalf("%s: part %d: %v, %d bytes", path, i, err, len(got))
			}
		}
		_ = feed.Close()
		if rest, err := io.ReadAll(back); err != nil || len(rest) > 0 {
			t.Errorf("%s: at the end %v and %q", path, err, rest)
		}
		_ = back.Close()
	}
}

func TestManyAnswersAreWaitedForTogether(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(r.URL.Path, 1000))
	}))
	defer upstream.Close()
	f := start(t, guests.Conformance, Limits{})
	f.cfg.Grants.OutboundHosts = []string{upstream.URL}
	req, err := http.NewRequest(http.MethodGet, serve(t, f)+"/hash-all", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"http://127.0.0.1:1/: ErrorCode::HttpRequestDenied": true}
	req.Header["Url"] = []string{"http://127.0.0.1:1/"}
	for i := range 10 {
		u := fmt.Sprintf("%s/%d", upstream.URL, i)
		req.Header["Url"] = append(req.Header["Url"], u)
		h := fnv.New64a()
		_, _ = io.WriteString(h, strings.Repeat(fmt.Sprintf("/%d", i), 1000))
		want[fmt.Sprintf("%s: %016x", u, h.Sum64())] = true
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if !want[lines.Text()] {
			t.Errorf("unexpected: %s", lines.Text())
		}
		delete(want, lines.Text())
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

func TestARequestsBodyThatBreaksOffIsAnErrorOfItsKind(t *testing.T) {
	f := start(t, guests.Conformance, Limits{Payload: 100_000})
	url := serve(t, f)
	closes := func(c *net.TCPConn) error { return c.CloseWrite() }
	const start = "POST /body-error HTTP/1.1\r\nHost: a\r\n"
	for name, c := range map[string]struct {
		text, want string
		status     int
		then       []func(*net.TCPConn) error
	}{
		"whole":              {start + "Content-Length: 4\r\n\r\nhalf", "4 None\n", 200, nil},
		"sized":              {start + "Content-Length: 90000\r\n\r\nhalf", "4 Some(Some(ErrorCode::ConnectionTerminated))\n", 200, []func(*net.TCPConn) error{closes}},
		"small":              {start + "Content-Length: 9\r\n\r\nhalf", "the body did not arrive", 400, []func(*net.TCPConn) error{closes}},
		"chunked":            {start + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n4\r\nh", "5 Some(Some(ErrorCode::ConnectionTerminated))\n", 200, []func(*net.TCPConn) error{closes}},
		"no chunk":           {start + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", "4 Some(Some(ErrorCode::HttpProtocolError))\n", 200, nil},
		"no end of a chunk":  {start + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf0\r\n\r\n", "4 Some(Some(ErrorCode::HttpProtocolError))\n", 200, nil},
		"a chunk of 2^64":    {start + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nfffffffffffffffff\r\n", "4 Some(Some(ErrorCode::HttpProtocolError))\n", 200, nil},
		"a chunk below zero": {start + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n-1\r\n", "4 Some(Some(ErrorCode::HttpProtocolError))\n", 200, nil},
	} {
		res, body, err := raw(t, url, "POST", c.text, c.then...)
		if err == nil && len(c.then) > 0 && res.StatusCode == http.StatusServiceUnavailable {
			continue // the event was canceled, before or after the handler heard of it
		}
		if err != nil || res.StatusCode != c.status || !strings.HasPrefix(body, c.want) {
			t.Errorf("%s: %v %q, want %q", name, err, body, c.want)
		}
	}
}

func TestInformationalAnswersComeBeforeTheAnswer(t *testing.T) {
	url := serve(t, start(t, guests.Conformance, Limits{}))
	req, err := http.NewRequest(http.MethodGet, url+"/informational", nil)
	if err != nil {
		t.Fatal(err)
	}
	var hints []string
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(status, " ", h.Get("Link")))
		return nil
	}}))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil || string(b) != "Ok(()) true true\n" || res.Header.Get("Link") != "" {
		t.Errorf("%v %q %v", err, b, res.Header)
	}
	if strings.Join(hints, ",") != "103 </style.css>; rel=preload" {
		t.Errorf("hints %q", hints)
	}
}

func TestAClientThatLeavesEndsItsEvent(t *testing.T) {
	f := start(t, guests.Conformance, Limits{Payload: 1 << 30, Time: time.Minute})
	url := serve(t, f)
	for _, path := range []string{"/events", "/early-drop"} {
		res, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 10)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		_ = res.Body.Close()
		waitFor(t, func() bool { return f.Counters().Active == 0 })
	}
	if res, body, err := raw(t, url, "GET", "GET /unread HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil || body != "not read\n" {
		t.Errorf("afterwards: %+v %q, %v", res, body, err)
	}
}

// A handler that writes for nobody waits, and no longer than its time.
func TestAWriterWaitsForAClientThatReadsNothing(t *testing.T) {
	f := start(t, guests.Conformance, Limits{Payload: 1 << 30, Time: 300 * time.Millisecond})
	url := serve(t, f)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /flood HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return f.Counters().Failed == 1 })
	if !strings.Contains(f.log.String(), "reason=time-limit") {
		t.Errorf("the log has no time-limit:\n%s", f.log)
	}
}
