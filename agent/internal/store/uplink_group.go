package store

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// laneChanges is what a group changes of the lanes; nothing of it holds before the group does.
type laneChanges struct {
	lanes   map[uint64]*Lane  // copies of those that the group has touched
	streams map[uint64]stream // zero: forgotten
	bytes   map[*class]int64
	drops   map[drop]tally
}

// drop is who lost messages, and why.
type drop struct{ application, why string }

type tally struct {
	messages uint64
	bytes    int64
}

func newLaneChanges() laneChanges {
	return laneChanges{lanes: map[uint64]*Lane{}, streams: map[uint64]stream{}, bytes: map[*class]int64{}, drops: map[drop]tally{}}
}

// lane as the group has it; nil where nothing is in it.
func (g *grouping) lane(id uint64) *Lane {
	if l, ok := g.lanes[id]; ok {
		return l
	}
	l, ok := g.s.lanes.all[id]
	if !ok {
		return nil
	}
	c := *l
	g.lanes[id] = &c
	return &c
}

// laneOf a topic. One without a lane gets one, unless there are too many, or some of its messages may be in the shared one.
func (g *grouping) laneOf(application, topic string) *Lane {
	id := laneID(application, topic)
	if l := g.lane(id); l != nil && l.Messages > 0 {
		return l
	}
	if shared := g.lane(sharedLane); isUplink(topic) && (shared != nil && shared.Messages > 0 || len(g.s.lanes.all)+len(g.lanes) >= maxLanes) {
		if shared == nil {
			shared = &Lane{ID: sharedLane, class: g.s.lanes.other}
			g.lanes[sharedLane] = shared
		}
		return shared
	}
	c := g.s.lanes.classOf(application, topic)
	l := &Lane{ID: id, Application: application, Topic: topic, Priority: c.Priority, class: c}
	g.lanes[id] = l
	return l
}

// grow a lane by messages of so many bytes.
func (g *grouping) grow(l *Lane, messages int, bytes int64) {
	l.Messages += messages
	l.Bytes += bytes
	g.bytes[l.class] += bytes
}

// kept is what the group adds to what is never dropped for room.
func (g *grouping) kept() (n int64) {
	for c, bytes := range g.bytes {
		if c.Reject {
			n += bytes
		}
	}
	return n
}

// fits says whether a job's messages find room. Its transaction has been told so already: others took the room since.
func (g *grouping) fits(uplinks []Message) bool {
	more := map[*class]int64{}
	for _, m := range uplinks {
		more[g.s.lanes.classOf(m.Application, m.Topic)] += uplinkSize(m)
	}
	kept := g.kept()
	for c, n := range more {
		if !g.s.lanes.room(c, n, g.bytes[c], kept) {
			return false
		}
		if c.Reject {
			kept += n
		}
	}
	return true
}

// uplinks adds messages to their lanes.
func (g *grouping) uplinks(messages []Message) {
	if len(messages) == 0 {
		return
	}
	changes := make(map[string][]byte, 2*len(messages))
	for _, m := range messages {
		g.id++
		l := g.laneOf(m.Application, m.Topic)
		if isUplink(m.Topic) {
			topic := laneID(m.Application, m.Topic)
			st, ok := g.streams[topic]
			if !ok {
				st = g.s.lanes.streams[topic]
			}
			st = stream{st.sequence + 1, g.id}
			g.streams[topic] = st
			m.Sequence = st.sequence
			key := streamKey(topic)
			changes[string(key)] = seal(key, encodeStream(st))
		}
		key := uplinkKey(l.ID, g.id)
		value := seal(key, encodeMessage(m))
		changes[string(key)] = value
		if l.Messages == 0 {
			l.First = g.id
		}
		l.Last = g.id
		g.grow(l, 1, int64(len(key)+len(value)))
	}
	g.put(sortedRows(changes))
	g.now = messages[len(messages)-1].Stamp
}

