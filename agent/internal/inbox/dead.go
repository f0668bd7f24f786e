package inbox

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// Bury gives an event up. It goes to the dead letters in one transaction with ends; waits: it leaves the inbox for them.
// store.ErrDone: a message with its id took effect or was given up before, and nothing is changed.
func (b *Box) Bury(d Dead, waits bool, ends trigger.Ends) error {
	row := d.encode()
	k := key(deadArea, d.Trigger, d.Number)
	g := grave{d.Trigger, d.Number, len(k) + len(row)}
	tx := b.store.Begin("")
	err := tx.With(k, row, false)
	if err == nil && d.ID != "" {
		err = addEnds(tx, trigger.Ends{Rows: []trigger.Row{Once(d.Trigger, d.ID, d.Number)}})
	}
	if err == nil && waits {
		err = tx.With(key(waitingArea, d.Trigger, d.Number), nil, false)
	}
	if err == nil {
		err = addEnds(tx, ends)
	}
	evicted := b.overfull(g)
	for _, old := range evicted {
		if err == nil {
			err = tx.With(key(deadArea, old.trigger, old.number), nil, false)
		}
	}
	crash.At("bury")
	if err == nil {
		err = tx.Commit(b.ctx)
	}
	if err != nil {
		return fmt.Errorf("set event %d aside: %w", d.Number, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if waits {
		b.count(d.Trigger, -1, -d.size())
	}
	for _, old := range evicted {
		if b.exhume(old.trigger, old.number) {
			b.dropped++
			b.log.Warn("dead letter dropped: there are too many", "trigger", old.trigger, "event", Name(old.number))
		}
	}
	b.inter(g)
	return nil
}

// overfull: the oldest dead letters that make room for g.
func (b *Box) overfull(g grave) []grave {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, bytes := len(b.graves)+1, b.buried+int64(g.size)
	out := 0
	for n > b.limits.Dead || bytes > b.limits.DeadBytes && n > 1 {
		bytes -= int64(b.graves[out].size)
		n, out = n-1, out+1
	}
	return slices.Clone(b.graves[:out])
}

// inter keeps the order of numbers.
func (b *Box) inter(g grave) {
	i, _ := slices.BinarySearchFunc(b.graves, g.number, func(o grave, n uint64) int { return cmp.Compare(o.number, n) })
	b.graves = slices.Insert(b.graves, i, g)
	b.buried += int64(g.size)
}

func (b *Box) exhume(trigger string, number uint64) bool {
	i := slices.IndexFunc(b.graves, func(g grave) bool { return g.trigger == trigger && g.number == number })
	if i < 0 {
		return false
	}
	b.buried -= int64(b.graves[i].size)
	b.graves = slices.Delete(b.graves, i, i+1)
	return true
}

// Name of an event, for people.
func Name(number uint64) string { return wire.EventName(number) }

// Dead letters, oldest first, those after the number `after`, at most n.
func (b *Box) Dead(after uint64, n int) ([]Dead, error) {
	b.mu.Lock()
	graves := slices.Clone(b.graves)
	b.mu.Unlock()
	var out []Dead
	for _, g := range graves {
		if g.number <= after || len(out) == n {
			continue
		}
		d, err := b.dead(g)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (b *Box) dead(g grave) (Dead, error) {
	row, ok, err := b.store.Get(key(deadArea, g.trigger, g.number))
	if err == nil && !ok {
		err = ErrUnknown
	}
	var d Dead
	if err == nil {
		d, err = decodeDead(row)
	}
	if err != nil {
		return d, fmt.Errorf("read dead letter %s: %w", Name(g.number), err)
	}
	d.Trigger, d.Number = g.trigger, g.number
	return d, nil
}

// Find one dead letter by its name.
func (b *Box) Find(name string) (Dead, error) {
	b.mu.Lock()
	i := slices.IndexFunc(b.graves, func(g grave) bool { return strings.EqualFold(Name(g.number), name) })
	var g grave
	if i >= 0 {
		g = b.graves[i]
	}
	b.mu.Unlock()
	if i < 0 {
		return Dead{}, fmt.Errorf("find event %q: %w among the dead letters", name, ErrUnknown)
	}
	return b.dead(g)
}

// lastKey is the record of the highest number given, as of the last dead letter that left: its name is never given again, so that
// what is asked twice of a letter is not done to another.
const lastKey = "events/last"

func (b *Box) lastRow() trigger.Row {
	b.mu.Lock()
	defer b.mu.Unlock()
	return trigger.Row{Key: lastKey, Value: binary.BigEndian.AppendUint64(nil, b.last)}
}

// Drop a dead letter for good. ErrUnknown: it is gone already.
func (b *Box) Drop(d Dead) error {
	b.leaving.Lock()
	defer b.leaving.Unlock()
	tx := b.store.Begin("")
	err := addEnds(tx, trigger.Ends{Rows: []trigger.Row{{Key: key(deadArea, d.Trigger, d.Number), Once: true}, b.lastRow()}})
	if err == nil {
		err = tx.Commit(b.ctx)
	}
	if err != nil {
		return fmt.Errorf("drop event %s: %w", Name(d.Number), gone(err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exhume(d.Trigger, d.Number)
	return nil
}

func gone(err error) error {
	if errors.Is(err, store.ErrDone) {
		return ErrUnknown
	}
	return err
}

// Retry puts a dead letter behind what waits, as an event with a new number; its source has to be told. ErrUnknown: it is gone already.
func (b *Box) Retry(d Dead) (e Event, err error) {
	b.leaving.Lock()
	defer b.leaving.Unlock()
	e = d.Event
	e.Number = b.Number()
	rows := []trigger.Row{{Key: key(deadArea, d.Trigger, d.Number), Once: true}, b.lastRow()}
	if d.ID != "" {
		rows = append(rows, trigger.Row{Key: seenKey(d.Trigger, d.ID)}) // it may take effect now
	}
	a, err := b.Accept([]Event{e}, trigger.Ends{Rows: rows}, nil)
	if err == nil {
		err = a.Wait(b.ctx)
	}
	if err != nil {
		return e, fmt.Errorf("retry event %s: %w", Name(d.Number), gone(err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exhume(d.Trigger, d.Number)
	return e, nil
}
