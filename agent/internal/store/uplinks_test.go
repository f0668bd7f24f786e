package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// send publishes to the fleet in a transaction of its own.
func send(s *Store, app, topic, payload string, stamp Stamp) error {
	tx := s.Begin(app).Stamp(func() Stamp { return stamp })
	if err := tx.Publish("uplink:"+topic, []byte(payload), 1, false); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// waiting is what waits of each topic, in its order, and its sequences.
func waiting(t testing.TB, s *Store) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, l := range s.Lanes() {
		messages, upto, err := s.Uplinks(l.ID, 0, 1<<20, 1<<30)
		must(t, err)
		if len(messages) == 0 || messages[0].ID < l.First || upto != l.Last || len(messages) > l.Messages {
			t.Errorf("lane %+v has %d messages up to %d", l, len(messages), upto)
		}
		for _, m := range messages {
			topic := m.Application + " " + strings.TrimPrefix(m.Topic, "uplink:")
			out[topic] = append(out[topic], fmt.Sprintf("%d:%s", m.Sequence, m.Payload))
		}
	}
	return out
}

func bytesOf(t testing.TB, s *Store) (rows int64) {
	t.Helper()
	must(t, s.read(func(rs table) error {
		return rs.scan([]byte{kindUplink}, nil, func(k, v []byte) (bool, error) {
			rows += int64(len(k) + len(v))
			return true, nil
		})
	}))
	return rows
}

// Random publishing, delivering, dropping, rule changes and restarts, against a model of lists: each topic keeps its order, sequences go on
// without gaps but for what was dropped and counted, and no limit is passed.
func TestNothingLeavesTheOutboxButWhatWasDeliveredOrDroppedAndCounted(t *testing.T) {
	smallJournal(t)
	r, dir := seed(t), t.TempDir()
	s := open(t, dir)
	const limit = 20_000
	rules := []UplinkRule{{Filter: "alarm/#", Priority: High, Reject: true, Bytes: 3000}, {Filter: "low/#", Priority: Low}, {Filter: "few/#", Bytes: 1500}}
	configure := func() {
		s.SetUplinkLimits(UplinkLimits{Bytes: limit})
		s.SetUplinkRules("app", rules)
	}
	configure()
	topics := []string{"alarm/a", "alarm/b", "low/a", "low/b", "few/a", "few/b", "x", "y/z"}
	model, next := map[string][]string{}, map[string]int{}
	var refused, dropped, counted uint64
	for round := range 3000 {
		switch r.IntN(12) {
		case 0:
			lanes := s.Lanes()
			if len(lanes) == 0 {
				continue
			}
			l := lanes[r.IntN(len(lanes))]
			m, upto, err := s.Uplinks(l.ID, 0, 1+r.IntN(20), 2000)
			must(t, err)
			must(t, s.DeliveredUplinks(map[uint64]uint64{l.ID: upto}))
			topic := strings.TrimPrefix(l.Topic, "uplink:")
			model[topic] = model[topic][len(m):]
		case 1:
			if r.IntN(10) == 0 {
				freed, err := s.ShedOutbox(Priority(r.IntN(2)), int64(r.IntN(3000)))
				must(t, err)
				if freed < 0 {
					t.Fatalf("shed %d bytes", freed)
				}
			}
		case 2:
			if r.IntN(10) == 0 {
				for _, n := range []uint64{s.UplinkStats().Dropped[DroppedFull], s.UplinkStats().Dropped[DroppedDisk]} {
					counted += n
				}
				must(t, s.Close())
				s = open(t, dir)
				configure()
			}
		case 3:
			if r.IntN(10) == 0 {
				configure()
			}
		default:
			topic := topics[r.IntN(len(topics))]
			payload := strings.Repeat("x", r.IntN(300))
			err := send(s, "app", topic, payload, Stamp{})
			if errors.Is(err, ErrFull) && strings.HasPrefix(topic, "alarm/") {
				refused++
				continue
			}
			must(t, err)
			next[topic]++
			model[topic] = append(model[topic], fmt.Sprintf("%d:%s", next[topic], payload))
		}
		got := waiting(t, s)
		total := map[string]int64{}
		for _, topic := range topics {
			have := got["app "+topic]
			gone := len(model[topic]) - len(have)
			if gone < 0 || !slices.Equal(have, model[topic][gone:]) || gone > 0 && strings.HasPrefix(topic, "alarm/") {
				t.Fatalf("round %d: %s has %.300q, want the end of %.300q", round, topic, have, model[topic])
			}
			dropped += uint64(gone)
			model[topic] = have
		}
		if round%10 == 0 {
			must(t, s.Put(map[string][]byte{"a/b": nil})) // what was delivered is off the disk
			for _, l := range s.Lanes() {
				total[l.class.Filter] += l.Bytes
			}
			if n, st := bytesOf(t, s), s.UplinkStats(); n > limit || n != st.Bytes || total["alarm/#"] > 3000 || total["few/#"] > 1500 {
				t.Fatalf("round %d: %d bytes wait, counted %d, by rule %v", round, n, st.Bytes, total)
			}
		}
	}
	st := s.UplinkStats()
	counted += st.Dropped[DroppedFull] + st.Dropped[DroppedDisk]
	if dropped == 0 || refused == 0 || counted != dropped {
		t.Errorf("%d dropped, %d counted, %d refused", dropped, counted, refused)
	}
	mustCheck(t, s)
}

