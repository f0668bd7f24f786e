package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// dispatcher hands messages to the handlers of the subscriptions that match. It has no goroutine while nothing happens.
type dispatcher struct {
	limits Limits
	box    *inbox.Box
	log    *slog.Logger
	delay  func(n int) time.Duration // trigger.RetryDelay
	ctx    context.Context           // of handlers
	cancel context.CancelFunc

	mu       sync.Mutex
	bindings map[string]*binding // by Subscription.ID
	bytes    int                 // payloads of all jobs
	room     chan struct{}       // closed when a job ends; nil while nobody waits
	looking  bool                // acceptOld runs or will
	serial   uint64              // of lanes of unordered bindings
	workers  int
	idle     chan struct{} // closed when stopped and no worker is left
	stopped  bool
	stopOnce func() error
	counters Counters
}

// binding is a subscription and what waits for it.
type binding struct {
	Subscription
	lanes    map[string]*lane // by topic
	ready    []*job           // that can be taken
	jobs     int
	handling int  // workers whose job has no place yet
	gone     bool // no longer subscribed

	// What of the inbox is not in memory, because there was no room. While there may be such events, new ones go behind them.
	behind    bool
	loading   bool
	loaded    uint64 // all events up to this number are in memory, or have ended
	accepting int    // that are on their way to be behind
}

// job is one event.
type job struct {
	event    *trigger.Event
	lane     *lane
	number   uint64       // 0: QoS 0
	id       string       // by which its sender tells it from others; "": it doesn't
	attempts int          // that failed by the handler's own fault
	waits    int          // attempts that failed by the board's
	ends     trigger.Ends // of its first durable commit
	done     func()       // acknowledges it; nil: it is, or nobody waits

	inInbox    bool              // or on its way there
	accepted   *inbox.Acceptance // that way; nil: it was read from there
	committing bool              // its effects are about to be committed, or are, without the inbox

	handled bool          // it has been placed, and its worker counts no longer as handling
	started bool          // it is ready or with a worker, or has an outcome, or waits to be tried again
	before  *job          // that it follows; nil: it was the first of its lane when it started
	follows trigger.Place // what its effects are committed after
	place   trigger.Place // of its effects, while they are being committed and after; nil: none yet
	outcome *outcome      // of its last attempt, until that is dealt with
	ended   bool          // it has left its lane
}

// entry is the job's event as the inbox knows it.
func (j *job) entry() inbox.Event {
	return inbox.Event{Number: j.number, Trigger: j.event.Trigger, At: j.event.At, Message: *j.event.MQTT}
}

func newDispatcher(l Limits, box *inbox.Box, log *slog.Logger) *dispatcher {
	d := &dispatcher{limits: l.Complete(), box: box, log: log, delay: trigger.RetryDelay, bindings: map[string]*binding{}, idle: make(chan struct{})}
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
		if b == nil || b.Filter != s.Filter {
			added = append(added, s)
		}
		if b == nil {
			b = &binding{lanes: map[string]*lane{}, behind: d.box.Waits(s.ID)}
			d.bindings[s.ID] = b
		}
		b.Subscription = s
		d.load(b)
	}
	d.mu.Unlock()
	for _, done := range dropped {
		done()
	}
	return added, nil
}

// forget drops what waits for b, since nobody wants it any more; what is in the inbox stays there, for a trigger of the same
// name. The caller holds mu, and calls what is returned after.
func (d *dispatcher) forget(b *binding) (dropped []func()) {
	b.gone = true
	for _, l := range b.lanes {
		l.jobs = slices.DeleteFunc(l.jobs, func(j *job) bool {
			if j.started { // a worker will end it
				return false
			}
			d.leave(b, j)
			d.counters.Dropped++
			if done := j.acknowledge(); done != nil {
				dropped = append(dropped, done)
			}
			return true
		})
	}
	return dropped
}

