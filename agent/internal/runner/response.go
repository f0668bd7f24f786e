package runner

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dunlin.dev/dunlin/agent/internal/alarm"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

const (
	maxHeld     = 1 << 20               // of a response that waits for the commit of its event's effects
	maxSmall    = 32 << 10              // of one that waits for nothing
	streamDelay = 10 * time.Millisecond // after which a response that waits for nothing is begun
	patience    = 30 * time.Second      // with a client that takes nothing of a response
	maxPiece    = 32 << 10              // bytes that it must take meanwhile
)

var (
	errClient = errors.New("write to the client")
	past      = time.Unix(1, 0)
)

// response holds a guest's response until the effects that it may tell about are durable.
//
// While the event has written nothing, there is nothing to wait for: the response is begun when it grows over maxSmall or is
// older than streamDelay, and streamed from then on; small quick ones go out in one piece at the end. From the event's first
// write on, what is not out yet is held, up to maxHeld, until the commit. The end of every response is held: a client that
// has got a whole response knows that the event's effects are durable. A response that was begun can't be taken back: when
// its event fails or conflicts, it is cut off.
type response struct {
	w       http.ResponseWriter
	control *http.ResponseController
	limit   int64 // of the body
	head    bool  // the request is a HEAD
	body    *replay
	ctx     context.Context // of the runner: ends every write
	clock   *alarm.Clock

	streaming atomic.Bool // the response is begun
	blocked   atomic.Bool // the event is over: the connection's deadlines may be in the past
	unwatch   func()      // ctx is over for the response

	mu      sync.Mutex
	status  int // 0 before Start
	header  http.Header
	trailer http.Header
	held    []byte
	sent    int64
	writes  bool // the event has effects that are not durable
	over    bool // nothing more is streamed
	err     error
	timer   *alarm.Alarm
}

func newResponse(ctx context.Context, clock *alarm.Clock, h *trigger.HTTP, body *replay, limit int64) *response {
	r := &response{
		w: h.Response, control: http.NewResponseController(h.Response), limit: limit, head: h.Request.Method == http.MethodHead, body: body, ctx: ctx, clock: clock,
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = r.control.SetWriteDeadline(past) // a writer without deadlines does not block
	})
	r.unwatch = func() {
		if !stop() {
			<-done
		}
	}
	return r
}

// begin a run of the event.
func (r *response) begin(tx *effects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = false
	tx.watch = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.writes = true
	}
}

// discard what a run made; false if some of it is out.
func (r *response) discard() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
	if r.streaming.Load() {
		return false
	}
	r.status, r.header, r.trailer, r.held, r.sent, r.writes, r.err = 0, nil, nil, nil, 0, false, nil
	return true
}

// Start takes the status and the header.
func (r *response) Start(status int, header http.Header) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if status < 200 || status > 999 {
		return fmt.Errorf("response status %d: want 200 to 999", status)
	}
	r.status, r.header = status, header
	r.timer = r.clock.After(streamDelay, r.stream)
	return nil
}

// stream begins the response if nothing is in the way.
func (r *response) stream() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over && !r.writes && r.err == nil {
		r.err = r.flush()
	}
}

// Informational sends a 1xx response, at once: it can't wait for effects, so an event that has some has none any more.
func (r *response) Informational(status int, header http.Header) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.writes:
		return errors.New("send informational response: the event has effects that are not durable yet; send it before them")
	case r.status != 0:
		return errors.New("send informational response: the response is set already")
	}
	if err := r.wait(); err != nil {
		return err
	}
	h := r.w.Header()
	for k, v := range header {
		if !hopByHop[k] {
			h[k] = v
		}
	}
	r.w.WriteHeader(status)
	for k := range header {
		delete(h, k)
	}
	return nil
}

