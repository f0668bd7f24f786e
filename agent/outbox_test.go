package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
)

// memoryBox is an outbox in memory.
type memoryBox struct {
	mu       sync.Mutex
	messages []store.Message
}

func (b *memoryBox) add(topic string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range n {
		b.messages = append(b.messages, store.Message{ID: uint64(len(b.messages) + 1), Topic: topic})
	}
}

func (b *memoryBox) Outbox(after uint64, n int) (out []store.Message, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.messages {
		if m.ID > after && m.Topic != "" && len(out) < n {
			out = append(out, m)
		}
	}
	return out, nil
}

func (b *memoryBox) Delivered(ids ...uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.messages[id-1].Topic = ""
	}
	return nil
}

func (b *memoryBox) left() (topics []string) {
	left, _ := b.Outbox(0, 1<<20)
	for _, m := range left {
		topics = append(topics, m.Topic)
	}
	return slices.Compact(topics)
}

func TestAReceiverThatIsAwayHoldsUpItsOwnTopicOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := &memoryBox{}
		box.add("away", 500)
		box.add("here", 700)
		for i := range 400 {
			box.add(fmt.Sprint("topic/", i), 1)
		}
		var mu sync.Mutex
		sent, away := map[string][]uint64{}, true
		send := func(_ context.Context, m store.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if m.Topic == "away" && away {
				return errors.New("nobody is there")
			}
			sent[m.Topic] = append(sent[m.Topic], m.ID)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		wake := make(chan struct{})
		go func() { ended <- newDeliverer(box, send, slog.New(slog.DiscardHandler)).run(ctx, wake) }()
		synctest.Wait()
		if got := fmt.Sprint(box.left()); got != "[away]" {
			t.Errorf("left in the outbox: %s", got)
		}
		mu.Lock()
		away = false
		mu.Unlock()
		box.add("here", 1)
		wake <- struct{}{}
		<-time.After(time.Minute) // the bubble's minute: the pauses of what waits are over
		synctest.Wait()
		for topic, ids := range sent {
			if !slices.IsSorted(ids) {
				t.Errorf("%s left in the order %v", topic, ids)
			}
		}
		if len(sent["away"]) != 500 || len(sent["here"]) != 701 || len(sent["uplink:x"]) != 0 {
			t.Errorf("sent %d away, %d here, %d uplink", len(sent["away"]), len(sent["here"]), len(sent["uplink:x"]))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}