// take messages off the front of a lane while next says so, and give what they were.
func (g *grouping) takeFront(l *Lane, next func(id uint64, row []byte) bool) (taken tally, err error) {
	var rows []row
	left := false
	err = guard(func() error {
		return g.table.scan(lanePrefix(l.ID), uplinkKey(l.ID, l.First-1), func(k, row_ []byte) (bool, error) {
			_, id, err := parseUplinkKey(k)
			if err != nil {
				return false, err
			}
			if !next(id, row_) {
				l.First, left = id, true
				return false, nil
			}
			rows = append(rows, row{key: string(k)})
			taken.messages++
			taken.bytes += int64(len(k) + len(row_))
			return true, nil
		})
	})
	if err != nil {
		return tally{}, err
	}
	if !left { // also when rows were lost to damage: nothing may be counted for ever
		g.grow(l, -l.Messages, -l.Bytes)
	} else {
		g.grow(l, -int(taken.messages), -taken.bytes)
	}
	g.put(rows)
	return taken, nil
}

// cut removes what was delivered of a lane.
func (g *grouping) cut(id, upto uint64) error {
	l := g.lane(id)
	if l == nil || l.Messages == 0 || l.First > upto {
		return nil
	}
	_, err := g.takeFront(l, func(id uint64, _ []byte) bool { return id <= upto })
	return err
}

// cutDelivered removes all that was delivered. No job is to blame for an error: the rows stay.
func (g *grouping) cutDelivered() {
	for lane, upto := range g.cuts {
		if err := g.cut(lane, upto); err != nil {
			delete(g.cuts, lane)
			g.s.log.Error("remove delivered messages", "error", g.s.wrap(err))
		}
	}
}

// tidyUplinks after a group's jobs.
func (g *grouping) tidyUplinks() {
	err := g.trimUplinks()
	if err == nil {
		g.forgetStreams()
		return
	}
	g.s.log.Error("tidy outbox to the fleet", "error", g.s.wrap(err))
}

// each lane with something in it, as the group has it. None may be changed meanwhile.
func (g *grouping) each(do func(*Lane)) {
	for id, l := range g.s.lanes.all {
		if _, touched := g.lanes[id]; !touched {
			do(l)
		}
	}
	for _, l := range g.lanes {
		if l.Messages > 0 {
			do(l)
		}
	}
}

// shed messages of lanes that may lose some until so many bytes are gone: those of the lowest priority first, of those the oldest.
func (g *grouping) shed(bytes int64, why string, may func(*Lane) bool) (freed int64, err error) {
	const run = 32 // oldest first among lanes holds to within so many
	for freed < bytes {
		var victim, second *Lane
		order := func(a, b *Lane) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.First, b.First))
		}
		g.each(func(l *Lane) {
			switch {
			case !may(l):
			case victim == nil || order(l, victim) < 0:
				victim, second = l, victim
			case second == nil || order(l, second) < 0:
				second = l
			}
		})
		if victim == nil {
			return freed, nil
		}
		before := uint64(1<<64 - 1)
		if second != nil && second.Priority == victim.Priority {
			before = second.First
		}
		n := 0
		taken, err := g.lose(g.lane(victim.ID), why, func(id uint64, row []byte) bool {
			if bytes <= freed || id >= before && n >= run {
				return false
			}
			n++
			freed += int64(len(row) + uplinkKeySize)
			return true
		})
		if err != nil || taken.messages == 0 {
			return freed, err
		}
	}
	return freed, nil
}

// lose messages off the front of a lane, and count them to who published them.
func (g *grouping) lose(l *Lane, why string, next func(id uint64, row []byte) bool) (tally, error) {
	whose := map[drop]tally{}
	taken, err := g.takeFront(l, func(id uint64, row []byte) bool {
		if !next(id, row) {
			return false
		}
		d := drop{l.Application, why}
		if l.ID == sharedLane {
			if m, err := readUplink(uplinkKey(l.ID, id), row); err == nil {
				d.application = m.Application
			}
		}
		w := whose[d]
		whose[d] = tally{w.messages + 1, w.bytes + int64(len(row)+uplinkKeySize)}
		return true
	})
	for d, w := range whose {
		if err == nil {
			g.drops[d] = tally{g.drops[d].messages + w.messages, g.drops[d].bytes + w.bytes}
		}
	}
	return taken, err
}

