package store

import (
	"maps"
	"slices"
	"time"
)

// run is the committer. One goroutine drains what waits into groups, again and again.
func (s *Store) run() {
	defer close(s.stopped)
	timer := time.NewTimer(0)
	if !timer.Stop() {
		<-timer.C
	}
	defer timer.Stop()
	var set time.Time
	for {
		closing := false
		select {
		case <-s.wake:
		case <-timer.C:
			set = time.Time{}
		case <-s.quit:
			closing = true
		}
		for flush := closing; ; flush = false {
			w, next := s.take(time.Now(), closing, flush)
			if len(w.group) == 0 && !w.flush {
				if !next.IsZero() && (set.IsZero() || next.Before(set)) {
					timer.Reset(time.Until(next))
					set = next
				}
				break
			}
			s.write(w)
		}
		if closing {
			if s.over.Load() != nil {
				if err := s.fold(); err != nil {
					s.log.Warn("close store", "error", err) // the journal has it
				}
			}
			return
		}
	}
}

// work of one write.
type work struct {
	group     []*job
	delivered []uint64          // rows of the outbox to remove
	cuts      map[uint64]uint64 // of messages to the fleet: by lane, up to which id
	flush     bool              // what was postponed is due
}

// take what the next write is of; next is when to look again where it is of nothing.
func (s *Store) take(now time.Time, closing, flush bool) (w work, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if closing || s.ready(now) {
		w.group = s.takeGroup()
	}
	w.delivered = slices.Sorted(maps.Keys(s.delivered))
	w.cuts = maps.Clone(s.cuts)
	if len(w.delivered)+len(w.cuts)+len(s.lazy) > 0 {
		if s.lazyDue.IsZero() {
			s.lazyDue = now.Add(s.lazyDelay)
		}
		if w.flush = flush || !now.Before(s.lazyDue); w.flush {
			s.lazyDue = time.Time{}
		}
	} else {
		s.lazyDue = time.Time{} // another group took it along
	}
	next = s.lazyDue
	if len(s.queue) > 0 && (next.IsZero() || s.batchDue.Before(next)) {
		next = s.batchDue
	}
	return w, next
}

// takeGroup off the queue. s.mu is held.
func (s *Store) takeGroup() (group []*job) {
	bytes, n := 0, 0
	for _, j := range s.queue {
		if len(group) == maxGroup || len(group) > 0 && bytes+j.size > maxGroupBytes {
			break
		}
		n++
		if j.withdrawn {
			close(j.done) // its caller has gone; readers that saw it wait for this
			continue
		}
		j.inGroup = true
		bytes += j.size
		group = append(group, j)
	}
	s.queue = slices.Delete(s.queue, 0, n)
	s.urgent, s.batchDue = len(s.queue) > 0, time.Time{}
	return group
}

// write a group, with what was postponed before it. A job whose check fails is left out. A failed write fails all others.
func (s *Store) write(w work) {
	s.ruling.Lock()
	defer s.ruling.Unlock()
	g := &grouping{s: s, outbox: s.outboxBytes.Load(), id: s.mark.id, changed: map[string][]byte{}, refused: map[*job]error{}, usage: usage{},
		laneChanges: newLaneChanges(), cuts: w.cuts}
	durable := false
	err := s.read(func(t table) error {
		g.table = t
		g.cutDelivered() // before the jobs, so that they find the room
		durable = g.apply(w.group) || w.flush
		if durable {
			g.tidy(w.delivered)
		}
		return nil
	})
	if err != nil {
		for _, j := range w.group {
			j.accepted = false
			s.finish(j, err)
		}
		return
	}
	for j, err := range g.refused {
		s.finish(j, s.wrap(err))
	}
	if durable {
		if err = s.persist(g); err != nil && len(g.accepted) == 0 {
			s.log.Error("write what was postponed", "error", err)
		}
	} else {
		s.postpone(g)
	}
	if err == nil {
		s.committed(g)
	}
	if err == nil && g.fold {
		if e := s.fold(); e != nil { // the group is in the journal: who was told otherwise would do it again
			s.log.Warn("make room in the database", "error", e)
		}
	}
	s.tell()
	for _, j := range g.accepted {
		j.accepted = err == nil
		s.finish(j, err)
	}
}

// committed takes over the facts of a group.
func (s *Store) committed(g *grouping) {
	s.outboxBytes.Store(g.outbox)
	s.dropped.Add(g.dropped)
	s.mu.Lock()
	s.usage.add(g.usage)
	s.committedLanes(g)
	s.mu.Unlock()
	s.forget(g.gone)
}

