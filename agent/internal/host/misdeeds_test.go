package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/test/guests"
)

// Each misdeed ends its own event, with a reason, and a well-behaved one after it is served.
func TestMisdeeds(t *testing.T) {
	c := compile(t, guests.Hostile)
	grants := Grants{Stores: []string{"default"}, Publish: []string{"#"}}
	for _, test := range []struct {
		path string
		want string // in the error; "" for none
		code engine.TrapCode
		body string
	}{
		{path: "ok", body: "done\n"},
		{path: "never", want: "without setting a response"},
		{path: "leak", want: "without setting a response"},
		{path: "twice", want: "", code: engine.TrapOther},
		{path: "open", body: "half of a body"},
		{path: "drop", want: "incomplete response", body: "half of a body"},
		{path: "late", want: "guest trapped", code: engine.TrapUnreachable, body: "half of a body"},
		{path: "endless", want: "larger than its limit", code: engine.TrapHost},
		{path: "sleep", want: "deadline", code: engine.TrapInterrupt},
		{path: "loop", want: "deadline", code: engine.TrapInterrupt},
		{path: "flood", want: "16 MiB", code: engine.TrapHost},
		{path: "half", want: "guest trapped", code: engine.TrapUnreachable},
	} {
		t.Run(test.path, func(t *testing.T) {
			ctx := t.Context()
			if test.path == "sleep" || test.path == "loop" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
			}
			b := &bus{}
			within(t, func() {
				a, err := serve(t, c, Limits{Body: 1 << 20}, &Env{Grants: grants, KV: b, Publisher: b}, request("GET", "/x/"+test.path, nil).WithContext(ctx))
				var trap *engine.Trap
				switch {
				case test.path == "twice":
					if !errors.As(err, &trap) {
						t.Errorf("a second response: %v", err)
					}
				case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
					t.Errorf("got error %v, want %q", err, test.want)
				case test.code != engine.TrapOther && (!errors.As(err, &trap) || trap.Code != test.code):
					t.Errorf("got error %v, want trap code %d", err, test.code)
				}
				if test.body != "" && a.body.String() != test.body {
					t.Errorf("body is %q", a.body.String())
				}
			})
			if a, err := serve(t, c, Limits{}, &Env{Grants: grants, KV: b, Publisher: b}, request("GET", "/ok", nil)); err != nil || a.status != 200 {
				t.Errorf("afterwards: status %d, %v", a.status, err)
			}
		})
	}
}

func TestTenMegabytesOfStderrCostNothing(t *testing.T) {
	c := compile(t, guests.Hostile)
	var l logs
	a, err := serve(t, c, Limits{Stderr: 4096}, &Env{Log: l.add}, request("GET", "/stderr", nil))
	if err != nil || a.status != 200 {
		t.Fatalf("status %d, %v", a.status, err)
	}
	kept := 0
	for _, line := range l[:len(l)-1] {
		kept += len(line)
	}
	if kept > 5000 {
		t.Errorf("%d bytes were kept", kept)
	}
	// 10 MiB less three lines of 1023 bytes, their ends, and their context.
	if got := l[len(l)-1]; !strings.Contains(got, "bytes of output dropped after the first 3087") || !strings.HasPrefix(got, "WARN log: 104") {
		t.Errorf("the last line is %q", got)
	}
}

func TestMessagesAndTicksReachTheirHandlers(t *testing.T) {
	c := compile(t, guests.Counter)
	b := &bus{}
	env := &Env{Grants: Grants{Stores: []string{"default"}, Publish: []string{"count/#"}}, KV: b, Publisher: b}
	h := HandlersOf(c)
	if err := newHost(t).Check(c, "counter", env.Grants); err != nil {
		t.Fatal(err)
	}
	run := func(do func(*Guest) error) error {
		g := start(t, t.Context(), c, Limits{}, env)
		defer g.Close()
		return do(g)
	}
	for range 2 {
		if err := run(func(g *Guest) error { return g.HandleMessage(h, Message{"events/x", []byte("hello")}) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(func(g *Guest) error {
		return g.HandleTick(h, Tick{Timer: "nightly", Scheduled: time.Now(), Actual: time.Now()})
	}); err != nil {
		t.Fatal(err)
	}
	var guestErr *GuestError
	err := run(func(g *Guest) error { return g.HandleMessage(h, Message{"events/x", []byte("fail")}) })
	if !errors.As(err, &guestErr) || guestErr.Message != "other: failing, as told" {
		t.Errorf("got %v", err)
	}
	a, err := serve(t, c, Limits{}, env, request("GET", "/", nil))
	if err != nil || a.body.String() != "{\"http\":0,\"mqtt\":3,\"timer\":1}\n" {
		t.Errorf("got %q, %v", a.body.String(), err)
	}
	if got := strings.Join(b.sent, ", "); got != "count/mqtt 1 1 false, count/mqtt 2 1 false, count/timer/nightly 1 1 false, count/mqtt 3 1 false" {
		t.Errorf("published %s", got)
	}

	env.Grants = Grants{Stores: []string{"other"}}
	err = run(func(g *Guest) error { return g.HandleMessage(h, Message{"events/x", nil}) })
	if !errors.As(err, &guestErr) || !strings.Contains(guestErr.Message, "AccessDenied") {
		t.Errorf("without the grant: %v", err)
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	c := compile(t, guests.Counter)
	err := newHost(t).Check(c, "counter", Grants{})
	for _, want := range []string{
		`import wasi:keyvalue/store@0.2.0-draft2 is not granted: add key_value_stores = ["default"] under [component.counter]`,
		`import wasi:messaging/producer@0.2.0-draft is not granted: add publish = ["alerts/#"] under [component.counter]`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say: %s", err, want)
		}
	}
}
