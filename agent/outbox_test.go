package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"
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
		send := func(_ context.Context, m store.Message) (mqtttrigger.Taken, error) {
			mu.Lock()
			defer mu.Unlock()
			if m.Topic == "away" && away {
				return nil, errors.New("nobody is there")
			}
			return func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				sent[m.Topic] = append(sent[m.Topic], m.ID)
				return nil
			}, nil
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

// What was sent and not taken is sent again with all behind it that was not either, in order; and no more are under way than may be.
func TestMessagesOfATopicAreSentInOrderWhateverIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			random := rand.New(rand.NewPCG(seed, 3))
			box := &memoryBox{}
			box.add("t", 200)
			var began []uint64
			taken, flying, most := map[uint64]int{}, 0, 0
			broken := 0 // of the connection: what is under way then fails
			send := func(_ context.Context, m store.Message) (mqtttrigger.Taken, error) {
				if random.IntN(20) == 0 {
					return nil, errors.New("the broker is not connected")
				}
				began = append(began, m.ID)
				flying++
				most = max(most, flying)
				at := broken
				return func(context.Context) error {
					flying--
					if random.IntN(30) == 0 {
						broken++
					}
					if at != broken {
						return errors.New("connection lost")
					}
					taken[m.ID]++
					return nil
				}, nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- newDeliverer(box, send, slog.New(slog.DiscardHandler)).run(ctx, nil) }()
			<-time.After(24 * time.Hour) // the bubble's
			synctest.Wait()
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("seed %d: ended with %v", seed, err)
			}
			if len(box.left()) != 0 || len(taken) != 200 || most > maxFlying || most < 2 {
				t.Errorf("seed %d: %d taken, %d at once", seed, len(taken), most)
			}
			last := uint64(0)
			for _, id := range began { // a message is sent again only with all that follow it and were not taken
				if id > last+1 {
					t.Fatalf("seed %d: %d was sent after %d", seed, id, last)
				}
				last = id
			}
			for id, n := range taken {
				if n != 1 {
					t.Errorf("seed %d: %d was taken %d times", seed, id, n)
				}
			}
		}
	})
}
