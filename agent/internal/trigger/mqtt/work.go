package mqtt

import (
	"errors"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// work handles what is ready for b until nothing is.
func (d *dispatcher) work(b *binding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.stopped && len(b.ready) > 0 {
		j := b.ready[0]
		b.ready = b.ready[1:]
		j.handled = false
		handle, gone := b.Handle, b.gone
		d.mu.Unlock()
		var err error
		switch {
		case gone:
		case j.id != "" && d.box.Seen(b.ID, j.id):
			err = &trigger.Failure{Reason: trigger.Repeated, Err: store.ErrDone}
		default:
			err = trigger.Guarded(d.ctx, handle, j.event)
		}
		d.mu.Lock()
		handled := j.handled // another worker may take it next
		d.attempted(j, outcome{err, gone})
		if handled {
			if b.handling == d.limits.Workers {
				d.resign()
				return
			}
			b.handling++
		}
	}
	b.handling--
	d.resign()
}

// resign as a worker. The caller holds mu.
func (d *dispatcher) resign() {
	if d.workers--; d.stopped && d.workers == 0 {
		close(d.idle)
	}
}

// after does what j's outcome asks for, and says after which time it is to be tried again; 0: never. The caller holds mu, which
// may be let go meanwhile.
func (d *dispatcher) after(b *binding, j *job, err error, gone bool) time.Duration {
	reason := trigger.ReasonOf(err)
	switch {
	case gone || (b.gone && reason == trigger.Closed):
		d.counters.Dropped++
		return 0
	case err == nil:
		d.counters.Handled++
		if j.id != "" {
			d.box.Noted(b.ID)
		}
		if j.inInbox {
			d.box.Left(j.entry())
		}
		return 0
	case reason == trigger.Repeated:
		if j.inInbox && d.remove(j) != nil {
			return d.waitFor(j)
		}
		d.counters.Repeated++
		return 0
	case reason == trigger.Closed || reason == trigger.Busy:
		// It was not tried: an upgrade is under way, or too much waits.
		return d.delay(1)
	case reason == trigger.Unavailable && j.number != 0:
		// A full disk is not the message's fault: giving it up would lose it.
		return d.waitFor(j)
	}
	j.attempts++
	if j.number == 0 {
		d.counters.Failed++
		d.giveUp(b, j, err)
		return 0
	}
	if d.ctx.Err() != nil {
		return d.delay(j.attempts) // the agent stops: what is not acknowledged comes again
	}
	if j.attempts < maxAttempts && reason != trigger.TooLarge {
		d.counters.Retried++
		d.accept(j)
		return d.delay(j.attempts)
	}
	switch buried := d.bury(j, err); {
	case errors.Is(buried, store.ErrDone): // it had been given up already, and came again
		if j.inInbox && d.remove(j) != nil {
			return d.waitFor(j)
		}
		d.counters.Repeated++
		return 0
	case buried != nil:
		return d.waitFor(j)
	}
	d.counters.Failed++
	d.giveUp(b, j, err)
	return 0
}

// waitFor the board.
func (d *dispatcher) waitFor(j *job) time.Duration {
	j.waits++
	d.counters.Retried++
	return d.delay(j.waits)
}

// remove j from the inbox, if it is still there. The caller holds mu, which is let go meanwhile.
func (d *dispatcher) remove(j *job) error {
	d.mu.Unlock()
	defer d.mu.Lock()
	err := d.box.Remove(j.entry())
	if err != nil {
		d.log.Error("a repeated message can't be removed", "trigger", j.event.Trigger, "topic", j.event.MQTT.Topic, "cause", err)
	}
	return err
}

// bury j among the dead letters. The caller holds mu, which is let go meanwhile.
func (d *dispatcher) bury(j *job, cause error) error {
	dead := inbox.Dead{Event: j.entry(), Attempts: j.attempts, ID: j.id, Reason: trigger.ReasonOf(cause), Cause: cause.Error()}
	if f := (*trigger.Failure)(nil); errors.As(cause, &f) {
		dead.Cause = f.Err.Error()
	}
	in, accepted := j.inInbox, j.accepted
	j.committing = !in
	d.mu.Unlock()
	defer d.mu.Lock()
	ends := trigger.Ends{}
	if !in {
		ends = j.ends
	} else if accepted != nil {
		if err := accepted.Wait(d.ctx); err != nil {
			return err
		}
	}
	err := d.box.Bury(dead, in, ends)
	if err != nil && !errors.Is(err, store.ErrDone) {
		d.log.Error("a failed message can't be set aside, and is tried again", "trigger", j.event.Trigger, "topic", j.event.MQTT.Topic, "cause", err)
	}
	return err
}

// giveUp says that j will not be tried again. A Failure is in the log already, with its cause.
func (d *dispatcher) giveUp(b *binding, j *job, err error) {
	line := d.log.With("trigger", b.ID, "topic", j.event.MQTT.Topic, "attempts", j.attempts)
	if j.number != 0 {
		line = line.With("dead", inbox.Name(j.number))
	}
	if f := (*trigger.Failure)(nil); errors.As(err, &f) {
		line.Info("give up on message", "event", f.Event)
		return
	}
	line.Error("give up on message", "error", err)
}

// durable: the message need not be sent again.
func durable(err error) bool { return err == nil || errors.Is(err, store.ErrDone) }

// accept j into the inbox, which then acknowledges it. When that is full it stays as it is. The caller holds mu.
func (d *dispatcher) accept(j *job) {
	if j.inInbox {
		return
	}
	a, err := d.box.Accept([]inbox.Event{j.entry()}, j.ends, func(err error) {
		d.mu.Lock()
		done := j.done
		j.done = nil
		d.mu.Unlock()
		if durable(err) && done != nil {
			done()
		}
	})
	if err == nil {
		j.inInbox, j.accepted = true, a
	}
}

// lookLater for messages that wait unacknowledged. The caller holds mu.
func (d *dispatcher) lookLater() {
	if !d.looking {
		d.looking = true
		time.AfterFunc(acceptAfter, d.acceptOld)
	}
}

// acceptOld puts into the inbox what has waited for acceptAfter and is not about to commit: a slow handler, or one that
// waits for the board, holds up no publisher.
func (d *dispatcher) acceptOld() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looking = false
	if d.stopped {
		return
	}
	more := false
	old := time.Now().Add(-acceptAfter)
	for _, b := range d.bindings {
		for _, l := range b.lanes {
			for _, j := range l.jobs {
				if j.number == 0 || j.inInbox || j.done == nil {
					continue
				}
				if !j.committing && !j.event.At.After(old) {
					d.accept(j)
				}
				more = more || !j.inInbox
			}
		}
	}
	if more {
		d.lookLater()
	}
}

