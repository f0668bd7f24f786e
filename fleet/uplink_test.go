package fleet_test

import (
	"fmt"
	"strings"
	"testing"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/wire"
)

func uplink(id, sequence uint64, topic string) wire.Uplink {
	return wire.Uplink{ID: id, Sequence: sequence, At: 1000, Clock: wire.ClockSynced, Application: "greenhouse", Topic: topic, Payload: fmt.Append(nil, id)}
}

// came tells what the server keeps: "topic payload", with "+n" where n were lost before it.
func came(t *testing.T, s server) string {
	t.Helper()
	var out []string
	for after := uint64(0); ; {
		u, err := s.client().Uplinks(t.Context(), after, "board")
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Messages) == 0 {
			return strings.Join(out, ", ")
		}
		for _, m := range u.Messages {
			after = m.Sequence
			text := m.Topic + " " + string(m.Payload)
			if m.Missing > 0 {
				text += fmt.Sprint(" +", m.Missing)
			}
			out = append(out, text)
		}
	}
}

func TestUplinksAreKeptOnceAndWhatWasLostOnTheBoardIsSeen(t *testing.T) {
	s := start(t, fleet.Config{MaxUplinks: 6})
	found(t, s)
	b := connect(t, s, "board", nil)
	send := func(outbox uint64, messages ...wire.Uplink) {
		t.Helper()
		p, err := wire.MarshalData(wire.Data{Outbox: outbox, Messages: messages})
		if err != nil {
			t.Fatal(err)
		}
		must(t, b.c.Publish(topic("board", wire.ChannelData), 1, false, p))
	}
	send(7, uplink(1, 1, "a"), uplink(2, 2, "a"))
	send(7, uplink(1, 1, "a"), uplink(2, 2, "a"), uplink(4, 3, "a")) // sent again, in another batch
	send(7, uplink(3, 1, "b"))                                       // an older one of another topic, which waited behind
	send(7, uplink(9, 6, "a"))                                       // two were dropped on the board
	send(7, uplink(4, 3, "a"))
	if got := came(t, s); got != "a 1, a 2, a 4, b 3, a 9 +2" {
		t.Errorf("came: %s", got)
	}
	streams, err := s.client().Streams(t.Context(), "board")
	if got := fmt.Sprint(streams.Streams); err != nil || got != "[{greenhouse a 6 2} {greenhouse b 1 0}]" {
		t.Errorf("streams %s, %v", got, err)
	}
	send(7, uplink(12, 1, "a")) // the board had forgotten the topic, and counts anew
	send(8, uplink(1, 1, "a"))  // the board was set up anew
	send(8, uplink(1, 1, "a"))
	send(8, uplink(5, 4, "c"))
	if got := came(t, s); got != "a 4, b 3, a 9 +2, a 12, a 1, c 5 +3" {
		t.Errorf("came: %s", got)
	}
	streams, err = s.client().Streams(t.Context(), "board")
	if got := fmt.Sprint(streams.Streams); err != nil || got != "[{greenhouse c 4 3} {greenhouse a 1 0}]" {
		t.Errorf("streams %s, %v", got, err)
	}
}
