package host

import (
	"fmt"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// maxHandles bounds what one guest can make the host hold on to: a guest with a garbage collector drops handles late or never.
const maxHandles = 10_000

// maxHeld bounds the bytes that the host keeps for one guest in headers, messages and writes; they are outside the
// limit on the guest's own memory, and a board of 512 MB may handle many events at once.
const maxHeld = 16 << 20

// table maps a handle's representation to the Go object behind it. Slot 0 stays empty.
type table struct {
	slots []any
	free  []uint32
}

// dropper is an object that has something to end when its handle is dropped or its store closes.
type dropper interface{ drop() }

func (t *table) add(obj any) (uint32, error) {
	if n := len(t.free); n > 0 {
		rep := t.free[n-1]
		t.free = t.free[:n-1]
		t.slots[rep] = obj
		return rep, nil
	}
	if len(t.slots) > maxHandles {
		return 0, fmt.Errorf("the component holds %d handles, which is the limit: drop what is no longer used", maxHandles)
	}
	if len(t.slots) == 0 {
		t.slots = append(make([]any, 0, 32), nil)
	}
	t.slots = append(t.slots, obj)
	return uint32(len(t.slots) - 1), nil
}

func (t *table) remove(rep uint32) any {
	if int(rep) >= len(t.slots) || t.slots[rep] == nil {
		return nil
	}
	obj := t.slots[rep]
	t.slots[rep] = nil
	t.free = append(t.free, rep)
	return obj
}

// sweep drops everything: a closing store runs no destructors.
func (t *table) sweep() {
	for _, obj := range t.slots {
		if d, ok := obj.(dropper); ok {
			d.drop()
		}
	}
	t.slots, t.free = nil, nil
}

// dropHandle runs when a guest drops a handle that it owns.
func dropHandle(s *engine.Store, rep uint32) {
	g, ok := s.Data().(*Guest)
	if !ok {
		return
	}
	if d, ok := g.table.remove(rep).(dropper); ok {
		d.drop()
	}
}

// get the object behind a handle.
func get[T any](g *Guest, v engine.Val) (*T, error) {
	if rep := v.Rep(); int(rep) < len(g.table.slots) {
		if obj, ok := g.table.slots[rep].(*T); ok {
			return obj, nil
		}
	}
	return nil, badHandle[T](v)
}

// take the object behind a handle that the guest gave away.
func take[T any](g *Guest, v engine.Val) (*T, error) {
	obj, err := get[T](g, v)
	if err != nil {
		return nil, err
	}
	g.table.remove(v.Rep())
	return obj, nil
}

func badHandle[T any](v engine.Val) error {
	return fmt.Errorf("handle %d is no %T (already given away, or of another kind)", v.Rep(), *new(T))
}

// own gives the guest a new handle to obj.
func own[T any](g *Guest, typ engine.ResourceType, obj *T) (engine.Val, error) {
	rep, err := g.table.add(obj)
	if err != nil {
		return engine.Val{}, err
	}
	return engine.Own(typ, rep), nil
}

// ownOK is own inside a result.
func ownOK[T any](g *Guest, typ engine.ResourceType, obj *T) (engine.Val, error) {
	v, err := own(g, typ, obj)
	if err != nil {
		return engine.Val{}, err
	}
	return engine.OK(v), nil
}

// hold counts n bytes that the host keeps for the guest until the event ends.
func (g *Guest) hold(n int) error {
	g.held += int64(n)
	if g.held > maxHeld {
		return fmt.Errorf("the component gave the host more than %d MiB to keep in one event (headers, messages and writes)", maxHeld>>20)
	}
	return nil
}
