package http

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// start serves routes on a port of its own until the test ends.
func start(t testing.TB, cfg Config, routes ...Route) (*Source, string) {
	t.Helper()
	cfg.Address = "127.0.0.1:0"
	s := New(cfg, slog.New(slog.DiscardHandler))
	if err := s.Set(routes); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, "http://" + s.Addr().String()
}

func answer(text string) trigger.Handler {
	return func(_ context.Context, e *trigger.Event) error {
		_, err := io.WriteString(e.HTTP.Response, text)
		return err
	}
}

func get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestTheMostSpecificRouteWins(t *testing.T) {
	patterns := []string{"/", "/...", "/room/:id", "/room/kitchen", "/room/:id/climate", "/room/...", "/room/kitchen/...", "/kühl", "/deep/:x/:y/..."}
	routes := make([]Route, len(patterns))
	for i, p := range patterns {
		routes[i] = Route{ID: p, Pattern: p}
	}
	table, err := newTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/":                        "/",
		"/x":                       "/...",
		"/x/y/z":                   "/...",
		"/room":                    "/room/...",
		"/room/":                   "/room/...",
		"/room/7":                  "/room/:id",
		"/room/7/":                 "/room/:id",
		"/room/kitchen":            "/room/kitchen",
		"/room/kitchen/climate":    "/room/kitchen/...",
		"/room/7/climate":          "/room/:id/climate",
		"/room/7/humidity":         "/room/...",
		"/room/7%2Fclimate":        "/room/:id",
		"/roomy":                   "/...",
		"/k%C3%BChl":               "/kühl",
		"/deep/1":                  "/...",
		"/deep/1/2":                "/deep/:x/:y/...",
		"/deep/1/2/3":              "/deep/:x/:y/...",
		"/room/../room/7":          "/room/...",
		"/%zz":                     "/...",
		"/room/kitchen/../kitchen": "/room/kitchen/...",
	} {
		if got := table.find(path); got == nil || got.ID != want {
			t.Errorf("find(%q) = %v, want %s", path, got, want)
		}
	}
}

func TestBadRoutesAreNamed(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		want     string
	}{
		{[]string{"climate"}, "0: route \"climate\" does not start with /"},
		{[]string{"/.../x"}, "has ... before its end"},
		{[]string{"/:"}, "a parameter without a name"},
		{[]string{"/a", "/a/"}, "routes 0 and 1 both match"},
		{[]string{"/:a", "/:b"}, "routes 0 and 1 both match"},
	} {
		var routes []Route
		for i, p := range c.patterns {
			routes = append(routes, Route{ID: fmt.Sprint(i), Pattern: p})
		}
		err := New(Config{}, slog.New(slog.DiscardHandler)).Set(routes)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Set(%q) = %v, want an error with %q", c.patterns, err, c.want)
		}
	}
}

func TestFailuresBecomeStatusCodesThatHideTheCause(t *testing.T) {
	secret := errors.New("secret")
	fail := func(r trigger.Reason) trigger.Handler {
		return func(context.Context, *trigger.Event) error {
			return &trigger.Failure{Event: "e1", Reason: r, Err: secret}
		}
	}
	_, url := start(t, Config{},
		Route{ID: "busy", Pattern: "/busy", Handle: fail(trigger.Busy)},
		Route{ID: "slow", Pattern: "/slow", Handle: fail(trigger.TooSlow)},
		Route{ID: "trap", Pattern: "/trap", Handle: fail(trigger.Trapped)},
		Route{ID: "closed", Pattern: "/closed", Handle: fail(trigger.Closed)},
		Route{ID: "large", Pattern: "/large", Handle: fail(trigger.TooLarge)},
		Route{ID: "panic", Pattern: "/panic", Handle: func(context.Context, *trigger.Event) error { panic(secret) }},
	)
	for path, want := range map[string]int{"/busy": 503, "/slow": 504, "/trap": 500, "/closed": 503, "/large": 500, "/panic": 500, "/none": 404} {
		status, body := get(t, url+path)
		if status != want || strings.Contains(body, "secret") {
			t.Errorf("GET %s: %d %q, want %d without the cause", path, status, body, want)
		}
		if path != "/panic" && path != "/none" && !strings.Contains(body, "e1") {
			t.Errorf("GET %s: %q does not name the event", path, body)
		}
	}
	if _, body := get(t, url+"/none"); !strings.Contains(body, "/none") {
		t.Errorf("404 says %q, want it to name the path", body)
	}
}