// expire what is too old, where that can be told.
func (g *grouping) expire(now Stamp) error {
	var all []*Lane
	g.each(func(l *Lane) { all = append(all, l) })
	for _, l := range all {
		limit := cmp.Or(l.class.Age, g.s.lanes.board.Age)
		if limit == 0 {
			continue
		}
		_, err := g.lose(g.lane(l.ID), DroppedAge, func(id uint64, row []byte) bool {
			m, err := readUplink(uplinkKey(l.ID, id), row)
			if err != nil {
				return true
			}
			age, ok := now.Since(m.Stamp)
			return ok && age > limit
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// trimUplinks drops what is over a limit.
func (g *grouping) trimUplinks() error {
	if len(g.bytes) == 0 {
		return nil
	}
	const lookEvery = time.Minute // for old ones: a scan of each lane's front
	if d, ok := g.now.Since(g.s.expired); g.now != (Stamp{}) && (!ok || d >= lookEvery) {
		g.s.expired = g.now
		if err := g.expire(g.now); err != nil {
			return err
		}
	}
	for c := range maps.Clone(g.bytes) {
		if over := c.bytes + g.bytes[c] - c.Bytes; c.Bytes > 0 && over > 0 && !c.Reject {
			if _, err := g.shed(over, DroppedFull, func(l *Lane) bool { return l.class == c }); err != nil {
				return err
			}
		}
	}
	over := g.s.lanes.bytes - g.s.lanes.board.Bytes
	for _, n := range g.bytes {
		over += n
	}
	if over <= 0 {
		return nil
	}
	_, err := g.shed(over, DroppedFull, func(l *Lane) bool { return !l.class.Reject })
	return err
}

// forgetStreams of the topics that were used longest ago, when there are too many.
func (g *grouping) forgetStreams() {
	if len(g.s.lanes.streams)+len(g.streams) <= maxStreams {
		return
	}
	all := maps.Clone(g.s.lanes.streams)
	maps.Copy(all, g.streams)
	oldest := slices.SortedFunc(maps.Keys(all), func(a, b uint64) int { return cmp.Compare(all[a].id, all[b].id) })
	changes := map[string][]byte{}
	for _, topic := range oldest[:len(all)/2] {
		g.streams[topic] = stream{}
		changes[string(streamKey(topic))] = nil
	}
	g.put(sortedRows(changes))
}

// committedLanes takes over what a group has changed. s.mu is held.
func (s *Store) committedLanes(g *grouping) {
	for id, l := range g.lanes {
		if l.Messages > 0 {
			s.lanes.all[id] = l
		} else {
			delete(s.lanes.all, id)
		}
	}
	for c, n := range g.bytes {
		s.lanes.count(c, n)
	}
	for topic, st := range g.streams {
		if st == (stream{}) {
			delete(s.lanes.streams, topic)
		} else {
			s.lanes.streams[topic] = st
		}
	}
	for lane, upto := range g.cuts {
		if s.cuts[lane] == upto {
			delete(s.cuts, lane)
		}
	}
	for d, n := range g.drops {
		s.uplinkDrops[d.why] += n.messages
		s.say(d, n, time.Now())
	}
}

// announced is what was said of drops, and what was not yet.
type announced struct {
	at    time.Time
	since tally
}

// say that messages were dropped, once a minute: a full outbox drops with each commit. s.mu is held.
func (s *Store) say(d drop, n tally, now time.Time) {
	t := s.said[d]
	t.since = tally{t.since.messages + n.messages, t.since.bytes + n.bytes}
	if t.at.IsZero() || now.Sub(t.at) >= time.Minute {
		s.log.Warn("messages that waited to leave the board were dropped", "application", d.application, "why", d.why, "messages", t.since.messages, "bytes", t.since.bytes)
		t = announced{at: now}
	}
	s.said[d] = t
}
