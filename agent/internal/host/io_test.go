package host

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

const (
	clock   = "wasi:clocks/monotonic-clock "
	pollIt  = "wasi:io/poll poll"
	streams = "wasi:io/streams "
)

func TestPollGivesTheFirstTimerThatIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirect(t, t.Context(), &Env{})
		at := d.call(clock + "now").Uint()
		long := d.call(clock+"subscribe-duration", engine.U64(uint64(time.Hour)))
		short := d.call(clock+"subscribe-instant", engine.U64(at+uint64(time.Second)))
		never := d.call(clock+"subscribe-duration", engine.U64(1<<64-1))
		before := time.Now()
		got := d.call(pollIt, engine.List(long, never, short)).Elems()
		if len(got) != 1 || got[0].Uint() != 2 {
			t.Errorf("ready: %v", got)
		}
		if d := time.Since(before); d != time.Second {
			t.Errorf("waited %v", d)
		}
		if !d.call("wasi:io/poll [method]pollable.ready", short).IsSet() || d.call("wasi:io/poll [method]pollable.ready", long).IsSet() {
			t.Error("ready tells something else than poll")
		}
		d.call("wasi:io/poll [method]pollable.block", long)
		if d := time.Since(before); d != time.Hour {
			t.Errorf("blocked until %v", d)
		}
	})
}

func TestWaitingEndsWithTheEvent(t *testing.T) {
	reason := errors.New("the link is gone")
	for name, wait := range map[string]func(d direct) (engine.Val, error){
		"poll": func(d direct) (engine.Val, error) {
			return d.try(pollIt, engine.List(d.call(clock+"subscribe-duration", engine.U64(1<<64-1))))
		},
		"block": func(d direct) (engine.Val, error) {
			return d.try("wasi:io/poll [method]pollable.block", d.call(clock+"subscribe-duration", engine.U64(1<<62)))
		},
		"read": func(d direct) (engine.Val, error) {
			return d.try(streams+"[method]input-stream.blocking-read", d.call("wasi:cli/stdin get-stdin"), number(10))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, reason)
				defer cancel()
				in, feed := io.Pipe()
				defer feed.Close() // ends the read that is under way
				_, err := wait(newDirect(t, ctx, &Env{Stdin: in}))
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, reason) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestPollMisuseTraps(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{})
	d.traps("empty", pollIt, engine.List())
	d.traps("no host.pollable", pollIt, engine.List(engine.Borrow(typPollable, 99)))
	d.traps("no host.pollable", pollIt, engine.List(d.call("wasi:cli/stdout get-stdout")))
	d.traps("wrong type", pollIt, str("x"))
	d.traps("0 arguments", pollIt)
}

func TestInputStreams(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{Stdin: strings.NewReader("hello world")})
	in := d.call("wasi:cli/stdin get-stdin")
	read := func(n int) string {
		return string(d.ok(streams+"[method]input-stream.blocking-read", in, number(n)).Raw())
	}
	if got := read(0) + read(5); got != "hello" {
		t.Errorf("read %q", got)
	}
	if n := d.ok(streams+"[method]input-stream.blocking-skip", in, number(1)).Uint(); n != 1 {
		t.Errorf("skipped %d", n)
	}
	if got := read(1 << 40); got != "world" {
		t.Errorf("read %q", got)
	}
	for _, name := range []string{"blocking-read", "read", "blocking-skip", "skip"} {
		d.fails("closed", streams+"[method]input-stream."+name, in, number(1))
	}
	d.call(pollIt, engine.List(d.call(streams+"[method]input-stream.subscribe", in)))
}

func TestReadWithoutWaitingGivesWhatThereIs(t *testing.T) {
	in, feed := io.Pipe()
	d := newDirect(t, t.Context(), &Env{Stdin: in})
	stdin := d.call("wasi:cli/stdin get-stdin")
	if got := d.ok(streams+"[method]input-stream.read", stdin, number(9)).Raw(); len(got) > 0 {
		t.Errorf("read %q before anything was written", got)
	}
	go func() { _, _ = feed.Write([]byte("now")); _ = feed.CloseWithError(errTest) }()
	within(t, func() { d.call(pollIt, engine.List(d.call(streams+"[method]input-stream.subscribe", stdin))) })
	if got := d.ok(streams+"[method]input-stream.read", stdin, number(9)).Raw(); string(got) != "now" {
		t.Errorf("read %q", got)
	}
	v := d.call(streams+"[method]input-stream.blocking-read", stdin, number(9))
	if v.IsSet() || v.Payload().Text() != "last-operation-failed" {
		t.Fatalf("got %v", v.Payload())
	}
	if got := d.call("wasi:io/error [method]error.to-debug-string", v.Payload().Payload()).Text(); got != errTest.Error() {
		t.Errorf("the error says %q", got)
	}
}