// grouping is a group on its way.
type grouping struct {
	s        *Store
	table    table // with what the accepted write
	changed  map[string][]byte
	id       uint64 // newest outbox id
	accepted []*job
	refused  map[*job]error
	usage    usage    // that the accepted add
	outbox   int64    // bytes in the outbox
	gone     []uint64 // delivered messages that are removed
	dropped  uint64
	laneChanges
	cuts map[uint64]uint64 // up to where lanes were delivered
	fold bool              // at once: the room in the database is wanted
	now  Stamp             // of the newest message to the fleet
}

// apply the jobs that can be; durable when one of them wants it so.
func (g *grouping) apply(group []*job) (durable bool) {
	for _, j := range group {
		var taken []row
		var size int64
		err := guard(func() error {
			if j.after != nil && !j.after.accepted {
				return ErrEarly
			}
			if j.check != nil {
				if err := j.check(g.table); err != nil {
					return err
				}
			}
			for k, v := range j.writes {
				if err := checkRow(k, v); err != nil {
					return err
				}
			}
			var err error
			if taken, size, err = g.find(j.taken); err != nil {
				return err
			}
			if !g.fits(j.uplinks) {
				return ErrConflict
			}
			if j.with != nil {
				if err := j.with(g); err != nil {
					return err
				}
			}
			return g.accept(j)
		})
		if err != nil {
			g.refused[j] = err
			continue
		}
		g.drop(taken, size)
		g.write(j)
		j.accepted, j.after = true, nil // a chain of all that ever followed would be kept
		g.accepted = append(g.accepted, j)
		durable = durable || j.durability != Memory
	}
	g.tidyUplinks()
	return durable || g.s.lazyBytes > maxLazy
}

// put rows, sorted by key, over the table.
func (g *grouping) put(rows []row) {
	if len(rows) == 0 {
		return
	}
	g.table.over = g.table.over.push(rows)
	for _, r := range rows {
		g.changed[r.key] = r.value
	}
}

func (g *grouping) write(j *job) {
	rows := make([]row, 0, len(j.writes))
	for _, k := range slices.Sorted(maps.Keys(j.writes)) {
		r := row{key: k}
		if v := j.writes[k]; v != nil {
			r.value = seal([]byte(k), v)
		}
		rows = append(rows, r)
	}
	g.put(rows)
	rows = nil
	for _, m := range j.messages {
		g.id++
		key := outboxKey(g.id)
		value := seal(key, encodeMessage(m))
		rows = append(rows, row{string(key), value})
		g.outbox += int64(len(value))
	}
	g.put(rows)
	g.uplinks(j.uplinks)
}

// find the messages that are in the outbox: as rows to drop, and their size there.
func (g *grouping) find(ids []uint64) (rows []row, size int64, err error) {
	err = guard(func() error {
		for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
			key := outboxKey(id)
			if old := g.table.get(key); old != nil {
				size += int64(len(old))
				rows = append(rows, row{key: string(key)})
			}
		}
		return nil
	})
	return rows, size, err
}

func (g *grouping) drop(rows []row, size int64) {
	g.outbox -= size
	g.put(rows)
}

func (g *grouping) remove(ids []uint64) error {
	rows, size, err := g.find(ids)
	if err == nil {
		g.drop(rows, size)
	}
	return err
}

// tidy removes delivered messages, and drops the oldest while the outbox is over its limit. No job is to blame for an error:
// the rows stay.
func (g *grouping) tidy(delivered []uint64) {
	err := g.remove(delivered)
	if err == nil {
		g.gone = delivered
		err = g.trim()
	}
	if err != nil {
		g.s.log.Error("tidy outbox", "error", g.s.wrap(err))
	}
}

func (g *grouping) trim() error {
	if g.outbox <= g.s.outboxLimit {
		return nil
	}
	var drop []uint64
	left := g.outbox
	err := guard(func() error {
		return g.table.scan([]byte{kindOutbox}, nil, func(k, row []byte) (bool, error) {
			id, err := outboxID(k)
			drop = append(drop, id)
			left -= int64(len(row))
			return left > g.s.outboxLimit, err
		})
	})
	if err != nil {
		return err
	}
	if err := g.remove(drop); err != nil {
		return err
	}
	g.dropped += uint64(len(drop))
	return nil
}
