package mqtt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// committed is a handler whose effects are committed as the runner does it.
func committed(s *store.Store, durability func() store.Durability, effects func(tx *store.Tx, e *trigger.Event) error) trigger.Handler {
	once := func(ctx context.Context, e *trigger.Event) error {
		tx := s.Begin("app").Durable(durability())
		if err := effects(tx, e); err != nil {
			return err
		}
		ends, err := e.Ends(ctx)
		if err != nil {
			return err
		}
		for _, r := range ends.Rows {
			if err := tx.With(r.Key, r.Value, r.Once); err != nil {
				return err
			}
		}
		tx.Follow(ends.After, ends.Placed)
		if err = tx.Commit(ctx); err != nil {
			ends.Placed(nil)
		}
		return err
	}
	return func(ctx context.Context, e *trigger.Event) error {
		for {
			err := once(ctx, e)
			switch {
			case errors.Is(err, store.ErrConflict):
			case errors.Is(err, store.ErrEarly):
				return &trigger.Failure{Reason: trigger.Early, Err: err}
			default:
				return err
			}
		}
	}
}

// add a word to the text at key.
func add(tx *store.Tx, key, word string) error {
	v, _, err := tx.Get("default", key)
	if err != nil {
		return err
	}
	return tx.Set("default", key, fmt.Appendf(v, "%s ", word))
}

func read(t *testing.T, s *store.Store, key string) string {
	t.Helper()
	v, _, err := s.Begin("app").Get("default", key)
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func newBoxOf(t *testing.T, l inbox.Limits) (*store.Store, *inbox.Box) {
	t.Helper()
	s := storetest.Open(t)
	box, err := inbox.Open(s, l, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	return s, box
}

func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d ", i)
	}
	return b.String()
}

// With a batch of 200 ms for each message, a topic alone had five messages a second.
func TestTheMessagesOfATopicShareABatchAndKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := newBoxOf(t, inbox.Limits{})
		d := newDispatcher(Limits{}, box, quiet)
		batch := func() store.Durability { return store.Batch }
		if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: committed(s, batch, func(tx *store.Tx, e *trigger.Event) error {
			return add(tx, "all", string(e.MQTT.Payload))
		})}}); err != nil {
			t.Fatal(err)
		}
		const n = 20
		began := time.Now()
		acknowledged := make(chan int, n)
		for i := range n {
			d.offer(offered{message: &trigger.Message{Topic: "t", Payload: fmt.Append(nil, i), QoS: 1}, done: func() { acknowledged <- i }})
		}
		for i := range n {
			if got := <-acknowledged; got != i {
				t.Errorf("acknowledged %d, want %d", got, i)
			}
		}
		if took := time.Since(began); took != store.BatchDelay { // by synctest's clock
			t.Errorf("%d messages took %s, want one batch of %s", n, took, store.BatchDelay)
		}
		if got := read(t, s, "all"); got != numbers(n) {
			t.Errorf("kept %q", got)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

// However events fail, conflict and are overtaken: those of one topic take effect in their order, each once.
func TestATopicsEventsTakeEffectInOrderAndOnceWhateverFails(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			var mu sync.Mutex // of random, and of failed
			failed := map[string]int{}
			chance := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(n)
			}
			s, box := newBoxOf(t, inbox.Limits{})
			d := newDispatcher(Limits{QueueMessages: 40, Workers: 16}, box, quiet)
			durability := func() store.Durability { return store.Durability(chance(3)) }
			const topics, each = 4, 60
			handle := committed(s, durability, func(tx *store.Tx, e *trigger.Event) error {
				defer func() { time.Sleep(time.Duration(chance(3)) * time.Millisecond) }() //nolint:forbidigo // synctest's clock
				word := string(e.MQTT.Payload)
				switch chance(8) {
				case 0:
					return unavailable()
				case 1:
					mu.Lock()
					defer mu.Unlock()
					if name := e.MQTT.Topic + word; failed[name] < maxAttempts-1 {
						failed[name]++
						return errors.New("failed")
					}
				case 2, 3, 4: // all topics want it
					if err := add(tx, "shared", e.MQTT.Topic+"/"+word); err != nil {
						return err
					}
				}
				if strings.HasSuffix(word, "3") { // has no effects of its own
					_, _, err := tx.Get("default", "shared")
					return err
				}
				return tx.Publish(e.MQTT.Topic, []byte(word), 1, false) // nothing that the one before writes is read
			})
			if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 2, Handle: handle}}); err != nil {
				t.Fatal(err)
			}
			var publishers sync.WaitGroup
			var acknowledged sync.Map
			for topic := range topics {
				publishers.Go(func() {
					for i := range each {
						m := &trigger.Message{Topic: fmt.Sprint(topic), Payload: fmt.Append(nil, i), QoS: byte(1 + chance(2))}
						for {
							full := d.offer(offered{message: m, done: func() {
								if _, twice := acknowledged.LoadOrStore(m, true); twice {
									t.Errorf("seed %d: %s of topic %d acknowledged twice", seed, m.Payload, topic)
								}
							}})
							if full == nil {
								break
							}
							<-full
						}
						if chance(8) == 0 {
							time.Sleep(time.Duration(chance(300)) * time.Millisecond) //nolint:forbidigo // synctest's clock
						}
					}
				})
			}
			publishers.Wait()
			time.Sleep(24 * time.Hour) //nolint:forbidigo // synctest's clock
			synctest.Wait()
			want := ""
			for i := range each {
				if i%10 != 3 {
					want += fmt.Sprintf("%d ", i)
				}
			}
			got := map[string]string{}
			out, err := s.Outbox(0, topics*each)
			if err != nil {
				t.Error(err)
			}
			for _, m := range out {
				got[m.Topic] += string(m.Payload) + " "
			}
			for topic := range topics {
				if got := got[fmt.Sprint(topic)]; got != want {
					t.Errorf("seed %d: topic %d published %q", seed, topic, got)
				}
			}
			count := 0
			acknowledged.Range(func(any, any) bool { count++; return true })
			if c := d.count(); count != topics*each || c.Handled != topics*each || c.Failed != 0 || box.Counts().Waiting != 0 {
				t.Errorf("seed %d: %d acknowledged, %+v, %+v in the inbox", seed, count, c, box.Counts())
			}
			if d.bytes != 0 || d.workers != 0 || d.bindings["a"].handling != 0 || len(d.bindings["a"].lanes) != 0 || len(d.bindings["a"].ready) != 0 {
				t.Errorf("seed %d: left over: %d bytes, %d workers", seed, d.bytes, d.workers)
			}
			if err := d.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
