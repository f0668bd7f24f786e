package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// dispatcher hands messages to the handlers of the subscriptions that match. It has no goroutine while nothing happens.
type dispatcher struct {
	limits Limits
	log    *slog.Logger
	delay  func(n int) time.Duration // trigger.RetryDelay
	ctx    context.Context           // of handlers
	cancel context.CancelFunc

	mu       sync.Mutex
	bindings map[string]*binding // by Subscription.ID
	bytes    int                 // payloads of all jobs
	room     chan struct{}       // closed when a job ends; nil while nobody waits
	workers  int
	idle     chan struct{} // closed when stopped and no worker is left
	stopped  bool
	stopOnce func() error
	counters Counters
}

// binding is a subscription and what waits for it.
type binding struct {
	Subscription
	lanes   map[string]*lane // by topic
	ready   []*lane          // with a job that can be taken
	jobs    int
	workers int
	gone    bool // no longer subscribed
}

// lane keeps the order of one topic of one binding.
type lane struct {
	topic string
	jobs  []*job
}

// job is one event. done may be nil.
type job struct {
	event    *trigger.Event
	attempts int // that failed by the handler's own fault
	waits    int // attempts that failed by the board's
	done     func()
}

func newDispatcher(l Limits, log *slog.Logger) *dispatcher {
	d := &dispatcher{limits: l.complete(), log: log, delay: trigger.RetryDelay, bindings: map[string]*binding{}, idle: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.stopOnce = sync.OnceValue(d.drain)
	return d
}

// set replaces the subscriptions, and returns those that are new or have another filter.
func (d *dispatcher) set(subs []Subscription) (added []Subscription, err error) {
	byID := map[string]Subscription{}
	for _, s := range subs {
		if err := wire.CheckFilter(s.Filter); err != nil {
			return nil, fmt.Errorf("set subscriptions: %s: %w", s.ID, err)
		}
		if s.QoS > 2 {
			return nil, fmt.Errorf("set subscriptions: %s: qos %d: want 0, 1 or 2", s.ID, s.QoS)
		}
		if _, ok := byID[s.ID]; ok {
			return nil, fmt.Errorf("set subscriptions: two have the id %s", s.ID)
		}
		byID[s.ID] = s
	}
	var dropped []func()
	d.mu.Lock()
	for id, b := range d.bindings {
		if _, ok := byID[id]; !ok {
			dropped = append(dropped, d.forget(b)...)
			delete(d.bindings, id)
		}
	}
	for _, s := range subs {
		b := d.bindings[s.ID]
		if b == nil {
			b = &binding{lanes: map[string]*lane{}}
			d.bindings[s.ID] = b
		}
		if b.Filter != s.Filter {
			added = append(added, s)
		}
		b.Subscription = s
	}
	d.mu.Unlock()
	for _, done := range dropped {
		done()
	}
	return added, nil
}

// forget drops what waits for b, since nobody wants it any more. The caller holds mu, and calls what is returned after.
func (d *dispatcher) forget(b *binding) (dropped []func()) {
	b.gone = true
	for _, l := range b.lanes {
		// The first job is with a worker or will be, which ends it.
		for _, j := range l.jobs[1:] {
			d.leave(b, j)
			d.counters.Dropped++
			if j.done != nil {
				dropped = append(dropped, j.done)
			}
		}
		l.jobs = l.jobs[:1]
	}
	return dropped
}

// filters that cover all subscriptions, each with its highest QoS.
func (d *dispatcher) filters() map[string]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := map[string]byte{}
	for _, b := range d.bindings {
		f[b.Filter] = max(f[b.Filter], b.QoS)
	}
	return f
}

// wanted reports how many subscriptions match, and the highest QoS among them.
func (d *dispatcher) wanted(topic string) (n int, qos byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.bindings {
		if wire.MatchFilter(b.Filter, topic) {
			n++
			qos = max(qos, b.QoS)
		}
	}
	return n, qos
}

// offer queues m for every subscription that matches, or only for the one named by id where that is not empty. done is
// called once when all those with QoS 1 or 2 have handled it, maybe before offer returns. When one of those has no room,
// nothing is queued and full is closed when something may have changed; of QoS 0 the oldest message makes room.
func (d *dispatcher) offer(m *trigger.Message, id string, done func()) (full <-chan struct{}) {
	d.mu.Lock()
	var sure, unsure []*binding
	for _, b := range d.bindings {
		if (id != "" && b.ID != id) || !wire.MatchFilter(b.Filter, m.Topic) {
			continue
		}
		if min(m.QoS, b.QoS) == 0 {
			unsure = append(unsure, b)
			continue
		}
		if b.jobs >= d.limits.QueueMessages {
			full = d.wait()
		}
		sure = append(sure, b)
	}
	// A message alone may be larger than what all may hold together.
	if len(sure) > 0 && d.bytes > 0 && d.bytes+len(sure)*len(m.Payload) > d.limits.QueueBytes {
		full = d.wait()
	}
	if full != nil || d.stopped {
		defer d.mu.Unlock()
		return d.wait()
	}
	finish := done
	if n := len(sure); n > 1 && done != nil {
		finish = countdown(n, done)
	}
	now := time.Now()
	for _, b := range sure {
		d.add(b, m, now, finish)
	}
	for _, b := range unsure {
		if d.makeRoom(b, len(m.Payload)) {
			d.add(b, m, now, nil)
		} else {
			d.counters.Dropped++
		}
	}
	d.mu.Unlock()
	if len(sure) == 0 && done != nil {
		done()
	}
	return nil
}

func countdown(n int, done func()) func() {
	var mu sync.Mutex
	return func() {
		mu.Lock()
		n--
		last := n == 0
		mu.Unlock()
		if last {
			done()
		}
	}
}

