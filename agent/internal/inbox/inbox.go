// Package inbox keeps messages that the board has acknowledged before they took effect, and those that it gave up, over a
// power cut.
//
// An event leaves the inbox in the transaction that commits its effects, so it takes effect once. One that fails again and
// again leaves it for the dead letters, where a person decides.
package inbox

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// Limits of what is kept. Zero fields mean the defaults.
type Limits struct {
	Bytes     int64 // of events that wait, keys included; 0: 32 MiB. Beyond it publishers are held back
	Dead      int   // dead letters; 0: 1000. Beyond it the oldest are dropped, and counted
	DeadBytes int64 // of dead letters; 0: 8 MiB
}

// Errors that callers branch on.
var (
	// ErrFull: the events that wait have reached Limits.Bytes.
	ErrFull = errors.New("the inbox is full")
	// ErrClosed: the box was closed.
	ErrClosed = errors.New("the inbox is closed")
	// ErrUnknown: no such dead letter.
	ErrUnknown = errors.New("no such event")
)

// Box is the inbox. Safe for concurrent use.
type Box struct {
	store  *store.Store
	log    *slog.Logger
	limits Limits
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	leaving sync.Mutex // held while a dead letter is retried or dropped

	mu      sync.Mutex
	last    uint64           // the highest number given
	waiting map[string]tally // rows by trigger
	bytes   int64            // of these rows
	there   map[string]bool  // triggers that take events; nil: nobody has said
	left    tally            // of what waits, that of others
	graves  []grave          // dead letters, oldest first
	buried  int64            // their bytes
	dropped uint64           // dead letters that had to make room, since Open
	seen    map[string]int   // remembered message ids by trigger
	pruning bool
	queue   []*Acceptance
	writing bool
}

// grave is what is remembered of a dead letter.
type grave struct {
	trigger string
	number  uint64
	size    int
}

// scanBatch is how many rows are in memory at once while the box is opened or listed.
const scanBatch = 256

// Open the inbox in s. A row that can't be understood is logged and left alone.
func Open(s *store.Store, l Limits, log *slog.Logger) (*Box, error) {
	l.Bytes, l.Dead, l.DeadBytes = cmp.Or(l.Bytes, 32<<20), cmp.Or(l.Dead, 1000), cmp.Or(l.DeadBytes, 8<<20)
	b := &Box{store: s, log: log, limits: l, waiting: map[string]tally{}, seen: map[string]int{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	err := b.each(waitingArea, func(trigger string, number uint64, r store.Record) {
		b.last = max(b.last, number)
		b.count(trigger, 1, len(r.Key)+len(r.Value))
	})
	if err == nil {
		err = b.each(deadArea, func(trigger string, number uint64, r store.Record) {
			b.last = max(b.last, number)
			b.inter(grave{trigger, number, len(r.Key) + len(r.Value)})
		})
	}
	if err == nil {
		err = b.countSeen()
	}
	if err == nil {
		var last []byte
		if last, _, err = s.Get(lastKey); len(last) == 8 {
			b.last = max(b.last, binary.BigEndian.Uint64(last))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open inbox: %w", err)
	}
	return b, nil
}

// each row of an area, in the order of triggers and numbers.
func (b *Box) each(area string, f func(trigger string, number uint64, r store.Record)) error {
	for after := ""; ; {
		rows, err := b.store.Scan(area, after, scanBatch)
		if err != nil {
			return err
		}
		for _, r := range rows {
			after = r.Key
			t, n, err := parseKey(area, r.Key)
			if err != nil {
				b.log.Error("an event of the inbox can't be read", "cause", err)
				continue
			}
			f(t, n, r)
		}
		if len(rows) < scanBatch {
			return nil
		}
	}
}

// Close ends what Accept began; what is not durable by then is not accepted.
func (b *Box) Close() {
	b.mu.Lock()
	b.cancel()
	b.mu.Unlock()
	b.wg.Wait()
}

// Number gives the number of an event that arrives now.
func (b *Box) Number() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	return b.last
}

// size of e's row.
func (e Event) size() int {
	return len(key(waitingArea, e.Trigger, e.Number)) + 12 + len(e.Message.Topic) + len(e.Message.Payload)
}

// Acceptance is the way of events into the inbox.
type Acceptance struct {
	events []Event
	ends   trigger.Ends
	then   func(error)
	done   chan struct{}
	err    error
}

// Wait until the events are durable, or won't be.
func (a *Acceptance) Wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("accept event: %w", context.Cause(ctx))
	}
}

