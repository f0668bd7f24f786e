package runner

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/alarm"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/test/guests"
)

// unread is a response's writer whose bytes wait until someone reads them, as on a connection whose buffers are full.
type unread struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (u unread) Write(p []byte) (int, error)        { return u.conn.Write(p) }
func (u unread) SetReadDeadline(t time.Time) error  { return u.conn.SetReadDeadline(t) }
func (u unread) SetWriteDeadline(t time.Time) error { return u.conn.SetWriteDeadline(t) }
func (u unread) Flush()                             {}
func newUnread(t testing.TB) (w unread, to net.Conn) {
	t.Helper()
	mine, theirs := net.Pipe()
	t.Cleanup(func() { _ = errors.Join(mine.Close(), theirs.Close()) })
	return unread{httptest.NewRecorder(), mine}, theirs
}

func TestAClientThatReadsNothingHoldsUpNoClose(t *testing.T) {
	f := start(t, guests.Counter, Limits{})
	e, _ := request("POST", "/", nil)
	w, _ := newUnread(t)
	e.HTTP.Response = w
	result := make(chan error, 1)
	go func() { result <- f.Handle(context.Background(), e) }()
	// The event is committed, and its answer waits.
	waitFor(t, func() bool { return f.counts(t)["http"] == 1 })
	waitFor(t, func() bool { return f.Counters().Active == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- f.Close(ctx) }()
	waitFor(t, func() bool { return len(closed) == 1 })
	if err := <-closed; err == nil {
		t.Error("Close says nothing of the event that it canceled")
	}
	if err := <-result; trigger.ReasonOf(err) != trigger.Canceled || !errors.Is(err, errClient) {
		t.Errorf("the event in flight: %v", err)
	}
}

// held is a whole response of n bytes that waits for its event's commit.
func held(t *testing.T, ctx context.Context, w http.ResponseWriter, req *http.Request, n int) *response {
	t.Helper()
	r := newResponse(ctx, new(alarm.Clock), &trigger.HTTP{Request: req, Response: w}, newReplay(req), 0)
	tx := &effects{}
	r.begin(tx)
	tx.writing()
	if err := r.Start(200, http.Header{}); err != nil {
		t.Error(err)
	}
	write(t, r, strings.Repeat("x", n))
	if err := r.Finish(nil); err != nil {
		t.Error(err)
	}
	return r
}

// counting counts the writes that were begun.
type counting struct {
	http.ResponseWriter
	n *atomic.Int32
}

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(1)
	return c.ResponseWriter.Write(p)
}

func (c counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func TestALargeResponseToAClientThatReadsNothingEndsWithItsRunner(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pieces atomic.Int32
	sent := make(chan error, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r := held(t, ctx, counting{w, &pieces}, req, maxHeld)
		defer r.end()
		err := r.send()
		sent <- err
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if err := c.(*net.TCPConn).SetWriteBuffer(4 << 10); err != nil {
			t.Error(err)
		}
		return ctx
	}
	s.Start()
	defer s.Close() // waits for the handler
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// Until the connection takes no more: nothing is begun for a while.
	waitFor(t, func() bool { return pieces.Load() > 0 })
	for before := int32(0); before != pieces.Load(); <-time.After(50 * time.Millisecond) {
		before = pieces.Load()
	}
	if n := pieces.Load(); n == maxHeld/maxPiece {
		t.Error("the connection took all of it")
	}
	cancel()
	waitFor(t, func() bool { return len(sent) == 1 })
	if err := <-sent; !errors.Is(err, errClient) {
		t.Errorf("send = %v", err)
	}
}

func TestAClientIsGivenUpWhenItTakesNothingAndNotWhenItIsSlow(t *testing.T) {
	for name, c := range map[string]struct {
		pause time.Duration // of the client before each piece
		whole bool
	}{"slow": {patience - time.Second, true}, "stalled": {patience + time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			w, client := newUnread(t)
			r := held(t, t.Context(), w, httptest.NewRequest(http.MethodGet, "/", nil), 10*maxPiece)
			got := 0
			go func() {
				for {
					time.Sleep(c.pause) //nolint:forbidigo // synctest's clock
					n, err := io.ReadFull(client, make([]byte, maxPiece))
					if got += n; err != nil {
						return
					}
				}
			}()
			began := time.Now()
			err := r.send()
			took := time.Since(began)
			r.end()
			_ = w.conn.Close()
			time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
			synctest.Wait()
			if c.whole && (err != nil || got != 10*maxPiece || took < 9*patience) {
				t.Errorf("%s: %v, %d bytes in %s, want all of it", name, err, got, took)
			}
			if !c.whole && (!errors.Is(err, errClient) || took != patience) {
				t.Errorf("%s: %v after %s, want given up after %s", name, err, took, patience)
			}
		})
	}
}