// wait gives a channel that is closed when a job ends. The caller holds mu.
func (d *dispatcher) wait() <-chan struct{} {
	if d.room == nil {
		d.room = make(chan struct{})
	}
	return d.room
}

// makeRoom drops the oldest QoS 0 messages of b until n bytes fit. The caller holds mu.
func (d *dispatcher) makeRoom(b *binding, n int) bool {
	for b.jobs >= d.limits.QueueMessages || (d.bytes > 0 && d.bytes+n > d.limits.QueueBytes) {
		var oldest *lane
		at := 0
		for _, l := range b.lanes {
			// The first of a lane may be with a worker.
			i := slices.IndexFunc(l.jobs[1:], func(j *job) bool { return j.event.MQTT.QoS == 0 })
			if i >= 0 && (oldest == nil || l.jobs[i+1].event.At.Before(oldest.jobs[at].event.At)) {
				oldest, at = l, i+1
			}
		}
		if oldest == nil {
			return false
		}
		d.leave(b, oldest.jobs[at])
		oldest.jobs = slices.Delete(oldest.jobs, at, at+1)
		d.counters.Dropped++
	}
	return true
}

// add queues m for b. The caller holds mu.
func (d *dispatcher) add(b *binding, m *trigger.Message, at time.Time, done func()) {
	mine := *m
	mine.QoS = min(m.QoS, b.QoS)
	j := &job{done: done, event: &trigger.Event{Kind: trigger.KindMQTT, Trigger: b.ID, At: at, MQTT: &mine}}
	b.jobs++
	d.bytes += len(m.Payload)
	l := b.lanes[m.Topic]
	if l == nil {
		l = &lane{topic: m.Topic}
		b.lanes[m.Topic] = l
	}
	l.jobs = append(l.jobs, j)
	if len(l.jobs) == 1 {
		d.makeReady(b, l)
	}
}

// leave takes j out of the sums. The caller holds mu.
func (d *dispatcher) leave(b *binding, j *job) {
	b.jobs--
	d.bytes -= len(j.event.MQTT.Payload)
	if d.room != nil {
		close(d.room)
		d.room = nil
	}
}

// makeReady lets a worker take l's first job. The caller holds mu.
func (d *dispatcher) makeReady(b *binding, l *lane) {
	b.ready = append(b.ready, l)
	if !d.stopped && b.workers < d.limits.Workers {
		b.workers++
		d.workers++
		go d.work(b)
	}
}

// work handles what is ready for b until nothing is.
func (d *dispatcher) work(b *binding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.stopped && len(b.ready) > 0 {
		l := b.ready[0]
		b.ready = b.ready[1:]
		j := l.jobs[0]
		handle, gone := b.Handle, b.gone
		d.mu.Unlock()
		var err error
		if !gone {
			err = trigger.Guarded(d.ctx, handle, j.event)
		}
		if again := d.after(b, j, err, gone); again > 0 {
			// The lane waits, the worker goes on with others.
			time.AfterFunc(again, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.makeReady(b, l)
			})
			d.mu.Lock()
			continue
		}
		if j.done != nil && d.ctx.Err() == nil {
			j.done()
		}
		d.mu.Lock()
		d.leave(b, j)
		l.jobs = l.jobs[1:]
		if len(l.jobs) == 0 {
			delete(b.lanes, l.topic)
		} else {
			b.ready = append(b.ready, l)
		}
	}
	b.workers--
	if d.workers--; d.stopped && d.workers == 0 {
		close(d.idle)
	}
}

// after counts the outcome of j, and says after which time it is to be tried again; 0: never.
func (d *dispatcher) after(b *binding, j *job, err error, gone bool) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch reason := trigger.ReasonOf(err); {
	case gone || (b.gone && reason == trigger.Closed):
		d.counters.Dropped++
		return 0
	case err == nil:
		d.counters.Handled++
		return 0
	case reason == trigger.Closed || reason == trigger.Busy:
		// It was not tried: an upgrade is under way, or too much waits.
		return d.delay(1)
	case reason == trigger.Unavailable && j.event.MQTT.QoS > 0:
		// A full disk is not the message's fault: acknowledging it would lose it. The queue's bound holds its publisher back.
		j.waits++
		d.counters.Retried++
		return d.delay(j.waits)
	default:
		j.attempts++
		if j.event.MQTT.QoS > 0 && j.attempts < maxAttempts && reason != trigger.TooLarge && d.ctx.Err() == nil {
			d.counters.Retried++
			return d.delay(j.attempts)
		}
	}
	d.counters.Failed++
	d.giveUp(b, j, err)
	return 0
}

// giveUp says that j will not be tried again. A Failure is in the log already, with its cause.
func (d *dispatcher) giveUp(b *binding, j *job, err error) {
	line := d.log.With("trigger", b.ID, "topic", j.event.MQTT.Topic, "attempts", j.attempts)
	if f := (*trigger.Failure)(nil); errors.As(err, &f) {
		line.Info("give up on message", "event", f.Event)
		return
	}
	line.Error("give up on message", "error", err)
}

// stop takes no more, waits for the events that are being handled, and cancels them when the drain time is over. What
// waits stays without acknowledgement, and its publisher or broker sends it again. Later calls give the first one's result.
func (d *dispatcher) stop() error { return d.stopOnce() }

func (d *dispatcher) drain() error {
	d.mu.Lock()
	d.stopped = true
	if d.workers == 0 {
		close(d.idle)
	}
	d.mu.Unlock()
	defer d.cancel()
	select {
	case <-d.idle:
		return nil
	case <-time.After(d.limits.Drain):
		return fmt.Errorf("stop mqtt: events were still in flight after %s", d.limits.Drain)
	}
}

func (d *dispatcher) count() Counters {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counters
}
