package inbox

import (
	"fmt"
	"strings"

	"dunlin.dev/dunlin/agent/internal/store"
)

// tally of rows.
type tally struct {
	events int
	bytes  int64
}

func (t *tally) add(events int, bytes int64) { t.events, t.bytes = t.events+events, t.bytes+bytes }

// count n more rows of a trigger, of size bytes; both may be negative. b.mu is held.
func (b *Box) count(trigger string, n, size int) {
	b.bytes += int64(size)
	t := b.waiting[trigger]
	t.add(n, int64(size))
	if b.waiting[trigger] = t; t.events == 0 {
		delete(b.waiting, trigger)
	}
	if b.there != nil && !b.there[trigger] {
		b.left.add(n, int64(size))
	}
}

// held is what counts against Limits.Bytes. What waits for triggers that are gone holds up no publisher, as long as it is no more than
// the limit itself. b.mu is held.
func (b *Box) held() int64 { return b.bytes - min(b.left.bytes, b.limits.Bytes) }

// Serve says which triggers take events from now on. What waits for others stays, until they are back or it is forgotten.
func (b *Box) Serve(triggers []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.there, b.left = map[string]bool{}, tally{}
	for _, t := range triggers {
		b.there[t] = true
	}
	for t, n := range b.waiting {
		if !b.there[t] {
			b.left.add(n.events, n.bytes)
		}
	}
}

// ForgetApplication removes all that the box has of one: what waits, dead letters, and ids that tell repeats. None of its triggers takes
// events. Interrupted, it is begun again.
func (b *Box) ForgetApplication(application string) (waiting, dead int, err error) {
	b.leaving.Lock()
	defer b.leaving.Unlock()
	forget := func(area string, one func(trigger string, number uint64, r store.Record)) error {
		for {
			rows, err := b.store.Scan(area+application+"/", "", scanBatch)
			if err != nil || len(rows) == 0 {
				return err
			}
			changes, last := deletions(rows), b.lastRow()
			changes[last.Key] = last.Value
			if err := b.store.Put(changes); err != nil {
				return err
			}
			b.mu.Lock()
			for _, r := range rows {
				if t, n, err := parseKey(area, r.Key); err == nil {
					one(t, n, r)
				}
			}
			b.mu.Unlock()
		}
	}
	err = forget(waitingArea, func(trigger string, _ uint64, r store.Record) {
		waiting++
		b.count(trigger, -1, -len(r.Key)-len(r.Value))
	})
	if err == nil {
		err = forget(deadArea, func(trigger string, number uint64, _ store.Record) {
			dead++
			b.exhume(trigger, number)
		})
	}
	if err == nil {
		err = forget(seenArea, func(string, uint64, store.Record) {})
	}
	if err != nil {
		return waiting, dead, fmt.Errorf("forget events of %s: %w", application, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.seen {
		if strings.HasPrefix(t, application+"/") {
			delete(b.seen, t)
		}
	}
	return waiting, dead, nil
}