func TestAnAnswerThatFailsHalfwayIsCutOff(t *testing.T) {
	_, url := start(t, Config{}, Route{ID: "half", Pattern: "/", Handle: func(_ context.Context, e *trigger.Event) error {
		_, _ = io.WriteString(e.HTTP.Response, "half")
		_ = http.NewResponseController(e.HTTP.Response).Flush()
		return errors.New("no more")
	}})
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("read %q without an error: half an answer looks whole", b)
	}
}

func TestAnUpgradeLosesNoRequest(t *testing.T) {
	var closed atomic.Bool
	entered, proceed := make(chan struct{}), make(chan struct{})
	s, url := start(t, Config{}, Route{ID: "r", Pattern: "/...", Handle: func(_ context.Context, e *trigger.Event) error {
		if closed.Load() {
			return &trigger.Failure{Reason: trigger.Closed, Err: errors.New("closed")}
		}
		close(entered)
		<-proceed
		_, err := io.WriteString(e.HTTP.Response, "old")
		return err
	}})
	first := make(chan string)
	go func() { _, body := get(t, url+"/x"); first <- body }()
	<-entered
	// The old version takes nothing more, and a request that it refuses goes to the one that has replaced it.
	closed.Store(true)
	old := s.routes.Load().routes[0].Handle
	swap := func(ctx context.Context, e *trigger.Event) error {
		if err := s.Set([]Route{{ID: "r", Pattern: "/...", Handle: answer("new")}}); err != nil {
			t.Error(err)
		}
		return old(ctx, e)
	}
	if err := s.Set([]Route{{ID: "r", Pattern: "/...", Handle: swap}}); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, url+"/x"); status != 200 || body != "new" {
		t.Errorf("request during the upgrade: %d %q, want the new version's answer", status, body)
	}
	close(proceed)
	if body := <-first; body != "old" {
		t.Errorf("request in flight ended as %q, want it to end on the handler that it began with", body)
	}
}

func TestAHandlerThatHangsDelaysNoOtherRoute(t *testing.T) {
	release := make(chan struct{})
	_, url := start(t, Config{},
		Route{ID: "hang", Pattern: "/hang", Handle: func(ctx context.Context, _ *trigger.Event) error { <-release; return ctx.Err() }},
		Route{ID: "ok", Pattern: "/ok", Handle: answer("ok")})
	defer close(release)
	for range 20 {
		go func() {
			if res, err := http.Get(url + "/hang"); err == nil {
				res.Body.Close()
			}
		}()
	}
	if status, _ := get(t, url+"/ok"); status != 200 {
		t.Errorf("status %d beside 20 hanging requests", status)
	}
}

func TestASenderThatStallsHoldsNoHandler(t *testing.T) {
	called := make(chan struct{}, 1)
	s, url := start(t, Config{},
		Route{ID: "body", Pattern: "/body", Handle: func(context.Context, *trigger.Event) error { called <- struct{}{}; return nil }},
		Route{ID: "ok", Pattern: "/ok", Handle: answer("ok")})
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	if status, _ := get(t, url+"/ok"); status != 200 {
		t.Fatalf("status %d beside a stalled sender", status)
	}
	select {
	case <-called:
		t.Fatal("the handler was called before the body was there")
	default:
	}
	fmt.Fprint(c, "second")
	<-called
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Error(err)
	}
}

func TestAnAnswerDoesNotWaitForABodyThatNobodyReads(t *testing.T) {
	_, url := start(t, Config{}, Route{ID: "ok", Pattern: "/", Handle: answer("ok")})
	r, w := io.Pipe()
	defer w.Close()
	go fmt.Fprint(w, "half")
	res, err := http.Post(url, "text/plain", r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); string(b) != "ok" {
		t.Errorf("%q %v", b, err)
	}
}

