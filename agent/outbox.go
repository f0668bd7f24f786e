package agent

import (
	"context"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"dunlin.dev/dunlin/agent/internal/mqttconn"
	"dunlin.dev/dunlin/agent/internal/store"
)

// uplinkPrefix marks a topic that goes to the fleet and not to the board's bus.
const uplinkPrefix = "uplink:"

func isUplink(topic string) bool { return strings.HasPrefix(topic, uplinkPrefix) }

func isLocal(topic string) bool { return !isUplink(topic) }

// outbox is what a deliverer needs of the store.
type outbox interface {
	Outbox(after uint64, n int) ([]store.Message, error)
	Delivered(ids ...uint64) error
}

// inFlight bounds the messages that one deliverer holds in memory; the rest stay in the store.
const inFlight = 256

// deliverer sends committed messages to one destination: those of a topic one after the other, topics beside each other, so
// that a slow or absent receiver of one holds up no other.
type deliverer struct {
	box  outbox
	mine func(topic string) bool
	send func(context.Context, store.Message) error
	log  *slog.Logger

	room  chan struct{} // a token for each message in memory
	mu    sync.Mutex
	lanes map[string][]store.Message // by topic: what waits behind the message under way
}

func newDeliverer(box outbox, mine func(string) bool, send func(context.Context, store.Message) error, log *slog.Logger) *deliverer {
	return &deliverer{box: box, mine: mine, send: send, log: log, room: make(chan struct{}, inFlight), lanes: map[string][]store.Message{}}
}

// run delivers until ctx ends. wake tells of new messages; nothing else makes it look.
func (d *deliverer) run(ctx context.Context, wake <-chan struct{}) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for after := uint64(0); ; {
			messages, err := d.box.Outbox(after, inFlight)
			if err != nil {
				return err
			}
			for _, m := range messages {
				after = m.ID
				if !d.mine(m.Topic) {
					continue
				}
				select {
				case d.room <- struct{}{}:
					d.put(ctx, group, m)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if len(messages) == inFlight {
				continue
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-wake:
			}
		}
	})
	return group.Wait()
}

// put gives m to its topic's lane, which is a goroutine while there is something in it.
func (d *deliverer) put(ctx context.Context, group *errgroup.Group, m store.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if behind, running := d.lanes[m.Topic]; running {
		d.lanes[m.Topic] = append(behind, m)
		return
	}
	d.lanes[m.Topic] = nil
	group.Go(func() error { return d.lane(ctx, m) })
}

func (d *deliverer) lane(ctx context.Context, m store.Message) error {
	for {
		if err := d.deliver(ctx, m); err != nil {
			return err
		}
		d.mu.Lock()
		behind := d.lanes[m.Topic]
		if len(behind) == 0 {
			delete(d.lanes, m.Topic)
			d.mu.Unlock()
			return nil
		}
		m, d.lanes[m.Topic] = behind[0], behind[1:]
		d.mu.Unlock()
	}
}

// deliver sends m until it is taken, with growing pauses, and removes it.
func (d *deliverer) deliver(ctx context.Context, m store.Message) error {
	defer func() { <-d.room }()
	for attempt := 0; ; attempt++ {
		err := d.send(ctx, m)
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
