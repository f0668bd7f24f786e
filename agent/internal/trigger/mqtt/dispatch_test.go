package mqtt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Whatever handlers do and however subscriptions change, each message that was taken is ended once, and nothing is left over.
func TestEveryMessageThatIsTakenIsEndedOnce(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex // of random
			chance := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(n)
			}
			// A subscription that is removed and comes back is a new one: it may begin while the old one's event ends.
			removes := seed%2 == 0
			var running sync.Map // topic of a binding, while it is handled
			handle := func(_ context.Context, e *trigger.Event) error {
				key := e.Trigger + " " + e.MQTT.Topic
				if _, twice := running.LoadOrStore(key, true); twice && !removes {
					t.Errorf("seed %d: two events of %s at once", seed, key)
				}
				defer running.Delete(key)
				time.Sleep(time.Duration(chance(50)) * time.Millisecond) //nolint:forbidigo // synctest's clock
				switch chance(10) {
				case 0:
					return &trigger.Failure{Reason: trigger.Busy, Err: errors.New("busy")}
				case 1:
					return &trigger.Failure{Reason: trigger.Closed, Err: errors.New("closed")}
				case 2:
					panic("bug")
				case 3:
					return errors.New("failed")
				}
				return nil
			}
			d := newDispatcher(Limits{QueueMessages: 10, QueueBytes: 200, Workers: 3}, quiet)
			all := []Subscription{{ID: "a", Filter: "t/#", QoS: 1}, {ID: "b", Filter: "t/+", QoS: 2}, {ID: "c", Filter: "#", QoS: 0}, {ID: "d", Filter: "t/1", QoS: 1}}
			for i := range all {
				all[i].Handle = handle
			}
			set := func() {
				n := len(all)
				if removes {
					n = chance(len(all)) + 1
				}
				if _, err := d.set(all[:n]); err != nil {
					t.Error(err)
				}
			}
			set()
			var taken, ended atomic.Int64
			var publishers sync.WaitGroup
			for range 4 {
				publishers.Go(func() {
					for range 100 {
						var once atomic.Bool
						m := &trigger.Message{Topic: fmt.Sprintf("t/%d", chance(5)), Payload: make([]byte, chance(40)), QoS: byte(chance(3))}
						for {
							full := d.offer(m, "", func() {
								if once.Swap(true) {
									t.Errorf("seed %d: a message was ended twice", seed)
								}
								ended.Add(1)
							})
							if full == nil {
								break
							}
							<-full
						}
						taken.Add(1)
						if chance(20) == 0 {
							set()
						}
						time.Sleep(time.Duration(chance(20)) * time.Millisecond) //nolint:forbidigo // synctest's clock
					}
				})
			}
			publishers.Wait()
			time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
			synctest.Wait()
			if taken.Load() != 400 || ended.Load() != 400 {
				t.Errorf("seed %d: %d taken, %d ended", seed, taken.Load(), ended.Load())
			}
			if d.bytes != 0 || d.workers != 0 {
				t.Errorf("seed %d: %d bytes and %d workers left over", seed, d.bytes, d.workers)
			}
			for _, b := range d.bindings {
				if b.jobs != 0 || len(b.lanes) != 0 || len(b.ready) != 0 || b.workers != 0 {
					t.Errorf("seed %d: left over in %s: %d jobs, %d lanes", seed, b.ID, b.jobs, len(b.lanes))
				}
			}
			if err := d.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestQoS0MakesRoomForNewerQoS0Only(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var got record
		d := newDispatcher(Limits{QueueMessages: 3, Workers: 1}, quiet)
		if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
			<-hold
			return got.handle(ctx, e)
		}}}); err != nil {
			t.Fatal(err)
		}
		offer := func(payload string, qos byte) bool {
			return d.offer(&trigger.Message{Topic: "t", Payload: []byte(payload), QoS: qos}, "", nil) == nil
		}
		for _, p := range []string{"first", "old", "sure"} {
			if !offer(p, map[string]byte{"sure": 1}[p]) {
				t.Fatalf("no room for %s", p)
			}
			synctest.Wait()
		}
		if !offer("new", 0) || offer("refused", 1) {
			t.Error("QoS 0 must find room, QoS 1 must wait")
		}
		close(hold)
		synctest.Wait()
		if got.String() != "first sure new" || d.count().Dropped != 1 {
			t.Errorf("handled %q, dropped %d; want the oldest QoS 0 message dropped", &got, d.count().Dropped)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestRetriesWaitLongerAndLonger(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 100, 1: 100, 2: 400, 3: 1600, 4: 5000, 1000: 5000} {
		if got := retryDelay(n); got != want*time.Millisecond {
			t.Errorf("retryDelay(%d) = %s, want %d ms", n, got, want)
		}
	}
}