// Write takes a part of the body.
func (r *response) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	if r.sent += int64(len(p)); r.sent > r.limit && r.limit > 0 {
		r.err = fmt.Errorf("response body: %w", errPayload)
		return 0, r.err
	}
	r.held = append(r.held, p...)
	switch {
	case !r.writes && (r.streaming.Load() || len(r.held) > maxSmall):
		r.err = r.flush()
	case len(r.held) > maxHeld:
		r.err = fmt.Errorf("response body: %w: over %s while the event's effects are not durable; write them after it, or answer less", errPayload, host.SizeText(maxHeld))
	}
	if r.err != nil {
		return 0, r.err
	}
	return len(p), nil
}

// Finish takes the end of the response.
func (r *response) Finish(trailer http.Header) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trailer = trailer
	r.stop()
	return r.err
}

// stop the streaming of what is not out yet. The caller holds mu.
func (r *response) stop() {
	r.over = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// flush sends the header, if it has not been sent, and what is held. The caller holds mu.
func (r *response) flush() error {
	if err := r.write(); err != nil {
		return err
	}
	if err := r.control.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return nil
}

func (r *response) write() error {
	if !r.streaming.Swap(true) {
		h := r.w.Header()
		for k, v := range r.header {
			if !hopByHop[http.CanonicalHeaderKey(k)] {
				h[http.CanonicalHeaderKey(k)] = v
			}
		}
		r.w.WriteHeader(r.status)
	}
	b := r.held
	r.held = nil
	for piece := range slices.Chunk(b, maxPiece) {
		if err := r.wait(); err != nil {
			return err
		}
		if _, err := r.w.Write(piece); errors.Is(err, http.ErrBodyNotAllowed) {
			break
		} else if err != nil {
			return fmt.Errorf("%w: %w", errClient, err)
		}
	}
	return nil
}

// wait for the client anew.
func (r *response) wait() error {
	_ = r.control.SetWriteDeadline(time.Now().Add(patience)) // a writer without deadlines does not block
	// Whoever ends the write sets this first and the deadline then: it is either seen here, or sets its own after ours.
	switch {
	case r.ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errClient, context.Cause(r.ctx))
	case r.blocked.Load():
		return fmt.Errorf("%w: the event is over", errClient)
	}
	return nil
}

// hopByHop headers are the connection's, not the guest's.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// send what is left of the response, after the commit.
func (r *response) send() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
	if r.err != nil {
		return r.err
	}
	r.unblock()
	if !r.streaming.Load() && !r.head && len(r.trailer) == 0 && r.header.Get("Content-Length") == "" && r.status != http.StatusNoContent && r.status != http.StatusNotModified {
		r.w.Header().Set("Content-Length", strconv.Itoa(len(r.held)))
	}
	// Before the header: net/http then knows that the body can't have a length.
	for k, v := range r.trailer {
		r.w.Header()[http.TrailerPrefix+http.CanonicalHeaderKey(k)] = v
	}
	return r.write()
}

// end the event: what may still come from its timer is too late. What net/http writes of the response after this, or of an
// answer in its stead, has its time too; net/http removes the deadline from the connection then.
func (r *response) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
	r.unwatch()
	r.unblock()
	_ = r.control.SetWriteDeadline(time.Now().Add(patience)) // a writer without deadlines does not block
}

// unblock the connection for an answer after the event's end.
func (r *response) unblock() {
	if r.blocked.Swap(false) {
		// net/http takes a Read that timed out for the end of the connection, and cancels all that comes on it.
		r.w.Header().Set("Connection", "close")
		_ = r.control.SetReadDeadline(time.Time{}) // best effort: the answer fails else
	}
}

// SetReadDeadline ends a Read of the request that waits, for the host. A body that has been read needs none, and the
// connection would not survive it.
func (r *response) SetReadDeadline(t time.Time) error {
	if r.body.ended() {
		return nil
	}
	r.blocked.Store(true)
	return r.control.SetReadDeadline(t)
}

// SetWriteDeadline ends a Write of the response that waits, for the host. It takes no lock: that Write holds it.
func (r *response) SetWriteDeadline(t time.Time) error {
	if !r.streaming.Load() {
		return nil
	}
	r.blocked.Store(true)
	return r.control.SetWriteDeadline(t)
}
