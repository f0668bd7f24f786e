package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/test/guests"
)

func TestHelloWorldIsServed(t *testing.T) {
	c := compile(t, guests.HelloHTTP)
	if err := newHost(t).Check(c, "hello", Grants{}); err != nil {
		t.Fatal(err)
	}
	a, err := serve(t, c, Limits{}, &Env{}, request("GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	if a.status != 200 || a.body.String() != "Hello World!" || a.finished != 1 {
		t.Errorf("got status %d, body %q, finished %d times", a.status, a.body.String(), a.finished)
	}
	if got := a.header.Get("Content-Type"); got != "text/plain" {
		t.Errorf("content-type is %q", got)
	}
}

func TestHeadersArriveWithoutTheConnections(t *testing.T) {
	r := request("GET", "/headers", nil)
	r.Header = http.Header{"X-Two": {"a", "b"}, "Connection": {"close"}, "Accept": {"text/plain"}}
	a, err := serve(t, compile(t, guests.HelloHTTP), Limits{}, &Env{}, r)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.body.String(); got != "accept: text/plain\nx-two: a\nx-two: b\n" {
		t.Errorf("the guest saw %q", got)
	}
}

// The far end of the body only gets the second half when the first has come back: neither side may wait for all of it.
func TestBodiesStreamBothWays(t *testing.T) {
	c := compile(t, guests.HelloHTTP)
	in, feed := io.Pipe()
	back := make(chan []byte, 1000)
	r := request("POST", "/echo", in)
	r.ContentLength = -1
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		g := start(t, r.Context(), c, Limits{}, &Env{})
		defer g.Close()
		err = g.ServeHTTP(HandlersOf(c).HTTP, echoes(back), r)
	}()
	within(t, func() {
		for _, part := range []string{"first", strings.Repeat("second", 20_000)} {
			if _, err := io.WriteString(feed, part); err != nil {
				t.Error(err)
			}
			var got []byte
			for len(got) < len(part) {
				got = append(got, <-back...)
			}
			if string(got) != part {
				t.Errorf("%d bytes came back changed", len(got))
			}
		}
		_ = feed.Close()
		<-done
	})
	if err != nil {
		t.Error(err)
	}
}

// echoes hands over what is written as it is written.
type echoes chan []byte

func (e echoes) Start(int, http.Header) error { return nil }
func (e echoes) Write(p []byte) (int, error)  { e <- bytes.Clone(p); return len(p), nil }
func (e echoes) Finish(http.Header) error     { return nil }

func TestStalledRequestBodyEndsWithTheEvent(t *testing.T) {
	in, feed := io.Pipe()
	defer feed.Close()
	c := compile(t, guests.HelloHTTP)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r := request("POST", "/echo", in).WithContext(ctx)
	r.ContentLength = -1
	within(t, func() {
		_, err := serve(t, c, Limits{}, &Env{}, r)
		var trap *engine.Trap
		if !errors.As(err, &trap) || trap.Code != engine.TrapInterrupt || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestBodyLimits(t *testing.T) {
	c := compile(t, guests.HelloHTTP)
	for _, test := range []struct {
		size  int
		limit int64
		ok    bool
	}{
		{100, 0, true}, {100, 100, true}, {101, 100, false}, {200_000, 100_000, false}, {100_000, 100_000, true},
	} {
		r := request("POST", "/echo", strings.NewReader(strings.Repeat("x", test.size)))
		a, err := serve(t, c, Limits{Body: test.limit}, &Env{}, r)
		if ok := err == nil; ok != test.ok {
			t.Errorf("%d bytes with a limit of %d: %v", test.size, test.limit, err)
		}
		if test.limit > 0 && int64(a.body.Len()) > test.limit {
			t.Errorf("%d bytes came through a limit of %d", a.body.Len(), test.limit)
		}
	}
}

func TestWriterThatRefusesIsTheError(t *testing.T) {
	c := compile(t, guests.HelloHTTP)
	g := start(t, t.Context(), c, Limits{}, &Env{})
	defer g.Close()
	a := &answer{refuse: errTest}
	err := g.ServeHTTP(HandlersOf(c).HTTP, a, request("GET", "/", nil))
	// The handler panics when it can't write: either is a failed event, and the cause must be told.
	var trap *engine.Trap
	if !errors.Is(err, errTest) && !errors.As(err, &trap) {
		t.Errorf("got %v", err)
	}
	if a.body.Len() > 0 || a.finished > 0 {
		t.Error("the body went on after the refusal")
	}
}

func TestCommandSeesItsWorldAndItsOutputIsLogged(t *testing.T) {
	c := compile(t, guests.HelloCLI)
	if err := newHost(t).Check(c, "hello", Grants{}); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (logs, error) {
		var l logs
		g := start(t, t.Context(), c, Limits{}, &Env{Log: l.add, Args: args, Environ: map[string]string{"B": "2", "A": "1"}})
		err := g.HandleTick(HandlersOf(c), Tick{})
		g.Close()
		return l, err
	}
	l, err := run("one")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(l, "\n"); got != "INFO stdout: hello from a command\nINFO stdout: arg one\nINFO stdout: env A=1\nINFO stdout: env B=2" {
		t.Errorf("logged %s", got)
	}
	l, err = run("fail")
	var guestErr *GuestError
	if !errors.As(err, &guestErr) {
		t.Errorf("got %v", err)
	}
	if got := l[len(l)-1]; got != "WARN stderr: failing, as told" {
		t.Errorf("logged %s last", got)
	}
}
