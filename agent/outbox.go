package agent

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
)

// uplinkPrefix marks a topic that goes to the fleet and not to the board's bus.
const uplinkPrefix = "uplink:"

// outbox is what the deliverers need of the store.
type outbox interface {
	Outbox(after uint64, n int) ([]store.Message, error)
	Delivered(ids ...uint64) error
}

// deliver sends committed messages to one destination, oldest first, until ctx ends. A message that can't be sent holds up
// the ones behind it, so their order stays; it is tried again after each wake and every 5 s.
func deliver(ctx context.Context, box outbox, wake <-chan struct{}, mine func(topic string) bool, send func(context.Context, store.Message) error, log *slog.Logger) error {
	const batch = 256
	var after uint64
	failing := false
	for {
		messages, err := box.Outbox(after, batch)
		if err != nil {
			return err
		}
		var sent []uint64
		var failure error
		for _, m := range messages {
			if mine(m.Topic) {
				if failure = send(ctx, m); failure != nil {
					break
				}
				sent = append(sent, m.ID)
			}
			after = m.ID
		}
		if len(sent) > 0 {
			if err := box.Delivered(sent...); err != nil {
				return err
			}
		}
		if failure != nil && !failing && ctx.Err() == nil {
			log.Warn("messages wait in the outbox", "cause", failure)
		}
		failing = failure != nil
		if failure == nil && len(messages) == batch {
			continue
		}
		var retry <-chan time.Time // an idle board wakes for nothing: only what could not be sent is tried again unasked
		if failing {
			retry = time.After(5 * time.Second)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-retry:
		}
	}
}

func isUplink(topic string) bool { return strings.HasPrefix(topic, uplinkPrefix) }

func isLocal(topic string) bool { return !isUplink(topic) }
