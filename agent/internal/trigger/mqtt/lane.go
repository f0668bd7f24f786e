package mqtt

import (
	"context"
	"errors"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// lane keeps the order of one topic of one binding.
//
// A job starts when the one before it has a place in the order of commits, which is before that is durable: so the events of a
// topic share writes, as those of many do. When the one before comes to nothing, so do those that follow it, and they start
// again. Jobs end in the order of the lane, and are acknowledged in it.
type lane struct {
	binding *binding
	topic   string
	jobs    []*job
	ending  bool // endFirst is at work
}

// outcome of an attempt.
type outcome struct {
	err  error
	gone bool // it was none: the binding was gone
}

var errEarly = errors.New("the message before this one has not taken effect")

// advance starts what can start. The caller holds mu.
func (d *dispatcher) advance(l *lane) {
	var before *job
	for _, j := range l.jobs {
		if before != nil && before.place == nil {
			return
		}
		if !j.started {
			j.started, j.before = true, before
			d.makeReady(j)
		}
		before = j
	}
}

// endsOf j is what its effects are committed with.
func (d *dispatcher) endsOf(ctx context.Context, j *job) (trigger.Ends, error) {
	d.mu.Lock()
	ends := trigger.Ends{Placed: func(p trigger.Place) { d.placed(j, p) }}
	if before := j.before; before != nil {
		if before.place == nil && !before.ended {
			d.mu.Unlock()
			return trigger.Ends{}, &trigger.Failure{Reason: trigger.Early, Err: errEarly}
		}
		ends.After = before.place
	}
	j.follows = ends.After
	in, accepted := j.inInbox, j.accepted
	j.committing = !in
	d.mu.Unlock()
	if j.id != "" {
		ends.Rows = append(ends.Rows, inbox.Once(j.event.Trigger, j.id, j.number))
	}
	if !in {
		ends.Rows, ends.Outbox = append(ends.Rows, j.ends.Rows...), j.ends.Outbox
		return ends, nil
	}
	if accepted != nil { // it must be in before it can leave
		if err := accepted.Wait(ctx); err != nil {
			return trigger.Ends{}, err
		}
	}
	ends.Rows = append(ends.Rows, j.entry().Leave())
	return ends, nil
}

// placed is told where the effects of j are in the order of commits, and with nil that they are not in it any more.
func (d *dispatcher) placed(j *job, p trigger.Place) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == nil {
		d.displace(j)
		return
	}
	if before := j.before; before != nil && !before.ended && before.place != j.follows {
		return // it will come to nothing, with what it follows
	}
	j.place = p
	d.advance(j.lane)
	if !j.handled { // others may be handled while this one's effects are written
		j.handled = true
		j.lane.binding.handling--
		d.staff(j.lane.binding)
	}
}

// displace j, and all behind it. What has failed there may have seen effects that never were, and starts again. The caller holds mu.
func (d *dispatcher) displace(j *job) {
	j.place = nil
	behind := false
	for _, k := range j.lane.jobs {
		if behind {
			k.place = nil
			if k.outcome != nil && k.outcome.err != nil {
				k.started, k.outcome = false, nil
			}
		}
		behind = behind || k == j
	}
}

// attempted takes the outcome of a started job, and ends what can end. The caller holds mu, which may be let go meanwhile.
func (d *dispatcher) attempted(j *job, o outcome) {
	if o.err != nil || o.gone {
		j.committing = false
		d.displace(j)
	}
	if trigger.ReasonOf(o.err) == trigger.Early {
		j.started = false
		d.advance(j.lane)
		return
	}
	j.outcome = &o
	d.endFirst(j.lane)
}

// endFirst ends the jobs at the head of l that have an outcome, or has the first one tried again. The caller holds mu, which may be let go meanwhile.
func (d *dispatcher) endFirst(l *lane) {
	if l.ending {
		return // it goes on with what is at the head then
	}
	l.ending = true
	b := l.binding
	for len(l.jobs) > 0 && l.jobs[0].outcome != nil {
		j := l.jobs[0]
		if again := d.after(b, j, j.outcome.err, j.outcome.gone); again > 0 {
			j.outcome, j.before = nil, nil
			// The lane waits, workers go on with others.
			time.AfterFunc(again, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.makeReady(j)
			})
			break
		}
		if d.ctx.Err() == nil {
			if done := j.acknowledge(); done != nil {
				d.mu.Unlock()
				done()
				d.mu.Lock()
			}
		}
		d.leave(b, j)
		j.ended, j.before = true, nil
		l.jobs[0] = nil
		l.jobs = l.jobs[1:]
	}
	l.ending = false
	if len(l.jobs) == 0 {
		delete(b.lanes, l.topic)
		return
	}
	d.advance(l)
}
