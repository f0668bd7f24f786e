package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

const (
	maxRuns     = 20 // of one event that conflicts with others each time
	freeRuns    = 2  // before it waits for the others that conflict
	sharedRuns  = 5  // before no other event of the application commits while it runs
	inMemory    = 64 << 10
	waitPerTime = 10 // an event waits for its turn this many times its time limit at most
)

// failure without an event's id, which Handle adds.
func failure(r trigger.Reason, err error) *trigger.Failure {
	return &trigger.Failure{Reason: r, Err: err}
}

// TimeLimitError is the cause of the end of a handler that ran out of time.
type TimeLimitError struct{ Limit time.Duration }

func (e *TimeLimitError) Error() string { return fmt.Sprintf("time limit of %s", e.Limit) }

// CPULimitError is the cause of the end of a handler that used up its processor time.
type CPULimitError struct{ Limit time.Duration }

func (e *CPULimitError) Error() string { return fmt.Sprintf("cpu limit of %s", e.Limit) }

// run is what one event needs, over all the times that it is run.
type run struct {
	*Runner
	id    string
	event *trigger.Event
	log   *slog.Logger
	body  *replay   // of a request
	resp  *response // to it
	said  atomic.Pointer[string]
}

// Handle takes one event to its end: it is a trigger.Handler. Errors are a *trigger.Failure.
//
// An event runs on an instance of its own, in a transaction of its own. When the transaction conflicts with another event's,
// nothing has happened, and the event runs again on a fresh instance; not so a request whose response was begun or whose
// body is too large to be kept.
func (r *Runner) Handle(ctx context.Context, e *trigger.Event) error {
	began := time.Now()
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	x := &run{Runner: r, id: r.nextID(), event: e}
	x.log = r.log.With("trigger", e.Trigger, "event", x.id)
	err := x.handle(ctx)
	r.sayDropped(false)
	r.stats.ended(err, time.Since(began))
	if err == nil {
		return nil
	}
	f := &trigger.Failure{}
	if !errors.As(err, &f) {
		f = failure(trigger.Refused, err)
	}
	f.Event = x.id
	x.report(f)
	return f
}

// report a failure once, with what only the runner knows: the guest's frames.
func (x *run) report(f *trigger.Failure) {
	level := slog.LevelError
	switch f.Reason {
	case trigger.Busy, trigger.Closed, trigger.Canceled, trigger.Repeated, trigger.Early:
		level = slog.LevelDebug // counted, and no fault of the component
	}
	attrs := []any{"reason", f.Reason, "error", f.Err}
	var trap *engine.Trap
	if errors.As(f.Err, &trap) && len(trap.Backtrace) > 0 && f.Reason != trigger.TooSlow && f.Reason != trigger.TooBusy {
		attrs = append(attrs, "backtrace", trap.Backtrace)
	}
	x.log.Log(context.Background(), level, "event failed", attrs...)
}

