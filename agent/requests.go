package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/link"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// What fleet.requests of the config allows, beside off.
const (
	requestsAll  = "all"
	requestsRead = "read" // what changes nothing
)

// Bounds of what is kept for requests.
const (
	maxRequests = 16 // that wait; what comes beyond is dropped, and the server hears nothing
	maxAnswers  = 64 // that are repeated to whoever repeats the request
)

// requests are what the fleet asks of this board, one after the other. One goroutine runs it.
type requests struct {
	agent *Agent
	log   *slog.Logger
	queue chan link.Request
	done  []answered // newest last
	quiet time.Time  // until then, what is wrong is said at debug level: whoever sends it could fill the log
}

// answered is a request that was carried out.
type answered struct {
	session string
	done    wire.Done
}

func newRequests(a *Agent) *requests {
	return &requests{agent: a, log: a.log.With("source", "fleet"), queue: make(chan link.Request, maxRequests)}
}

// offer leaves a request to be carried out. It never blocks.
func (r *requests) offer(req link.Request) {
	select {
	case r.queue <- req:
	default:
		r.log.Debug("a request of the fleet is dropped: too many wait")
	}
}

func (r *requests) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case req := <-r.queue:
			do, err := r.judge(req)
			if err != nil {
				r.log.Log(ctx, r.wrong(), "a request of the fleet is not taken", "cause", err)
				continue
			}
			if err := req.Answer(ctx, r.carryOut(ctx, do)); err != nil && ctx.Err() == nil {
				r.log.Warn("an answer to the fleet could not be sent", "operation", do.Operation, "cause", err)
			}
		}
	}
}

// wrong is at which level something wrong is said: it warns once in ten seconds.
func (r *requests) wrong() slog.Level {
	if now := time.Now(); now.After(r.quiet) {
		r.quiet = now.Add(10 * time.Second)
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// judge says whether a request is the fleet's, for this board, and of now.
func (r *requests) judge(req link.Request) (wire.Do, error) {
	payload, err := trust.VerifyDo(r.agent.manager.trusted(), req.Envelope)
	if err != nil {
		return wire.Do{}, err
	}
	do, err := wire.UnmarshalDo(payload)
	if err != nil {
		return do, err
	}
	f := r.agent.cfg.Fleet
	now, clock := r.agent.time()
	switch {
	case do.Fleet != f.Name || do.Device != f.Device:
		return do, fmt.Errorf("request %s is for %s of fleet %s", do.ID, do.Device, do.Fleet)
	case do.Session != req.Session:
		return do, fmt.Errorf("request %s is of another session, %s", do.ID, do.Session)
	case clock == wire.ClockSynced && now.After(do.Deadline): // a clock that nobody set says nothing about deadlines; the session bounds it too
		return do, fmt.Errorf("request %s came after its deadline %s", do.ID, do.Deadline.Format(time.RFC3339))
	}
	return do, nil
}

// carryOut does what is asked for, once: a repeat has the same answer. After a restart the session is another.
func (r *requests) carryOut(ctx context.Context, do wire.Do) wire.Done {
	for _, a := range r.done {
		if a.session == do.Session && a.done.ID == do.ID {
			return a.done
		}
	}
	done := wire.Done{ID: do.ID}
	result, err := r.agent.perform(do)
	done.Result = result
	event := do.Arguments["event"]
	if err != nil {
		done.Code, done.Error, done.Result = codeOf(err), wire.Clip(err.Error()), nil
		r.log.Log(ctx, r.wrong(), "a request of the fleet failed", "operation", do.Operation, "event", event, "id", do.ID, "cause", err)
	}
	if reads(do.Operation) { // again is no harm, and its answer is large
		return done
	}
	if err == nil {
		r.log.Info("a request of the fleet is done", "operation", do.Operation, "event", event, "id", do.ID)
		r.agent.report() // with the number of dead letters
	}
	r.done = append(r.done, answered{do.Session, done})
	if n := len(r.done) - maxAnswers; n > 0 {
		r.done = slices.Delete(r.done, 0, n)
	}
	return done
}

var (
	errForbidden = errors.New("the board's config forbids it")
	errUnknownOp = errors.New("this agent knows no such operation")
)

func codeOf(err error) wire.ErrorCode {
	switch {
	case errors.Is(err, inbox.ErrUnknown):
		return wire.CodeNotFound
	case errors.Is(err, inbox.ErrFull):
		return wire.CodeBusy
	case errors.Is(err, errForbidden), errors.Is(err, errNoTrigger):
		return wire.CodeRefused
	case errors.Is(err, errUnknownOp), errors.Is(err, errArgument):
		return wire.CodeBadRequest
	}
	return wire.CodeInternal
}

var errArgument = errors.New("bad argument")

func reads(o wire.Operation) bool { return o == wire.EventsList || o == wire.EventsShow }

// perform one operation; the result is of its shape in package wire.
func (a *Agent) perform(do wire.Do) ([]byte, error) {
	if !slices.Contains(wire.Operations(), do.Operation) {
		return nil, fmt.Errorf("%s: %w", do.Operation, errUnknownOp)
	}
	if may := a.cfg.Fleet.Requests; may == off || may == requestsRead && !reads(do.Operation) {
		return nil, fmt.Errorf("%s: %w (fleet.requests is %q)", do.Operation, errForbidden, may)
	}
	if do.Operation == wire.EventsList {
		return a.eventsPage(do.Arguments["after"])
	}
	d, err := a.inbox.Find(do.Arguments["event"])
	if err != nil {
		return nil, err
	}
	var named wire.Renamed
	switch do.Operation {
	case wire.EventsShow:
		e := deadEvent(d).Brief()
		e.Show(d.Message.Payload)
		return wire.MarshalDeadEvent(e)
	case wire.EventsRetry:
		named, err = a.retryDead(d)
	case wire.EventsDrop:
		named, err = a.dropDead(d)
	}
	if err != nil {
		return nil, err
	}
	return wire.MarshalRenamed(named)
}

// eventsPage is as many dead letters after one as an answer holds.
func (a *Agent) eventsPage(after string) ([]byte, error) {
	var from uint64
	if after != "" {
		n, err := wire.ParseEvent(after)
		if err != nil {
			return nil, fmt.Errorf("%w: after: %w", errArgument, err)
		}
		from = n
	}
	page, err := a.events(from, wire.MaxEventsPage)
	if err != nil {
		return nil, err
	}
	for i, e := range page.Dead {
		page.Dead[i] = e.Brief()
	}
	for {
		b, err := wire.MarshalEvents(page)
		if err == nil || len(page.Dead) < 2 {
			return b, err
		}
		page.Dead, page.More = page.Dead[:len(page.Dead)/2], true
	}
}