func TestAHandlerCanAnswerWhileItReads(t *testing.T) {
	_, url := start(t, Config{}, Route{ID: "echo", Pattern: "/", Handle: func(_ context.Context, e *trigger.Event) error {
		flush := http.NewResponseController(e.HTTP.Response).Flush
		buf := make([]byte, 1)
		for {
			n, err := e.HTTP.Request.Body.Read(buf)
			if _, werr := e.HTTP.Response.Write(buf[:n]); werr != nil {
				return werr
			}
			if ferr := flush(); ferr != nil {
				return ferr
			}
			if err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	}})
	r, w := io.Pipe()
	go fmt.Fprint(w, "a")
	res, err := http.Post(url, "text/plain", r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, want := range "abc" {
		got := make([]byte, 1)
		if _, err := io.ReadFull(res.Body, got); err != nil || rune(got[0]) != want {
			t.Fatalf("%q %v, want %q", got, err, want)
		}
		if want < 'c' {
			fmt.Fprint(w, string(want+1))
		}
	}
	w.Close()
}

func TestBodiesAndHeadersAreBounded(t *testing.T) {
	_, url := start(t, Config{MaxBody: 100 << 10}, Route{ID: "r", Pattern: "/", Handle: func(_ context.Context, e *trigger.Event) error {
		if _, err := io.Copy(io.Discard, e.HTTP.Request.Body); err != nil {
			return &trigger.Failure{Event: "e", Reason: trigger.TooLarge, Err: err}
		}
		return nil
	}})
	type chunked struct{ io.Reader } // hides the length
	big := strings.Repeat("x", 200<<10)
	for name, body := range map[string]io.Reader{"known length": strings.NewReader(big), "chunked": chunked{strings.NewReader(big)}} {
		res, err := http.Post(url, "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d, want 413", name, res.StatusCode)
		}
	}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Big", big)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 200 KiB: status %d, want 431", res.StatusCode)
	}
}

func TestATakenPortIsAnErrorThatNamesIt(t *testing.T) {
	s, _ := start(t, Config{})
	second := New(Config{Address: s.Addr().String()}, slog.New(slog.DiscardHandler))
	err := second.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), s.Addr().String()+": the address is in use; set listen") {
		t.Errorf("Run = %v, want an error with the address and the way out", err)
	}
	if st := second.Status(); st.Health != trigger.Degraded || st.Detail != err.Error() {
		t.Errorf("status %+v, want degraded with the error", st)
	}
}

func TestTheAgentsOwnPathsCannotBeTaken(t *testing.T) {
	own := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "agent") })
	_, url := start(t, Config{WellKnown: own}, Route{ID: "all", Pattern: "/...", Handle: answer("guest")})
	if _, body := get(t, url+WellKnown+"health"); body != "agent" {
		t.Errorf("health answered %q, want the agent's own answer", body)
	}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	_, url := start(t, Config{}, Route{ID: "r", Pattern: "/", Handle: func(_ context.Context, e *trigger.Event) error {
		_, err := io.WriteString(e.HTTP.Response, e.HTTP.Request.Proto)
		return err
	}})
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "HTTP/2.0" {
		t.Errorf("protocol %s", b)
	}
}

func TestStoppingWaitsForRequestsInFlight(t *testing.T) {
	s := New(Config{Address: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
	entered, proceed := make(chan struct{}), make(chan struct{})
	if err := s.Set([]Route{{ID: "r", Pattern: "/", Handle: func(ctx context.Context, e *trigger.Event) error {
		close(entered)
		<-proceed
		_, err := fmt.Fprint(e.HTTP.Response, ctx.Err())
		return err
	}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	body := make(chan string)
	go func() { _, b := get(t, "http://"+s.Addr().String()); body <- b }()
	<-entered
	cancel()
	close(proceed)
	if b := <-body; b != "<nil>" {
		t.Errorf("the request in flight saw %s, want to end in peace", b)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimited(inner, 1)
	defer func() { _ = l.Close() }()
	for range 2 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("a second connection was accepted beside the first: %v", err)
	default:
	}
	first.Close()
	first.Close() // closing twice must not free two slots
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if n := len(l.slots); n != 0 {
		t.Errorf("%d slots taken after both closed", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	_, url := start(b, Config{}, Route{ID: "r", Pattern: "/...", Handle: answer("hello")})
	for b.Loop() {
		get(b, url+"/hello")
	}
}