func TestWritesNeedAPermit(t *testing.T) {
	var l logs
	d := newDirect(t, t.Context(), &Env{Log: l.add})
	out := d.call("wasi:cli/stdout get-stdout")
	write := streams + "[method]output-stream.write"
	d.traps("check-write permitted 0", write, out, bin("x"))
	permit := d.ok(streams+"[method]output-stream.check-write", out).Uint()
	d.traps("check-write permitted", write, out, engine.Bytes(make([]byte, permit+1)))
	d.ok(write, out, bin("one\ntw"))
	d.ok(streams+"[method]output-stream.flush", out)
	d.traps("check-write permitted 0", write, out, bin("x"))
	d.traps("check-write permitted 0", streams+"[method]output-stream.write-zeroes", out, number(1))
	d.ok(streams+"[method]output-stream.check-write", out)
	d.ok(write, out, bin("o\n"))
	d.ok(streams+"[method]output-stream.blocking-write-and-flush", out, bin("three\r\nfour"))
	d.ok(streams+"[method]output-stream.blocking-flush", out)
	d.traps("at most 4096", streams+"[method]output-stream.blocking-write-and-flush", out, engine.Bytes(make([]byte, 4097)))
	d.traps("at most 4096", streams+"[method]output-stream.blocking-write-zeroes-and-flush", out, engine.U64(1<<63))
	d.end()
	if got := strings.Join(l, "|"); got != "INFO stdout: one|INFO stdout: two|INFO stdout: three|INFO stdout: four" {
		t.Errorf("logged %s", got)
	}
}

func TestSplice(t *testing.T) {
	var l logs
	d := newDirect(t, t.Context(), &Env{Log: l.add, Stdin: strings.NewReader("spliced")})
	in, out := d.call("wasi:cli/stdin get-stdin"), d.call("wasi:cli/stdout get-stdout")
	for want := range []int{0, 0, 0} {
		_ = want
		d.ok(streams+"[method]output-stream.blocking-splice", out, in, number(3))
	}
	d.fails("closed", streams+"[method]output-stream.blocking-splice", out, in, number(3))
	d.fails("closed", streams+"[method]output-stream.splice", out, in, number(3))
	d.end()
	if len(l) != 1 || l[0] != "INFO stdout: spliced" {
		t.Errorf("logged %v", l)
	}
}

func TestLongAndBrokenLines(t *testing.T) {
	var l logs
	d := newDirect(t, t.Context(), &Env{Log: l.add})
	out := d.call("wasi:cli/stderr get-stderr")
	for range 3 {
		d.ok(streams+"[method]output-stream.blocking-write-and-flush", out, engine.Bytes([]byte(strings.Repeat("x", 3000))))
	}
	d.ok(streams+"[method]output-stream.blocking-write-and-flush", out, bin("\nbad \xff utf-8\n\n"))
	d.end()
	want := []string{
		"WARN stderr: " + strings.Repeat("x", 4096), "WARN stderr: " + strings.Repeat("x", 4096), "WARN stderr: " + strings.Repeat("x", 808),
		"WARN stderr: bad \uFFFD utf-8", "WARN stderr: ",
	}
	if got := strings.Join(l, "|"); got != strings.Join(want, "|") {
		t.Errorf("logged %s", got)
	}
}

func TestHandlesAreBounded(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{})
	var first engine.Val
	for range maxHandles {
		first = d.call("wasi:http/types [constructor]fields")
	}
	d.traps("holds 10000 handles", "wasi:http/types [constructor]fields")
	d.table.remove(first.Rep())
	d.call("wasi:http/types [constructor]fields")
}
