package inbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// seenArea: "seen/<trigger>/<message id, hashed>"; the value is the event's number. Window is how many ids of a trigger are
// remembered at least: a repeat that comes later than that is a new message.
const (
	seenArea = "seen/"
	Window   = 4096
)

func seenKey(trigger, id string) string {
	h := sha256.Sum256([]byte(id))
	return seenArea + trigger + "/" + hex.EncodeToString(h[:16])
}

// Once is the row that makes an event of a message with an id take effect once. Noted follows when it has.
func Once(trig, id string, number uint64) trigger.Row {
	return trigger.Row{Key: seenKey(trig, id), Value: binary.BigEndian.AppendUint64(nil, number), Once: true}
}

// Seen reports whether a message with this id took effect before, as far as the disk knows.
func (b *Box) Seen(trigger, id string) bool {
	_, ok, err := b.store.Get(seenKey(trigger, id))
	return ok && err == nil
}

// Noted counts an id, and forgets the oldest when there are twice as many as Window.
func (b *Box) Noted(trigger string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen[trigger]++
	if b.seen[trigger] < 2*Window || b.pruning || b.ctx.Err() != nil {
		return
	}
	b.pruning = true
	b.wg.Go(func() {
		left, err := b.prune(trigger)
		if err != nil {
			b.log.Error("old message ids can't be forgotten", "trigger", trigger, "cause", err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.pruning = false
		b.seen[trigger] = left
	})
}

func (b *Box) prune(trigger string) (left int, err error) {
	var rows []store.Record
	prefix := seenArea + trigger + "/"
	for after := ""; ; {
		batch, err := b.store.Scan(prefix, after, scanBatch)
		if err != nil {
			return 0, err
		}
		for _, r := range batch {
			after = r.Key
			if len(r.Key) == len(prefix)+32 {
				rows = append(rows, r)
			}
		}
		if len(batch) < scanBatch {
			break
		}
	}
	if len(rows) <= Window {
		return len(rows), nil
	}
	slices.SortFunc(rows, func(a, b store.Record) int { return cmp.Compare(string(a.Value), string(b.Value)) })
	if err := b.store.Put(deletions(rows[:len(rows)-Window])); err != nil {
		return len(rows), fmt.Errorf("forget message ids: %w", err)
	}
	return Window, nil
}

// countSeen at the start.
func (b *Box) countSeen() error {
	for after := ""; ; {
		batch, err := b.store.Scan(seenArea, after, scanBatch)
		if err != nil {
			return err
		}
		for _, r := range batch {
			after = r.Key
			if n := len(r.Key) - 33; n > len(seenArea) {
				b.seen[r.Key[len(seenArea):n]]++
				if len(r.Value) == 8 { // numbers go on above those that are remembered
					b.last = max(b.last, binary.BigEndian.Uint64(r.Value))
				}
			}
		}
		if len(batch) < scanBatch {
			return nil
		}
	}
}
