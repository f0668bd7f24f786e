package inbox

import (
	"errors"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// An application that is removed leaves a full inbox behind: others' messages are accepted, and its own are there when it is back.
func TestWhatWaitsForATriggerThatIsGoneStaysAndHoldsUpNobody(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenIn(t, dir)
	limits := Limits{Bytes: 4 << 10}
	b := open(t, s, limits)
	b.Serve([]string{"old/in", "new/in"})
	large := strings.Repeat("x", 1000)
	n := 0
	for ; ; n++ {
		err := accept(t, b, trigger.Ends{}, event(b, "old/in", large))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := accept(t, b, trigger.Ends{}, event(b, "new/in", large)); !errors.Is(err, ErrFull) {
		t.Errorf("into a full inbox: %v", err)
	}
	b.Serve([]string{"new/in"})
	if err := accept(t, b, trigger.Ends{}, event(b, "new/in", large)); err != nil {
		t.Errorf("what is gone holds others up: %v", err)
	}
	if c := b.Counts(); c.Left != n || c.Waiting != n+1 {
		t.Errorf("counts %+v, want %d left", c, n)
	}
	b.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, storetest.OpenIn(t, dir), limits)
	b.Serve([]string{"new/in"})
	if c := b.Counts(); c.Left != n || c.Waiting != n+1 {
		t.Errorf("after a start: counts %+v, want %d left", c, n)
	}
	b.Serve([]string{"old/in", "new/in"})
	if got := waiting(t, b, "old/in"); len(got) != n {
		t.Errorf("%d wait for what is back, want %d", len(got), n)
	}
	if err := accept(t, b, trigger.Ends{}, event(b, "new/in", large)); !errors.Is(err, ErrFull) {
		t.Errorf("it is back, and the inbox is as full as before: %v", err)
	}
}

// Nor does it grow without end: what is left behind counts beyond the limit itself.
func TestWhatIsLeftBehindIsBounded(t *testing.T) {
	b := open(t, storetest.Open(t), Limits{Bytes: 4 << 10})
	large := strings.Repeat("x", 1000)
	for round := range 10 {
		b.Serve([]string{"now/in"})
		for {
			err := accept(t, b, trigger.Ends{}, event(b, "now/in", large))
			if errors.Is(err, ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		b.Serve([]string{"other/in"}) // now/in is gone
		if c := b.Counts(); c.WaitingBytes > 2*4<<10 {
			t.Fatalf("round %d: %+v", round, c)
		}
	}
}

func TestAnApplicationIsForgottenWithAllThatItHas(t *testing.T) {
	b := open(t, storetest.Open(t), Limits{})
	names := []string{}
	for _, of := range []string{"app/in", "apple/in", "ap/in"} {
		for range scanBatch + 1 {
			if err := accept(t, b, trigger.Ends{}, event(b, of, "x")); err != nil {
				t.Fatal(err)
			}
		}
		d := Dead{Event: event(b, of, "x"), ID: "id-1"}
		if err := b.Bury(d, false, trigger.Ends{}); err != nil {
			t.Fatal(err)
		}
		b.Noted(of)
		names = append(names, Name(d.Number))
	}
	b.Serve([]string{"apple/in", "ap/in"})
	n, dead, err := b.ForgetApplication("app")
	if err != nil || n != scanBatch+1 || dead != 1 {
		t.Errorf("forgot %d and %d, %v", n, dead, err)
	}
	if c := b.Counts(); c.Waiting != 2*(scanBatch+1) || c.Left != 0 || c.Dead != 2 {
		t.Errorf("counts %+v", c)
	}
	if _, err := b.Find(names[0]); !errors.Is(err, ErrUnknown) {
		t.Errorf("its dead letter: %v", err)
	}
	if b.Seen("app/in", "id-1") || !b.Seen("apple/in", "id-1") {
		t.Error("ids of another are forgotten, or its own are not")
	}
	if n, dead, err := b.ForgetApplication("app"); n != 0 || dead != 0 || err != nil {
		t.Errorf("again: %d and %d, %v", n, dead, err)
	}
}
