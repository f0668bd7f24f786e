package agent

import (
	"context"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/mqttconn"
	"dunlin.dev/dunlin/agent/internal/store"
)

// outbox is what a deliverer needs of the store.
type outbox interface {
	Outbox(after uint64, n int) ([]store.Message, error)
	Delivered(ids ...uint64) error
}

// What one deliverer holds in memory is bounded; the rest stays in the store.
const (
	maxLanes = 256 // topics under way
	maxLane  = 32  // messages of one topic
)

// deliverer sends committed messages to the board's bus: those of a topic one after the other, topics beside each other, so
// that a slow or absent receiver of one holds up no other, however many messages wait for it.
type deliverer struct {
	box  outbox
	send func(context.Context, store.Message) error
	log  *slog.Logger

	mu     sync.Mutex
	lanes  map[string]*lane // by topic, while something of it is under way or was passed over
	passed uint64           // the oldest message that was passed over because there were too many topics; 0: none
	again  chan struct{}    // holds one: something that was passed over has room now
}

// lane is one topic's messages in memory, in order.
type lane struct {
	behind []store.Message // what waits behind the message under way
	passed uint64          // the oldest message that was passed over because the lane was full; 0: none
	idle   bool            // nothing is under way: the lane only stops newer messages from overtaking those passed over
}

func newDeliverer(box outbox, send func(context.Context, store.Message) error, log *slog.Logger) *deliverer {
	return &deliverer{box: box, send: send, log: log, lanes: map[string]*lane{}, again: make(chan struct{}, 1)}
}

// run delivers until ctx ends. wake tells of new messages; nothing else makes it look.
func (d *deliverer) run(ctx context.Context, wake <-chan struct{}) error {
	const batch = 256
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		newest := map[string]uint64{} // of each topic with a lane: what is in memory already, for a rewind
		for after := uint64(0); ; {
			if from := d.rewind(); from > 0 {
				after = from - 1
			}
			messages, err := d.box.Outbox(after, batch)
			if err != nil {
				return err
			}
			for _, m := range messages {
				after = m.ID
				d.put(ctx, group, newest, m)
			}
			if len(messages) == batch {
				continue
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-wake:
			case <-d.again:
			}
		}
	})
	return group.Wait()
}

// rewind gives the oldest message that was passed over and has room now, and makes that room; 0 where there is none.
func (d *deliverer) rewind() (from uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for topic, l := range d.lanes {
		if l.idle {
			from = oldest(from, l.passed)
			delete(d.lanes, topic)
		}
	}
	if len(d.lanes) < maxLanes {
		from, d.passed = oldest(from, d.passed), 0
	}
	return from
}

// put gives m to its topic's lane, which is a goroutine while there is something in it. Where there is no room m is passed
// over, and read again when there is.
func (d *deliverer) put(ctx context.Context, group *errgroup.Group, newest map[string]uint64, m store.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[m.Topic]
	switch {
	case l == nil && (d.passed != 0 || len(d.lanes) >= maxLanes):
		d.passed = oldest(d.passed, m.ID)
		return
	case l == nil:
		d.lanes[m.Topic] = &lane{}
		group.Go(func() error { return d.lane(ctx, m) })
	case m.ID <= newest[m.Topic]:
		return
	case l.passed != 0 || len(l.behind) >= maxLane:
		l.passed = oldest(l.passed, m.ID) // nothing overtakes one that was passed over
		return
	default:
		l.behind = append(l.behind, m)
	}
	newest[m.Topic] = m.ID
	if len(newest) > 2*maxLanes {
		for topic := range newest {
			if d.lanes[topic] == nil {
				delete(newest, topic)
			}
		}
	}
}

// oldest of two ids, of which 0 is none.
func oldest(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func (d *deliverer) lane(ctx context.Context, m store.Message) error {
	for {
		if err := d.deliver(ctx, m); err != nil {
			return err
		}
		next, more := d.next(m.Topic)
		if !more {
			return nil
		}
		m = next
	}
}

// next message of a topic. Without one its lane ends, and what was passed over is read again.
func (d *deliverer) next(topic string) (m store.Message, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[topic]
	if len(l.behind) > 0 {
		m, l.behind = l.behind[0], l.behind[1:]
		return m, true
	}
	l.idle = l.passed != 0
	if !l.idle {
		delete(d.lanes, topic)
	}
	if l.idle || d.passed != 0 {
		select {
		case d.again <- struct{}{}:
		default:
		}
	}
	return store.Message{}, false
}

// deliver sends m until it is taken, with growing pauses, and removes it.
func (d *deliverer) deliver(ctx context.Context, m store.Message) error {
	for attempt := 0; ; attempt++ {
		err := d.send(ctx, m)
		crash.At("delivered")
		if err == nil {
			return d.box.Delivered(m.ID)
		}
		if attempt == 0 && ctx.Err() == nil {
			d.log.Warn("messages of a topic wait in the outbox", "topic", m.Topic, "cause", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mqttconn.Backoff(attempt, mathrand.Float64())):
		}
	}
}