// load events of b from the inbox, when there are such behind those in memory, and room for them. The caller holds mu.
func (d *dispatcher) load(b *binding) {
	n := min(d.limits.QueueMessages-b.jobs, maxLoad)
	if !b.behind || b.loading || b.gone || d.stopped || n < min(d.limits.QueueMessages/2, maxLoad) && b.jobs > 0 || d.bytes > d.limits.QueueBytes/2 {
		return
	}
	n = max(n, 1)
	b.loading = true
	id, after, settled := b.ID, b.loaded, b.accepting == 0
	go func() {
		events, err := d.box.Waiting(id, after, n)
		d.mu.Lock()
		defer d.mu.Unlock()
		b.loading = false
		if err != nil {
			d.log.Error("events that wait can't be read", "trigger", id, "cause", err)
			time.AfterFunc(d.delay(maxAttempts), func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.load(b)
			})
			return
		}
		if b.gone || d.stopped {
			return
		}
		for _, e := range events {
			m := e.Message
			j := newJob(b, &m, e.At)
			j.event.MQTT.QoS = m.QoS
			j.number, j.inInbox = e.Number, true
			b.loaded = e.Number
			d.add(b, j)
		}
		if len(events) < n && settled && b.accepting == 0 {
			b.behind = false
		}
		if len(events) > 0 || b.accepting == 0 {
			d.load(b)
		}
	}()
}

// look again into the inbox for a trigger: something was put there.
func (d *dispatcher) look(trig string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.bindings[trig]; b != nil {
		b.behind = true
		d.load(b)
	}
}
