package inbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

func open(t testing.TB, s *store.Store, l Limits) *Box {
	t.Helper()
	b, err := Open(s, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func event(b *Box, trig, payload string) Event {
	return Event{Number: b.Number(), Trigger: trig, At: time.UnixMilli(1_700_000_000_123), Message: trigger.Message{Topic: "t", Payload: []byte(payload), QoS: 1}}
}

func accept(t testing.TB, b *Box, ends trigger.Ends, events ...Event) error {
	t.Helper()
	a, err := b.Accept(events, ends, nil)
	if err != nil {
		return err
	}
	return a.Wait(context.Background())
}

func waiting(t testing.TB, b *Box, trig string) (payloads []string) {
	t.Helper()
	for after := uint64(0); ; {
		events, err := b.Waiting(trig, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return payloads
		}
		for _, e := range events {
			after = e.Number
			payloads = append(payloads, string(e.Message.Payload))
		}
	}
}

func TestWhatIsAcceptedIsThereAfterAStart(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenIn(t, dir)
	b := open(t, s, Limits{})
	for i := range 5 {
		if err := accept(t, b, trigger.Ends{}, event(b, "app/a", fmt.Sprint(i)), event(b, "app/a/b", "other")); err != nil {
			t.Fatal(err)
		}
	}
	before := b.Counts()
	b.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, storetest.OpenIn(t, dir), Limits{})
	if got := waiting(t, again, "app/a"); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("waiting %q", got)
	}
	if got := again.Counts(); got != before || got.Waiting != 10 {
		t.Errorf("counts %+v, want %+v", got, before)
	}
	events, _ := again.Waiting("app/a", 0, 1)
	if e := events[0]; e.Trigger != "app/a" || !e.At.Equal(time.UnixMilli(1_700_000_000_123)) || e.Message.Topic != "t" || e.Message.QoS != 1 {
		t.Errorf("event %+v", e)
	}
	if n := again.Number(); n != 11 {
		t.Errorf("the next number is %d, want 11", n)
	}
}

func TestAnEventLeavesWithItsEffectsAndOnce(t *testing.T) {
	s := storetest.Open(t)
	b := open(t, s, Limits{})
	e := event(b, "app/a", "x")
	if err := accept(t, b, trigger.Ends{}, e); err != nil {
		t.Fatal(err)
	}
	commit := func() error {
		tx := s.Begin("app")
		if err := tx.Set("default", "n", []byte("1")); err != nil {
			t.Fatal(err)
		}
		if err := addEnds(tx, trigger.Ends{Rows: []trigger.Row{e.Leave()}}); err != nil {
			t.Fatal(err)
		}
		return tx.Commit(context.Background())
	}
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	b.Left(e)
	if got := waiting(t, b, "app/a"); len(got) != 0 || b.Counts() != (Counts{}) {
		t.Errorf("waiting %q, counts %+v", got, b.Counts())
	}
	if err := commit(); !errors.Is(err, store.ErrDone) {
		t.Errorf("a second end of the event: %v, want ErrDone", err)
	}
	if err := b.Remove(e); err != nil || b.Counts() != (Counts{}) {
		t.Errorf("remove what has left: %v, counts %+v", err, b.Counts())
	}
}

