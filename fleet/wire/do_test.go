package wire

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// Whatever a payload holds, what is shown of it fits an answer, and says when it is not all.
func TestAPayloadThatIsShownFitsAnAnswerAndSaysWhenItIsCut(t *testing.T) {
	for name, payload := range map[string][]byte{
		"nothing":        nil,
		"text":           []byte("28.5 °C"),
		"bytes":          {0xff, 0, 1},
		"long text":      []byte(strings.Repeat("ü", MaxMessageBytes)),
		"text to escape": bytes.Repeat([]byte{1}, MaxShownBytes),
		"long bytes":     bytes.Repeat([]byte{0xff}, MaxMessageBytes),
		"exactly":        bytes.Repeat([]byte("x"), MaxShownBytes),
	} {
		e := DeadEvent{Event: "e1", At: when, Trigger: strings.Repeat("\x01", MaxTopicBytes), Topic: strings.Repeat("\x01", MaxTopicBytes), Cause: strings.Repeat("\x01", MaxErrorBytes)}
		e.Show(payload)
		b, err := MarshalDeadEvent(e)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := UnmarshalDeadEvent(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		shown := slices.Concat([]byte(again.Text), again.Payload)
		if !bytes.HasPrefix(payload, shown) || again.Bytes != len(payload) || again.Cut != (len(shown) < len(payload)) || len(payload) > 0 && len(shown) == 0 {
			t.Errorf("%s: of %d bytes %d are shown, cut: %t", name, len(payload), len(shown), again.Cut)
		}
		if _, err := MarshalDone(Done{ID: "r1", Result: b}); err != nil {
			t.Errorf("%s: in an answer: %v", name, err)
		}
	}
}

// FuzzShow: any payload.
func FuzzShow(f *testing.F) {
	f.Add([]byte("97"), 1)
	f.Add([]byte{0xc3}, MaxShownBytes)
	f.Fuzz(func(t *testing.T, unit []byte, times int) {
		payload := bytes.Repeat(unit, max(0, times%(200<<10))/max(1, len(unit)))
		e := DeadEvent{Event: "e1", At: when}
		e.Show(payload)
		if _, err := MarshalDeadEvent(e); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzEventName(f *testing.F) {
	f.Add("e17")
	f.Add("e18446744073709551616")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseEvent(s); err == nil && EventName(n) != s {
			t.Fatalf("%q is also %q", s, EventName(n))
		}
	})
}

func TestAnAnswerOfMoreThanItMayHoldIsNone(t *testing.T) {
	page := Events{}
	for i := range MaxEventsPage + 1 {
		page.Dead = append(page.Dead, DeadEvent{Event: EventName(uint64(i)), At: when})
	}
	if _, err := MarshalEvents(page); err == nil {
		t.Error("a page with too many letters passes")
	}
	b, err := canonical(&page)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := UnmarshalEvents(b); err == nil {
		t.Error("a page with too many letters is read")
	}
	do := Do{Fleet: "green", Device: "pi-1", Session: "b1c2", ID: "r1", Operation: EventsList, Deadline: when, Arguments: map[string]string{}}
	for i := range MaxArguments + 1 {
		do.Arguments[EventName(uint64(i))] = ""
	}
	if _, err := MarshalDo(do); err == nil {
		t.Error("too many arguments pass")
	}
	do.Arguments = map[string]string{"event": strings.Repeat("x", MaxLabelBytes+1)}
	if _, err := MarshalDo(do); err == nil {
		t.Error("a long argument passes")
	}
	hello := Hello{Version: Version, Session: "s", Agent: "a", Arch: "amd64", Boot: "b", Operations: make([]Operation, MaxOperations+1)}
	for i := range hello.Operations {
		hello.Operations[i] = "x"
	}
	if _, err := MarshalHello(hello); err == nil {
		t.Error("too many operations pass")
	}
}