func (x *run) handle(ctx context.Context) error {
	if err := x.fits(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(x.ctx, func() { cancel(context.Cause(x.ctx)) })()
	if h := x.event.HTTP; h != nil {
		x.body = newReplay(h.Request)
		x.resp = newResponse(x.ctx, &x.clock, h, x.body, x.cfg.Limits.Payload)
		defer x.resp.end()
	}
	for n := 1; ; n++ {
		if n == freeRuns+1 {
			x.contested.Lock()
			defer x.contested.Unlock()
		}
		err := x.once(ctx, n)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		x.stats.conflicted()
		if n == maxRuns {
			return failure(trigger.Conflicted, fmt.Errorf("%w, each of %d times", store.ErrConflict, n))
		}
		if x.resp != nil && !(x.body.again() && x.resp.discard()) {
			return failure(trigger.Conflicted, fmt.Errorf("%w; it can't run again, since its response was begun or its body is over %d bytes", store.ErrConflict, inMemory))
		}
	}
}

// fits checks the event's size before anything is spent on it. A body of unknown length is checked as it is read.
func (x *run) fits() error {
	limit := x.cfg.Limits.Payload
	var err error
	switch e := x.event; {
	case e.MQTT != nil && int64(len(e.MQTT.Payload)) > limit:
		err = fmt.Errorf("message of %d bytes: payload limit of %s", len(e.MQTT.Payload), host.SizeText(limit))
	case e.HTTP != nil && e.HTTP.Request.ContentLength > limit:
		err = fmt.Errorf("request body of %d bytes: payload limit of %s: %w", e.HTTP.Request.ContentLength, host.SizeText(limit), &http.MaxBytesError{Limit: limit})
	}
	if err != nil {
		return failure(trigger.TooLarge, err)
	}
	return nil
}

// ready is what an event has when its turn has come.
type ready struct {
	component *engine.Component
	handlers  host.Handlers
	slots     int // of the engine
}

// turn waits until the event may run: for the component's own turn, then for room in the engine. Neither counts against the event's time.
func (x *run) turn(ctx context.Context, again bool) (at ready, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer x.clock.After(waitPerTime*x.cfg.Limits.Time, func() { cancel(errTurn) }).Stop()
	if err := x.acquire(ctx, again); err != nil {
		return at, err
	}
	defer func() {
		if err != nil {
			x.release()
		}
	}()
	if at.component, at.handlers, err = x.load(); err != nil {
		return at, failure(trigger.Unavailable, err)
	}
	if at.slots, err = x.share.Take(ctx, at.component); err != nil {
		return at, unserved(ctx)
	}
	return at, nil
}

// once runs the event on one fresh instance for the nth time, and commits its effects. An ErrConflict means that it may be run again.
func (x *run) once(ctx context.Context, n int) error {
	at, err := x.turn(ctx, n > 1)
	if err != nil {
		return err
	}
	commits := x.cfg.Commits
	commit := func(tx Tx) error {
		commits.RLock()
		defer commits.RUnlock()
		return tx.Commit(context.WithoutCancel(ctx))
	}
	if n > sharedRuns { // a page over many keys that others change all the time would never be done
		commits.Lock()
		defer commits.Unlock()
		commit = func(tx Tx) error { return tx.Commit(context.WithoutCancel(ctx)) }
	}
	tx := &effects{Tx: x.cfg.Begin(x.event), limit: x.cfg.Limits.Payload}
	err = x.call(ctx, tx, at)
	crash.At("handled")
	x.release() // the instance is gone: others run while this one commits
	if tx.conflict {
		return store.ErrConflict // whatever the guest made of it
	}
	if err != nil {
		return err
	}
	// The client may be gone or the agent about to stop: the event has been handled, and its effects are kept.
	placed, err := x.endIn(ctx, tx)
	if err != nil {
		return err
	}
	err = commit(tx)
	if err != nil && placed != nil {
		placed(nil)
	}
	if errors.Is(err, store.ErrEarly) {
		return failure(trigger.Early, err)
	}
	if errors.Is(err, store.ErrDone) {
		return failure(trigger.Repeated, err)
	}
	if errors.Is(err, store.ErrConflict) && !tx.Writes() && x.resp != nil && x.resp.streaming.Load() {
		err = nil // a page whose sending had begun shows what was there then; nothing hangs on it, and cutting it off helps nobody
	}
	if errors.Is(err, store.ErrConflict) {
		return store.ErrConflict
	}
	if err != nil {
		return failure(trigger.Unavailable, err)
	}
	if x.resp != nil {
		if err := x.resp.send(); err != nil {
			return failure(trigger.Canceled, fmt.Errorf("send response: %w", err))
		}
	}
	return nil
}

// endIn adds to the event's transaction what the board writes of its end. placed is told when its commit fails.
func (x *run) endIn(ctx context.Context, tx *effects) (placed func(trigger.Place), err error) {
	if x.event.Ends == nil {
		return nil, nil
	}
	ends, err := x.event.Ends(ctx)
	for i := 0; err == nil && i < len(ends.Rows); i++ {
		r := ends.Rows[i]
		err = tx.With(r.Key, r.Value, r.Once)
	}
	switch {
	case err == nil:
	case errors.Is(err, store.ErrDone):
		return nil, failure(trigger.Repeated, err)
	case trigger.ReasonOf(err) == trigger.Early:
		return nil, err
	default:
		return nil, failure(trigger.Unavailable, err)
	}
	if ends.Outbox != 0 {
		tx.Take(ends.Outbox)
	}
	if ends.After != nil || ends.Placed != nil {
		tx.Follow(ends.After, ends.Placed)
	}
	return ends.Placed, nil
}

// call the guest, from its instance to its end.
func (x *run) call(ctx context.Context, tx *effects, at ready) (err error) {
	limits, handlers := x.cfg.Limits, at.handlers
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer x.clock.After(limits.Time, func() { cancel(&TimeLimitError{limits.Time}) }).Stop()
	of := host.Limits{
		Engine: engine.Limits{Memory: limits.Memory, Share: x.share, Slots: at.slots},
		Body:   limits.Payload, Requests: limits.Requests,
	}
	if limits.CPU < limits.Time { // a guest is one thread: it uses up no more than passes
		of.Engine.CPU, of.Engine.OverCPU = limits.CPU, func() { cancel(&CPULimitError{limits.CPU}) }
	}
	env := &host.Env{Grants: x.cfg.Grants, Environ: x.cfg.Environ, Mounts: x.cfg.Mounts, KV: tx, Publisher: tx, Deferrer: tx, Log: x.guestLog, Now: x.cfg.Now}
	if x.cfg.Moment != nil {
		env.Moment = func() host.Moment {
			m := x.cfg.Moment()
			m.At = x.event.At
			return m
		}
	}
	if x.event.Kind == trigger.KindTimer {
		env.Args = []string{x.cfg.Name}
	}
	guest, err := x.cfg.Host.Instantiate(ctx, x.cfg.Engine, at.component, of, env)
	if err != nil {
		return x.sort(ctx, err, nil)
	}
	defer guest.Close()
	switch e := x.event; {
	case e.HTTP != nil && handlers.HTTP != nil:
		x.resp.begin(tx)
		r := e.HTTP.Request.WithContext(ctx)
		r.Body = x.body.reader(limits.Payload)
		err = guest.ServeHTTP(handlers.HTTP, x.resp, r)
	case e.MQTT != nil:
		err = guest.HandleMessage(handlers, host.Message{Topic: e.MQTT.Topic, Payload: e.MQTT.Payload})
	case e.Timer != nil:
		timer := strings.TrimPrefix(e.Trigger, x.cfg.Application+"/")
		err = guest.HandleTick(handlers, host.Tick{Timer: timer, Scheduled: e.Timer.Scheduled, Actual: e.Timer.Actual, Missed: e.Timer.Missed, ClockTrusted: e.Timer.ClockTrusted})
	default:
		err = fmt.Errorf("component %s exports nothing that handles %s events", x.cfg.Name, e.Kind)
	}
	return x.sort(ctx, err, guest.Over())
}

// sort an error of a guest by what caused it. over is a limit that the guest was told of before.
func (x *run) sort(ctx context.Context, err error, over *host.LimitError) error {
	if err == nil {
		return nil
	}
	var trap *engine.Trap
	var slow *TimeLimitError
	var busy *CPULimitError
	starved := false
	var large *http.MaxBytesError
	trapped := errors.As(err, &trap)
	if trapped && trap.Code == engine.TrapUnreachable {
		// So do guests abort, those that get no more memory too. What they said before is the best reason there is.
		words := x.lastWords()
		starved = outOfMemory.MatchString(words)
		if words != "" {
			err = fmt.Errorf("%w; its last words: %s", err, words)
		}
		err = fmt.Errorf("%w; its memory limit is %s", err, host.SizeText(int64(x.cfg.Limits.Memory)))
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return err
	case errors.As(err, &large), x.body != nil && x.body.tooLarge(&large), errors.Is(err, host.ErrBodyLimit), errors.Is(err, errPayload):
		if large != nil {
			err = large // what the guest made of it says less
		}
		return failure(trigger.TooLarge, fmt.Errorf("payload limit of %s: %w", host.SizeText(x.cfg.Limits.Payload), err))
	case ctx.Err() != nil && errors.As(context.Cause(ctx), &slow):
		return failure(trigger.TooSlow, slow)
	case ctx.Err() != nil && errors.As(context.Cause(ctx), &busy):
		return failure(trigger.TooBusy, busy)
	case ctx.Err() != nil:
		return failure(trigger.Canceled, context.Cause(ctx))
	case errors.Is(err, errClient):
		return failure(trigger.Canceled, err)
	case trapped && trap.Code == engine.TrapMemory && !strings.Contains(trap.Message, "out of bounds"):
		return failure(trigger.TooBig, fmt.Errorf("memory limit of %s: %w", host.SizeText(int64(x.cfg.Limits.Memory)), err))
	case over != nil:
		return failure(trigger.OverLimit(over.Key), fmt.Errorf("%w: %w", over, err))
	case starved:
		return failure(trigger.TooBig, err)
	case trapped:
		return failure(trigger.Trapped, err)
	}
	return failure(trigger.Refused, err)
}

// outOfMemory are the last words of guests that asked for memory and got none: Rust, Go, TinyGo and JS, C++, Python.
var outOfMemory = regexp.MustCompile(`(?i)memory allocation of \d+ bytes failed|out of memory|bad_alloc|^MemoryError`)

// lastWords is the guest's last line in the log.
func (x *run) lastWords() string {
	if s := x.said.Load(); s != nil {
		return strings.TrimSpace((*s)[:min(len(*s), 200)])
	}
	return ""
}

// effects of one run, until its commit.
type effects struct {
	Tx
	limit    int64
	conflict bool
	watch    func() // called before the first write
}

var errPayload = errors.New("value or message is too large")

// note what a guest could mistake for a fault: a conflict, or that it is over what one event may write.
func (t *effects) note(err error) error {
	t.conflict = t.conflict || errors.Is(err, store.ErrConflict)
	if errors.Is(err, store.ErrTxTooLarge) {
		return fmt.Errorf("%w: %w", &host.LimitError{Key: "event", Value: host.SizeText(store.MaxTx)}, err)
	}
	return err
}

func (t *effects) Get(bucket, key string) ([]byte, bool, error) {
	v, ok, err := t.Tx.Get(bucket, key)
	return v, ok, t.note(err)
}

func (t *effects) Keys(bucket, after string, limit int) ([]string, error) {
	k, err := t.Tx.Keys(bucket, after, limit)
	return k, t.note(err)
}

// writing tells the response, if there is one, that it has something to wait for.
func (t *effects) writing() {
	if t.watch != nil {
		t.watch()
		t.watch = nil
	}
}

func (t *effects) Set(bucket, key string, value []byte) error {
	t.writing()
	err := t.Tx.Set(bucket, key, value)
	var quota *store.QuotaError
	if errors.As(err, &quota) {
		return fmt.Errorf("%w: it has %s, and this value would be over it", &host.LimitError{Key: "key_value", Value: host.SizeText(quota.Limit)}, host.SizeText(quota.Used))
	}
	return t.note(err)
}

func (t *effects) Delete(bucket, key string) error {
	t.writing()
	return t.note(t.Tx.Delete(bucket, key))
}

func (t *effects) Publish(topic string, payload []byte, qos byte, retain bool) error {
	if int64(len(payload)) > t.limit {
		return fmt.Errorf("publish to %s: %w: %d bytes: payload limit of %s", topic, errPayload, len(payload), host.SizeText(t.limit))
	}
	t.writing()
	return t.note(t.Tx.Publish(topic, payload, qos, retain))
}

func (t *effects) Defer(origin string, request []byte) error {
	t.writing()
	return t.note(t.Tx.Defer(origin, request))
}
