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
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"
)

// outbox is what a deliverer needs of the store.
type outbox interface {
	Outbox(after uint64, n int) ([]store.Message, error)
	Delivered(ids ...uint64) error
}

// What one deliverer holds in memory is bounded; the rest stays in the store.
const (
	maxLanes  = 256 // topics under way
	maxLane   = 32  // messages of one topic that wait
	maxFlying = 16  // and that are sent before the first is taken
)

// deliverer sends committed messages to the board's bus: those of a topic in their order, topics beside each other, so
// that a slow or absent receiver of one holds up no other, however many messages wait for it.
type deliverer struct {
	box  outbox
	send func(context.Context, store.Message) (mqtttrigger.Taken, error)
	log  *slog.Logger

	mu     sync.Mutex
	lanes  map[string]*lane // by topic, while something of it is under way or was passed over
	passed uint64           // the oldest message that was passed over because there were too many topics; 0: none
	again  chan struct{}    // holds one: something that was passed over has room now
}

// lane is one topic's messages in memory, in order.
type lane struct {
	behind []store.Message // what waits behind those under way
	passed uint64          // the oldest message that was passed over because the lane was full; 0: none
	idle   bool            // nothing is under way: the lane only stops newer messages from overtaking those passed over
}

func newDeliverer(box outbox, send func(context.Context, store.Message) (mqtttrigger.Taken, error), log *slog.Logger) *deliverer {
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

// flight is a message under way.
type flight struct {
	message store.Message
	taken   mqtttrigger.Taken
}

// lane delivers a topic's messages, from m on, until there are none: each is sent when the one before was, a few of them before the first is
// taken, so that they share what that costs.
func (d *deliverer) lane(ctx context.Context, m store.Message) error {
	var flying []flight
	todo := []store.Message{m} // before what is behind
	attempt := 0
	for {
		var failed error
		for failed == nil && len(flying) < maxFlying {
			if len(todo) == 0 {
				next, more := d.next(m.Topic)
				if !more {
					break
				}
				todo = append(todo, next)
			}
			var taken mqtttrigger.Taken
			if taken, failed = d.send(ctx, todo[0]); failed == nil {
				flying, todo = append(flying, flight{todo[0], taken}), todo[1:]
			}
		}
		switch {
		case len(flying) > 0 && failed == nil:
			if failed = d.land(ctx, flying[0]); failed == nil {
				flying, attempt = flying[1:], 0
				continue
			}
		case failed == nil:
			if d.end(m.Topic) {
				return nil
			}
			continue
		}
		// Those behind may have been taken, or not: all that were not are sent again, in their order.
		var again []store.Message
		for _, f := range flying {
			if d.land(ctx, f) != nil {
				again = append(again, f.message)
			}
		}
		flying, todo = nil, append(again, todo...)
		if attempt == 0 && ctx.Err() == nil {
			d.log.Warn("messages of a topic wait in the outbox", "topic", m.Topic, "cause", failed)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mqttconn.Backoff(attempt, mathrand.Float64())):
		}
		attempt++
	}
}

// land waits until a message under way is taken, and removes it.
func (d *deliverer) land(ctx context.Context, f flight) error {
	err := f.taken(ctx)
	crash.At("delivered")
	if err != nil {
		return err
	}
	return d.box.Delivered(f.message.ID)
}

// next message of a topic, if there is one.
func (d *deliverer) next(topic string) (m store.Message, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[topic]
	if len(l.behind) == 0 {
		return m, false
	}
	m, l.behind = l.behind[0], l.behind[1:]
	return m, true
}

// end a topic's lane, unless something came meanwhile. What was passed over is read again.
func (d *deliverer) end(topic string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[topic]
	if len(l.behind) > 0 {
		return false
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
	return true
}
