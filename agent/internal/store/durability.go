package store

import (
	"fmt"
	"time"
)

// Durability says what Commit waits for.
type Durability uint8

const (
	// Sync waits until the commit is on the disk, and nobody else is waited for. The default.
	Sync Durability = iota
	// Batch waits until the commit is on the disk, which may take up to BatchDelay longer, so that others share the write.
	Batch
	// Memory waits until others see the commit. It is on the disk with the next one that is not of this kind, or after MemoryDelay; a power
	// cut or a crash before that undoes it, and all of its kind after it. Its messages leave when it is on the disk.
	Memory
)

// Delays of Batch and Memory.
const (
	BatchDelay  = 200 * time.Millisecond
	MemoryDelay = 5 * time.Second // also of the rows of delivered messages
)

const (
	batchJobs = 64        // that wait are enough of a group
	maxLazy   = 256 << 10 // bytes of keys and values that wait in memory, until the next group takes them along
)

var durabilities = []string{"sync", "batch", "memory"}

func (d Durability) String() string { return durabilities[d] }

// ParseDurability reads what String gives; "" is Sync.
func ParseDurability(s string) (Durability, error) {
	for i, name := range durabilities {
		if s == name {
			return Durability(i), nil
		}
	}
	if s == "" {
		return Sync, nil
	}
	return Sync, fmt.Errorf("durability %q, want one of %q", s, durabilities)
}

// Durable gives t another durability than Sync.
func (t *Tx) Durable(d Durability) *Tx {
	t.durability = d
	return t
}

// hurry the committer as j wants it. s.mu is held.
func (s *Store) hurry(j *job) {
	switch {
	case j.durability == Sync:
		s.urgent = true
	case j.durability == Batch && s.batchDue.IsZero():
		s.batchDue = time.Now().Add(s.batchDelay)
	}
}

// ready reports whether the queue has waited long enough. s.mu is held.
func (s *Store) ready(now time.Time) bool {
	return s.urgent || len(s.queue) >= batchJobs || !now.Before(s.batchDue) // the zero time: there are only such as wait for nothing
}

// postpone keeps a group in memory for now, where all of it may be lost.
func (s *Store) postpone(g *grouping) {
	for k, v := range g.changed {
		s.lazyBytes += len(k) + len(v)
		s.lazy[k] = v
	}
	if len(g.changed) > 0 {
		s.over.Store(s.over.Load().push(sortedRows(g.changed)))
	}
	s.mark.id = g.id
}
