package timer

import (
	"context"
	"encoding/binary"
	"log/slog"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Memory keeps, over restarts, up to which time the firings of a timer are accounted for; *store.Store is one.
type Memory interface {
	Get(key string) (value []byte, ok bool, err error)
	Put(changes map[string][]byte) error
}

// Area is where a Memory has what timers remember, by their IDs.
const Area = "timer/"

// memory of one timer. A timer that skips what it missed has none, and costs no write.
type memory struct {
	store Memory // nil: none
	key   string
	of    string // the schedule: what was missed of another is not owed
	log   *slog.Logger
}

func (s *Source) memoryOf(t Timer) memory {
	m := memory{key: Area + t.ID, of: t.Every.String() + " " + t.Cron + " " + t.Timezone, log: s.log.With("trigger", t.ID)}
	if t.Missed == MissedOnce || t.Missed == MissedAll {
		m.store = s.cfg.Memory
	}
	return m
}

// row: nanoseconds since 1970 in eight bytes, big endian, then the schedule.
func (m memory) row(t time.Time) trigger.Row {
	return trigger.Row{Key: m.key, Value: append(binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano())), m.of...)}
}

func (m memory) read() (t time.Time, ok bool) {
	if m.store == nil {
		return t, false
	}
	b, ok, err := m.store.Get(m.key)
	if err != nil {
		m.log.Error("when a timer fired last can't be read", "cause", err)
	}
	if err != nil || !ok || len(b) < 8 || string(b[8:]) != m.of {
		return t, false
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))), true
}

// ends of a tick: its effects and that it was fired are committed together. A clock that isn't trusted says nothing about later.
func (m memory) ends(tick *trigger.Tick) func(context.Context) (trigger.Ends, error) {
	if m.store == nil || !tick.ClockTrusted {
		return nil
	}
	return func(context.Context) (trigger.Ends, error) {
		return trigger.Ends{Rows: []trigger.Row{m.row(tick.Scheduled)}}, nil
	}
}

// note a tick that had no effects, since its handler failed.
func (m memory) note(tick *trigger.Tick) {
	if m.store != nil && tick.ClockTrusted {
		m.write(m.row(tick.Scheduled))
	}
}

func (m memory) forget() {
	if m.store != nil {
		m.write(trigger.Row{Key: m.key})
	}
}

func (m memory) write(r trigger.Row) {
	if err := m.store.Put(map[string][]byte{r.Key: r.Value}); err != nil {
		m.log.Error("when a timer fired last can't be written", "cause", err)
	}
}

// gap is the time before a start, in which nothing could fire. What was missed in it can be told once the clock is trusted.
type gap struct {
	open  bool
	from  time.Time // all firings up to it are accounted for
	start reading
}

// gap of r before start. Without one, what is missed from now on is owed later.
func (r *running) gap(start reading) gap {
	from, ok := r.memory.read()
	if !ok && r.memory.store != nil && r.source.cfg.Trusted() {
		r.memory.write(r.memory.row(start.wall))
	}
	return gap{open: ok, from: from, start: start}
}

// age of what an interval owes at the start: the time since it fired last. A clock that isn't trusted tells of none.
func (g *gap) age(trusted bool) time.Duration {
	if !g.open || !trusted {
		return 0
	}
	return max(0, g.start.wall.Sub(g.from))
}

// close the gap when the clock is trusted. Its end is the start, by the clock as it is now.
func (g *gap) close(now reading, trusted bool) (from, to time.Time, ok bool) {
	if !g.open || !trusted {
		return from, to, false
	}
	g.open = false
	to = now.wall.Add(-(now.elapsed - g.start.elapsed))
	return g.from, to, to.After(g.from)
}