func TestOldMessagesAreDroppedWhereTheirAgeIsKnown(t *testing.T) {
	s := newStore(t)
	s.SetUplinkLimits(UplinkLimits{Age: time.Hour})
	s.SetUplinkRules("app", []UplinkRule{{Filter: "kept", Age: 100 * time.Hour}})
	boot1, boot2 := [16]byte{1}, [16]byte{2}
	wall := time.UnixMilli(1_800_000_000_000)
	for topic, stamp := range map[string]Stamp{
		"old by the same boot":           {At: wall.Add(5 * time.Hour), Clock: 2, Boot: boot2, Up: time.Minute},
		"old by the wall clock":          {At: wall, Boot: boot1},
		"young":                          {At: wall.Add(4 * time.Hour), Boot: [16]byte{3}},
		"of a clock that was not sure":   {At: wall.Add(-10000 * time.Hour), Clock: 1, Boot: [16]byte{4}},
		"of nobody knows when":           {},
		"young by the same boot":         {At: wall.Add(-100 * time.Hour), Clock: 1, Boot: boot2, Up: 90 * time.Minute},
		"of a clock that showed nothing": {At: time.UnixMilli(0), Clock: 2, Boot: [16]byte{5}},
		"kept":                           {At: wall, Boot: boot1},
	} {
		must(t, send(s, "app", topic, "", stamp))
	}
	must(t, s.ExpireUplinks(Stamp{At: wall.Add(4 * time.Hour), Boot: boot2, Up: 2 * time.Hour}))
	got := slices.Sorted(maps.Keys(waiting(t, s)))
	want := []string{"app kept", "app of a clock that showed nothing", "app of a clock that was not sure", "app of nobody knows when", "app young", "app young by the same boot"}
	if !slices.Equal(got, want) || s.UplinkStats().Dropped[DroppedAge] != 2 {
		t.Errorf("left: %q, dropped %v", got, s.UplinkStats().Dropped)
	}
}

func TestASequenceGoesOnWithoutGapsOverRestartsAndEmptyLanes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := s.OutboxID()
	for i := range 3 {
		must(t, send(s, "app", "a", "x", Stamp{}))
		must(t, send(s, "other", "a", "x", Stamp{}))
		l := s.Lanes()
		if got := waiting(t, s); len(l) != 2 || fmt.Sprint(got) != fmt.Sprintf("map[app a:[%d:x] other a:[%[1]d:x]]", i+1) {
			t.Fatalf("%v", got)
		}
		must(t, s.DeliveredUplinks(map[uint64]uint64{l[0].ID: l[0].Last, l[1].ID: l[1].Last}))
		must(t, s.Close())
		if s = open(t, dir); len(s.Lanes()) != 0 || s.OutboxID() != id {
			t.Fatalf("%+v wait after a restart, of outbox %x, was %x", s.Lanes(), s.OutboxID(), id)
		}
	}
	if other := newStore(t); other.OutboxID() == id {
		t.Error("another database has the same outbox id")
	}
}

// A million topics cost no more than a few thousand do, and keep their order all the same.
func TestTopicsWithoutNumberAreBoundedInMemory(t *testing.T) {
	s := newStore(t)
	const topics = maxLanes + 500
	for round := range 3 {
		for i := 0; i < topics; i += 100 {
			tx := s.Begin("app")
			for j := i; j < min(i+100, topics); j++ {
				must(t, tx.Publish(fmt.Sprint("uplink:", j), []byte{byte(round)}, 1, false))
			}
			must(t, tx.Commit(ctx))
		}
	}
	got := waiting(t, s)
	if len(s.Lanes()) > maxLanes+1 || len(got) != topics || len(s.lanes.streams) > maxStreams {
		t.Fatalf("%d lanes, %d topics, %d sequences", len(s.Lanes()), len(got), len(s.lanes.streams))
	}
	for topic, messages := range got {
		if !slices.Equal(messages, []string{"1:\x00", "2:\x01", "3:\x02"}) {
			t.Fatalf("%s: %q", topic, messages)
		}
	}
	if st := s.UplinkStats(); st.Messages != 3*topics || st.Bytes != bytesOf(t, s) {
		t.Errorf("%+v, %d bytes", st, bytesOf(t, s))
	}
}

func TestMessagesToTheFleetFromBeforeTheyHadLanesAreTakenAlong(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, send(s, "app", "new", "x", Stamp{}))
	key := outboxKey(1000)
	sealed := seal(key, encodeMessage(Message{Application: "app", Topic: "uplink:old", Payload: []byte("y")}))
	must(t, s.Close())
	s = open(t, dir)
	must(t, s.update(func(tx *bolt.Tx) error {
		return putRows(tx, []row{{string(key), sealed}}, mark{s.mark.salt, s.mark.seq, 1000})
	}))
	must(t, s.Close())
	s = open(t, dir)
	if got := fmt.Sprint(waiting(t, s)); got != "map[app new:[1:x] app old:[0:y]]" {
		t.Error(got)
	}
	if m, err := s.Outbox(0, 10); err != nil || len(m) != 0 {
		t.Errorf("%v, %v are left to the board's bus", m, err)
	}
	mustCheck(t, s)
}

func FuzzStream(f *testing.F) {
	f.Add(streamKey(7), seal(streamKey(7), encodeStream(stream{1, 2})))
	f.Fuzz(func(t *testing.T, key, row []byte) {
		topic, st, err := readStream(key, row)
		if err == nil && (!bytes.Equal(key[1:], streamKey(topic)[1:]) || !bytes.Equal(seal(key, encodeStream(st)), row)) {
			t.Fatalf("%x %x reads as %d %+v", key, row, topic, st)
		}
	})
}
