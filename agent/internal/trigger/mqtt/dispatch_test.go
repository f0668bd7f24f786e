package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
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
			handle := func(ctx context.Context, e *trigger.Event) error {
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
				case 4, 5, 6: // its effects have their place before its end
					ends, err := e.Ends(ctx)
					if err != nil {
						return err
					}
					running.Delete(key)
					ends.Placed(new(int))
					time.Sleep(time.Duration(chance(50)) * time.Millisecond) //nolint:forbidigo // synctest's clock
					if chance(4) == 0 {
						ends.Placed(nil)
						return errors.New("commit failed")
					}
				}
				return nil
			}
			d := newDispatcher(Limits{QueueMessages: 10, QueueBytes: 200, Workers: 3}, newBox(t, inbox.Limits{}), quiet)
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
							full := d.offer(offered{message: m, done: func() {
								if once.Swap(true) {
									t.Errorf("seed %d: a message was ended twice", seed)
								}
								ended.Add(1)
							}})
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
				if b.jobs != 0 || len(b.lanes) != 0 || len(b.ready) != 0 || b.handling != 0 {
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
		d := newDispatcher(Limits{QueueMessages: 3, Workers: 1}, newBox(t, inbox.Limits{}), quiet)
		if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
			<-hold
			return got.handle(ctx, e)
		}}}); err != nil {
			t.Fatal(err)
		}
		offer := func(payload string, qos byte) bool {
			return d.offer(offered{message: &trigger.Message{Topic: "t", Payload: []byte(payload), QoS: qos}}) == nil
		}
		for _, p := range []string{"first", "old", "sure"} {
			if !offer(p, map[string]byte{"sure": 1}[p]) {
				t.Fatalf("no room for %s", p)
			}
			synctest.Wait()
		}
		if !offer("new", 0) || !offer("later", 1) {
			t.Error("QoS 0 must find room, QoS 1 has the inbox")
		}
		synctest.Wait()
		close(hold)
		synctest.Wait()
		if got.String() != "first sure new later" || d.count().Dropped != 1 {
			t.Errorf("handled %q, dropped %d; want the oldest QoS 0 message dropped", &got, d.count().Dropped)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

// unavailable is how a handler fails on a board that can't commit.
func unavailable() error {
	return &trigger.Failure{Event: "e-1", Reason: trigger.Unavailable, Err: errors.New("commit: no space left on device")}
}

func TestWhatTheBoardCantCommitIsNeverGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries, ended atomic.Int64
		var got record
		d := newDispatcher(Limits{QueueMessages: 2, Workers: 1}, newBox(t, inbox.Limits{}), quiet)
		if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: func(ctx context.Context, e *trigger.Event) error {
			if e.MQTT.Topic == "stuck" {
				tries.Add(1)
				return unavailable()
			}
			return got.handle(ctx, e)
		}}}); err != nil {
			t.Fatal(err)
		}
		offer := func(topic string, qos byte, done func()) bool {
			return d.offer(offered{message: &trigger.Message{Topic: topic, Payload: []byte("x"), QoS: qos}, done: done}) == nil
		}
		if !offer("stuck", 1, func() { ended.Add(1) }) {
			t.Fatal("no room")
		}
		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		synctest.Wait()
		if n := tries.Load(); n < 100 || n > 130 || ended.Load() != 1 {
			t.Errorf("in an hour tried %d times and ended %d times, want once in 30 s and acknowledged from the inbox", n, ended.Load())
		}
		if !offer("free", 1, nil) {
			t.Error("no room for another topic")
		}
		synctest.Wait()
		if got.String() != "x" {
			t.Error("another topic did not go on")
		}
		for range 10 {
			if !offer("stuck", 1, nil) {
				t.Error("want room in the inbox behind the memory's two")
			}
		}
		synctest.Wait()
		if c := d.count(); c.Failed != 0 || c.Dropped != 0 {
			t.Errorf("%+v, want nothing given up", c)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
		if n := d.box.Counts().Waiting; n < 10 { // the rest was never acknowledged: it waits in memory
			t.Errorf("%d events in the inbox after the stop", n)
		}
	})
}

func TestAFailureIsNotReportedTwice(t *testing.T) {
	for name, c := range map[string]struct {
		err         error
		want, never string
	}{
		"reported by its handler": {&trigger.Failure{Event: "e-1", Reason: trigger.Trapped, Err: errors.New("unreachable")}, "level=INFO msg=\"give up on message\" trigger=a topic=t attempts=4 dead=e1 event=e-1", "unreachable"},
		"a handler's panic":       {errors.New("handler panicked: bug"), "level=ERROR msg=\"give up on message\" trigger=a topic=t attempts=4 dead=e1 error=\"handler panicked: bug\"", "event="},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			d := newDispatcher(Limits{}, newBox(t, inbox.Limits{}), slog.New(slog.NewTextHandler(&log, nil)))
			if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: func(context.Context, *trigger.Event) error { return c.err }}}); err != nil {
				t.Fatal(err)
			}
			d.offer(offered{message: &trigger.Message{Topic: "t", QoS: 1}})
			time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
			synctest.Wait()
			if !strings.Contains(log.String(), c.want) || strings.Contains(log.String(), c.never) || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("%s: log %q, want one line with %q", name, &log, c.want)
			}
			if err := d.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