// Accept events, all or none, in one transaction with ends. They are durable when Wait says so; what is accepted later is never
// durable earlier. then, which may be nil, is called with what Wait gives. ErrFull: nothing was begun. store.ErrDone: ends says
// that the events have been before, and nothing was written.
func (b *Box) Accept(events []Event, ends trigger.Ends, then func(error)) (*Acceptance, error) {
	size := 0
	for _, e := range events {
		size += e.size()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if held := b.held(); held > 0 && held+int64(size) > b.limits.Bytes {
		return nil, fmt.Errorf("%w: %d bytes wait, at most %d", ErrFull, held, b.limits.Bytes)
	}
	for _, e := range events {
		b.count(e.Trigger, 1, e.size())
	}
	a := &Acceptance{events: events, ends: ends, then: then, done: make(chan struct{})}
	b.queue = append(b.queue, a)
	if !b.writing {
		b.writing = true
		b.wg.Go(b.write)
	}
	return a, nil
}

// write what is queued until nothing is. A disk that can't be written is waited for: the publishers are not acknowledged.
func (b *Box) write() {
	for failed := 0; ; {
		b.mu.Lock()
		batch := b.queue
		b.queue = nil
		b.writing = len(batch) > 0
		b.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for len(batch) > 0 {
			rest, err := b.writeBatch(batch)
			batch = rest
			if err == nil {
				failed = 0
				continue
			}
			if failed++; failed == 1 {
				b.log.Error("messages can't be accepted; their publishers wait", "cause", err)
			}
			select {
			case <-time.After(trigger.RetryDelay(failed)):
			case <-b.ctx.Done():
				for _, a := range batch {
					b.finish(a, ErrClosed)
				}
				batch = nil
			}
		}
	}
}

// writeBatch writes as much of batch as goes into one transaction, and gives what is left. An event that has been before
// is finished as such, and the others are tried again without it.
func (b *Box) writeBatch(batch []*Acceptance) (rest []*Acceptance, err error) {
	tx := b.store.Begin("")
	n, size := 0, 0
	for _, a := range batch {
		own := 0
		for _, e := range a.events {
			own += 64 + len(e.Message.Topic) + len(e.Message.Payload)
		}
		if n > 0 && size+own > store.MaxTx/2 {
			break
		}
		if err := a.add(tx); err != nil {
			if n > 0 {
				break // it is the first of the next
			}
			b.finish(a, err)
			return batch[1:], nil
		}
		n, size = n+1, size+own
	}
	crash.At("accept")
	err = tx.Commit(b.ctx)
	crash.At("accepted")
	if errors.Is(err, store.ErrDone) {
		if n == 1 {
			b.finish(batch[0], err)
			return batch[1:], nil
		}
		for _, a := range batch[:n] { // one by one: which it was nobody says
			for {
				left, err := b.writeBatch([]*Acceptance{a})
				if err != nil {
					return append(left, batch[n:]...), err
				}
				if len(left) == 0 {
					break
				}
			}
			batch, n = batch[1:], n-1
		}
		return batch, nil
	}
	if err != nil {
		return batch, err
	}
	for _, a := range batch[:n] {
		b.finish(a, nil)
	}
	return batch[n:], nil
}

func (a *Acceptance) add(tx *store.Tx) error {
	for _, e := range a.events {
		if err := tx.With(key(waitingArea, e.Trigger, e.Number), e.encode(), false); err != nil {
			return err
		}
	}
	return addEnds(tx, a.ends)
}

func addEnds(tx *store.Tx, ends trigger.Ends) error {
	for _, r := range ends.Rows {
		if err := tx.With(r.Key, r.Value, r.Once); err != nil {
			return err
		}
	}
	if ends.Outbox != 0 {
		tx.Take(ends.Outbox)
	}
	return nil
}

func (b *Box) finish(a *Acceptance, err error) {
	if err != nil {
		b.mu.Lock()
		for _, e := range a.events {
			b.count(e.Trigger, -1, -e.size())
		}
		b.mu.Unlock()
	}
	a.err = err
	close(a.done)
	if a.then != nil {
		a.then(err)
	}
}

// Leave is the row by which an accepted event leaves the inbox, to be written with its effects. Left follows when it has.
func (e Event) Leave() trigger.Row {
	return trigger.Row{Key: key(waitingArea, e.Trigger, e.Number), Once: true}
}

// Left tells that the event is no longer in the inbox.
func (b *Box) Left(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(e.Trigger, -1, -e.size())
}

// Remove an event that need not be handled, if it is still there.
func (b *Box) Remove(e Event) error {
	tx := b.store.Begin("")
	err := addEnds(tx, trigger.Ends{Rows: []trigger.Row{e.Leave()}})
	if err == nil {
		err = tx.Commit(b.ctx)
	}
	if errors.Is(err, store.ErrDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove event %s: %w", Name(e.Number), err)
	}
	b.Left(e)
	return nil
}

// Waiting gives up to n durable events of a trigger with a number above after, in order.
func (b *Box) Waiting(trigger string, after uint64, n int) ([]Event, error) {
	prefix := waitingArea + trigger + "/"
	from := key(waitingArea, trigger, after)
	var events []Event
	for len(events) < n {
		rows, err := b.store.Scan(prefix, from, n-len(events))
		if err != nil {
			return nil, fmt.Errorf("read inbox: %w", err)
		}
		for _, r := range rows {
			from = r.Key
			t, number, err := parseKey(waitingArea, r.Key)
			if err != nil || t != trigger {
				continue // logged at the start, or of a trigger whose name goes on with a slash
			}
			e, err := decode(r.Value)
			if err != nil {
				b.log.Error("an event of the inbox can't be read", "event", r.Key, "cause", err)
				continue
			}
			e.Trigger, e.Number = trigger, number
			events = append(events, e)
		}
		if len(rows) < n-len(events) || len(rows) == 0 {
			break
		}
	}
	return events, nil
}

// Counts are facts for reports.
type Counts struct {
	Waiting, Dead           int
	WaitingBytes, DeadBytes int64
	Left                    int    // of Waiting, events of triggers that are gone
	DeadDropped             uint64 // dead letters that had to make room, since the start
}

// Counts of the box.
func (b *Box) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := Counts{WaitingBytes: b.bytes, Left: b.left.events, Dead: len(b.graves), DeadBytes: b.buried, DeadDropped: b.dropped}
	for _, n := range b.waiting {
		c.Waiting += n.events
	}
	return c
}

// Waits reports whether events of a trigger are in the inbox.
func (b *Box) Waits(trigger string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting[trigger].events > 0
}