func TestARepeatedMessageIsAcceptedOnceAndItsNeighboursToo(t *testing.T) {
	s := storetest.Open(t)
	b := open(t, s, Limits{})
	seen := func(id string) trigger.Ends {
		return trigger.Ends{Rows: []trigger.Row{{Key: "seen/" + id, Value: []byte("x"), Once: true}}}
	}
	if err := accept(t, b, seen("1"), event(b, "a", "1")); err != nil {
		t.Fatal(err)
	}
	var all []*Acceptance
	for _, id := range []string{"2", "1", "3", "1", "4"} { // in one transaction, but for those that were there
		a, err := b.Accept([]Event{event(b, "a", id)}, seen(id), nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	for i, a := range all {
		if err := a.Wait(context.Background()); (i == 1 || i == 3) != errors.Is(err, store.ErrDone) || err != nil && !errors.Is(err, store.ErrDone) {
			t.Errorf("acceptance %d: %v", i, err)
		}
	}
	if got := waiting(t, b, "a"); !slices.Equal(got, []string{"1", "2", "3", "4"}) || b.Counts().Waiting != 4 {
		t.Errorf("waiting %q, counts %+v", got, b.Counts())
	}
}

func TestAFullInboxRefusesAndForgetsNothing(t *testing.T) {
	b := open(t, storetest.Open(t), Limits{Bytes: 200})
	n := 0
	for ; ; n++ {
		e := event(b, "a", "0123456789")
		err := accept(t, b, trigger.Ends{}, e)
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil || n > 10 {
			t.Fatalf("accept %d: %v", n, err)
		}
	}
	if got := waiting(t, b, "a"); len(got) != n || n == 0 {
		t.Fatalf("%d wait of %d that were accepted", len(got), n)
	}
	events, err := b.Waiting("a", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(events[0]); err != nil {
		t.Fatal(err)
	}
	if err := accept(t, b, trigger.Ends{}, event(b, "a", "0123456789")); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestDeadLettersAreKeptShownRetriedAndDropped(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenIn(t, dir)
	b := open(t, s, Limits{Dead: 3})
	for i := range 5 {
		e := event(b, "app/a", fmt.Sprint(i))
		accepted := i%2 == 0
		if accepted {
			if err := accept(t, b, trigger.Ends{}, e); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Bury(Dead{Event: e, Attempts: 4, Reason: trigger.Trapped, Cause: "unreachable"}, accepted, trigger.Ends{}); err != nil {
			t.Fatal(err)
		}
	}
	if c := b.Counts(); c.Waiting != 0 || c.WaitingBytes != 0 || c.Dead != 3 || c.DeadDropped != 2 {
		t.Errorf("counts %+v", c)
	}
	b.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, storetest.OpenIn(t, dir), Limits{Dead: 3})
	dead, err := b.Dead(0, 10)
	if err != nil || len(dead) != 3 {
		t.Fatalf("dead letters %+v, %v", dead, err)
	}
	d := dead[0]
	if string(d.Message.Payload) != "2" || d.Attempts != 4 || d.Reason != trigger.Trapped || d.Cause != "unreachable" || d.Trigger != "app/a" {
		t.Errorf("the oldest is %+v", d)
	}
	found, err := b.Find(Name(d.Number))
	if err != nil || found.Number != d.Number {
		t.Errorf("find: %+v, %v", found, err)
	}
	e, err := b.Retry(d)
	if err != nil || e.Number <= dead[2].Number {
		t.Errorf("retry: %+v, %v", e, err)
	}
	if _, err := b.Retry(d); err == nil {
		t.Error("retried twice")
	}
	if err := b.Drop(dead[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Find(Name(dead[1].Number)); !errors.Is(err, ErrUnknown) {
		t.Errorf("find what was dropped: %v", err)
	}
	if c := b.Counts(); c.Dead != 1 || c.Waiting != 1 {
		t.Errorf("counts %+v", c)
	}
	if got := waiting(t, b, "app/a"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("waiting %q", got)
	}
}

// A command that comes late or twice names a letter that is gone, and never another one.
func TestTheNameOfADeadLetterIsNeverGivenAgain(t *testing.T) {
	dir := t.TempDir()
	bury := func(b *Box, payload string) Dead {
		d := Dead{Event: event(b, "app/a", payload), Reason: trigger.Trapped}
		if err := b.Bury(d, false, trigger.Ends{}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	names := map[string]bool{}
	for i, leave := range []func(*Box, Dead) error{
		(*Box).Drop,
		func(b *Box, d Dead) error {
			e, err := b.Retry(d)
			if err == nil {
				err = b.Remove(e)
			}
			return err
		},
		(*Box).Drop,
	} {
		s := storetest.OpenIn(t, dir)
		b := open(t, s, Limits{})
		d := bury(b, fmt.Sprint(i))
		if names[Name(d.Number)] {
			t.Errorf("%s is given again", Name(d.Number))
		}
		names[Name(d.Number)] = true
		if err := leave(b, d); err != nil {
			t.Fatal(err)
		}
		if err := b.Drop(d); !errors.Is(err, ErrUnknown) {
			t.Errorf("drop it again: %v", err)
		}
		if _, err := b.Retry(d); !errors.Is(err, ErrUnknown) {
			t.Errorf("retry it again: %v", err)
		}
		b.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAMessageThatFailsAndComesAgainIsOneDeadLetterThatCanBeRetried(t *testing.T) {
	s := storetest.Open(t)
	b := open(t, s, Limits{})
	first, again := event(b, "a", "x"), event(b, "a", "x")
	if err := accept(t, b, trigger.Ends{}, again); err != nil {
		t.Fatal(err)
	}
	if err := b.Bury(Dead{Event: first, ID: "s1"}, false, trigger.Ends{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Bury(Dead{Event: again, ID: "s1"}, true, trigger.Ends{}); !errors.Is(err, store.ErrDone) {
		t.Errorf("set aside again: %v, want ErrDone", err)
	}
	if err := b.Remove(again); err != nil {
		t.Fatal(err)
	}
	dead, err := b.Dead(0, 10)
	if err != nil || len(dead) != 1 || dead[0].ID != "s1" || b.Counts().Waiting != 0 || !b.Seen("a", "s1") {
		t.Fatalf("dead letters %+v, counts %+v, %v", dead, b.Counts(), err)
	}
	if _, err := b.Retry(dead[0]); err != nil || b.Seen("a", "s1") {
		t.Errorf("retried, it counts as one that has been: %v", err)
	}
}

func TestReceiptsOutliveTheProcessUntilTheyAreReleased(t *testing.T) {
	b := open(t, storetest.Open(t), Limits{})
	for _, r := range []struct {
		session string
		id      uint16
		mark    uint64
	}{{"one", 1, 0}, {"one", 0xffff, 5}, {"two/../\x00", 7, 1 << 63}} {
		if err := accept(t, b, trigger.Ends{Rows: []trigger.Row{Receipt(r.session, r.id, r.mark)}}, event(b, "a", "x")); err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.Receipts()
	if err != nil || len(all) != 2 || !maps.Equal(all["one"], map[uint16]uint64{1: 0, 0xffff: 5}) || !maps.Equal(all["two/../\x00"], map[uint16]uint64{7: 1 << 63}) {
		t.Fatalf("receipts %v, %v", all, err)
	}
	if err := b.Release("one", 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget("two/../\x00"); err != nil {
		t.Fatal(err)
	}
	if all, _ := b.Receipts(); len(all) != 1 || !maps.Equal(all["one"], map[uint16]uint64{0xffff: 5}) {
		t.Errorf("receipts %v", all)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(Event{At: time.UnixMilli(5), Message: trigger.Message{Topic: "a/b", Payload: []byte("x"), QoS: 2, Retain: true}}.encode())
	f.Add(Dead{Attempts: 3, Reason: trigger.Trapped, Cause: "why", ID: "sx7", Event: Event{Message: trigger.Message{Topic: "a"}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decode(b); err == nil && !bytes.Equal(e.encode(), b) {
			t.Errorf("%x decodes and encodes to %x", b, e.encode())
		}
		if d, err := decodeDead(b); err == nil && !bytes.Equal(d.encode(), b) {
			t.Errorf("%x decodes and encodes to %x", b, d.encode())
		}
	})
}
