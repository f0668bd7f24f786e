package mqtt

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

func TestAQueueOfPoisonEventsIsGivenUpOneByOneAndHoldsUpItsOwnTopicOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const letters = 100
		s, box := newBoxOf(t, inbox.Limits{Dead: letters})
		d := newDispatcher(Limits{}, box, quiet)
		durability := func() store.Durability { return store.Sync }
		if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, Handle: committed(s, durability, func(tx *store.Tx, e *trigger.Event) error {
			if e.MQTT.Topic == "bad" {
				return errors.New("poison")
			}
			return add(tx, "all", string(e.MQTT.Payload))
		})}}); err != nil {
			t.Fatal(err)
		}
		const poison = letters + 50
		var acknowledged atomic.Int64
		offer := func(topic, payload string) {
			for {
				full := d.offer(offered{message: &trigger.Message{Topic: topic, Payload: []byte(payload), QoS: 1}, done: func() { acknowledged.Add(1) }})
				if full == nil {
					return
				}
				<-full
			}
		}
		for i := range poison {
			offer("bad", fmt.Sprint(i))
		}
		offer("good", "1")
		time.Sleep(time.Second) //nolint:forbidigo // synctest's clock
		synctest.Wait()
		if got := read(t, s, "all"); got != "1 " {
			t.Errorf("behind the poison another topic has %q", got)
		}
		time.Sleep(24 * time.Hour) //nolint:forbidigo // synctest's clock
		synctest.Wait()
		if c := box.Counts(); c.Dead != letters || c.DeadDropped != 50 || c.Waiting != 0 || acknowledged.Load() != poison+1 || d.bytes != 0 {
			t.Errorf("%+v, %d acknowledged, %d bytes left over", c, acknowledged.Load(), d.bytes)
		}
		offer("bad", "again")
		offer("good", "2")
		time.Sleep(time.Hour) //nolint:forbidigo // synctest's clock
		synctest.Wait()
		if got := read(t, s, "all"); got != "1 2 " {
			t.Errorf("afterwards: %q", got)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestIDsThatRepeatForEverAndIDsThatNeverDoCostABoundedNumberOfRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := newBoxOf(t, inbox.Limits{})
		d := newDispatcher(Limits{}, box, quiet)
		var effects atomic.Int64
		durability := func() store.Durability { return store.Memory }
		handle := committed(s, durability, func(*store.Tx, *trigger.Event) error { effects.Add(1); return nil })
		id, err := wire.ParseMessageID("topic:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.set([]Subscription{{ID: "a", Filter: "#", QoS: 1, MessageID: id, Handle: handle}}); err != nil {
			t.Fatal(err)
		}
		offer := func(topic string) {
			acknowledged := make(chan struct{})
			d.offer(offered{message: &trigger.Message{Topic: topic, QoS: 1}, done: func() { close(acknowledged) }})
			<-acknowledged
		}
		rows := func() int {
			r, err := s.Scan("seen/", "", 10*inbox.Window)
			if err != nil {
				t.Fatal(err)
			}
			return len(r)
		}
		for range 5000 {
			offer("same")
		}
		if effects.Load() != 1 || d.count().Repeated != 4999 || rows() != 1 {
			t.Errorf("%d effects, %+v, %d rows", effects.Load(), d.count(), rows())
		}
		for i := range 5 * inbox.Window {
			offer(fmt.Sprint("other", i))
		}
		synctest.Wait()
		if n := rows(); n > 3*inbox.Window {
			t.Errorf("%d rows of %d ids", n, 5*inbox.Window)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}