// acknowledge gives what is to be called for it, once: nil where that was before, or where the inbox does it.
func (j *job) acknowledge() (done func()) {
	if !j.inInbox {
		done, j.done = j.done, nil
	}
	return done
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

// offered is a message on its way to its handlers.
type offered struct {
	message *trigger.Message
	only    string       // the subscription that it is for; "": all that match
	ends    trigger.Ends // what the first durable commit of it writes
	done    func()       // acknowledges it: called once when it is durable for all with QoS 1 or 2, maybe before offer returns
}

// offer queues a message for every subscription that matches. For one of QoS 1 or 2 it is acknowledged with its effects, where
// these come soon; for several, or where there is no room in memory, it goes through the inbox. When that is full, nothing is
// queued and full is closed when something may have changed; of QoS 0 the oldest message makes room.
func (d *dispatcher) offer(o offered) (full <-chan struct{}) {
	m := o.message
	d.mu.Lock()
	if d.stopped {
		defer d.mu.Unlock()
		return d.wait()
	}
	var sure, unsure []*binding
	for _, b := range d.bindings {
		switch {
		case (o.only != "" && b.ID != o.only) || !wire.MatchFilter(b.Filter, m.Topic):
		case min(m.QoS, b.QoS) == 0:
			unsure = append(unsure, b)
		default:
			sure = append(sure, b)
		}
	}
	now := time.Now()
	if len(sure) > 0 && !d.offerSurely(o, sure, now) {
		defer d.mu.Unlock()
		return d.wait()
	}
	for _, b := range unsure {
		if d.makeRoom(b, len(m.Payload)) {
			d.add(b, newJob(b, m, now))
		} else {
			d.counters.Dropped++
		}
	}
	d.mu.Unlock()
	if len(sure) == 0 && o.done != nil {
		o.done()
	}
	return nil
}

// offerSurely is offer's part for subscriptions with QoS 1 or 2. The caller holds mu.
func (d *dispatcher) offerSurely(o offered, sure []*binding, now time.Time) bool {
	jobs := make([]*job, len(sure))
	crowded := make([]bool, len(sure))
	through := len(sure) > 1
	for i, b := range sure {
		jobs[i] = newJob(b, o.message, now)
		jobs[i].number = d.box.Number()
		// A message alone may be larger than what all may hold together.
		crowded[i] = b.behind || b.jobs >= d.limits.QueueMessages || (d.bytes > 0 && d.bytes+len(sure)*len(o.message.Payload) > d.limits.QueueBytes)
		through = through || crowded[i]
	}
	if !through {
		jobs[0].ends, jobs[0].done = o.ends, o.done
		sure[0].loaded = jobs[0].number
		d.add(sure[0], jobs[0])
		d.lookLater()
		return true
	}
	var events []inbox.Event
	for _, j := range jobs {
		events = append(events, j.entry())
	}
	a, err := d.box.Accept(events, o.ends, func(err error) {
		d.mu.Lock()
		for i, b := range sure {
			if crowded[i] {
				b.accepting--
				d.load(b)
			}
		}
		d.mu.Unlock()
		if durable(err) && o.done != nil {
			o.done()
		}
	})
	if err != nil {
		return false
	}
	for i, b := range sure {
		if crowded[i] {
			b.behind = true
			b.accepting++
			continue
		}
		jobs[i].inInbox, jobs[i].accepted = true, a
		b.loaded = jobs[i].number
		d.add(b, jobs[i])
	}
	return true
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
		var oldest *job
		for _, l := range b.lanes {
			i := slices.IndexFunc(l.jobs, func(j *job) bool { return j.number == 0 && !j.started })
			if i >= 0 && (oldest == nil || l.jobs[i].event.At.Before(oldest.event.At)) {
				oldest = l.jobs[i]
			}
		}
		if oldest == nil {
			return false
		}
		d.leave(b, oldest)
		oldest.lane.jobs = slices.DeleteFunc(oldest.lane.jobs, func(j *job) bool { return j == oldest })
		d.counters.Dropped++
	}
	return true
}

func newJob(b *binding, m *trigger.Message, at time.Time) *job {
	mine := *m
	mine.QoS = min(m.QoS, b.QoS)
	return &job{event: &trigger.Event{Kind: trigger.KindMQTT, Trigger: b.ID, At: at, MQTT: &mine}}
}

// add queues j for b. The caller holds mu.
func (d *dispatcher) add(b *binding, j *job) {
	if j.number != 0 {
		j.id, _ = b.MessageID.Of(j.event.MQTT.Topic, j.event.MQTT.Payload)
	}
	j.event.Ends = func(ctx context.Context) (trigger.Ends, error) { return d.endsOf(ctx, j) }
	b.jobs++
	d.bytes += len(j.event.MQTT.Payload)
	topic := j.event.MQTT.Topic
	if b.Unordered { // a lane for each, under a name that no topic has
		d.serial++
		topic += "\x00" + strconv.FormatUint(d.serial, 10)
	}
	l := b.lanes[topic]
	if l == nil {
		l = &lane{binding: b, topic: topic}
		b.lanes[topic] = l
	}
	j.lane = l
	l.jobs = append(l.jobs, j)
	d.advance(l)
}

// leave takes j out of the sums. The caller holds mu.
func (d *dispatcher) leave(b *binding, j *job) {
	b.jobs--
	d.bytes -= len(j.event.MQTT.Payload)
	if d.room != nil {
		close(d.room)
		d.room = nil
	}
	d.load(b)
}

// makeReady lets a worker take j. The caller holds mu.
func (d *dispatcher) makeReady(j *job) {
	b := j.lane.binding
	b.ready = append(b.ready, j)
	d.staff(b)
}

// staff b with one more worker, if it may have one. The caller holds mu.
func (d *dispatcher) staff(b *binding) {
	if !d.stopped && len(b.ready) > 0 && b.handling < d.limits.Workers {
		b.handling++
		d.workers++
		go d.work(b)
	}
}

// stop takes no more, waits for the events that are being handled, and cancels them when the drain time is over. What
// waits in memory alone stays without acknowledgement, and its publisher or broker sends it again. Later calls give the first
// one's result.
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
