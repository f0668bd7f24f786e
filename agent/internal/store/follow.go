package store

import (
	"cmp"
	"context"
	"errors"
)

// ErrEarly says that the commit which this one was to follow came to nothing. Run the event again when that one has a new place.
var ErrEarly = errors.New("the commit that this one follows came to nothing")

// Follow has t commit after another transaction, and only if that one does: ErrEarly says that it didn't. after is what that
// one's placed was called with; nil: t follows none. placed, which may be nil, is called once t has its place in the order, before it is
// durable: what follows it may begin then, and sees its writes. When Commit fails, the place is void.
func (t *Tx) Follow(after any, placed func(place any)) {
	t.after, _ = after.(*job)
	t.placed = placed
}

// nowhere is the place of a commit that wrote nothing and followed none.
var nowhere = &job{accepted: true}

// settle a transaction that writes nothing. What follows it follows what it followed.
func (t *Tx) settle(ctx context.Context) error {
	if len(t.reads)+len(t.lists) > 0 {
		if err := t.s.settle(ctx, t); err != nil {
			return err
		}
		if err := t.s.read(t.check); err != nil {
			return err
		}
	}
	if t.placed != nil {
		t.placed(cmp.Or(t.after, nowhere))
	}
	return nil
}
