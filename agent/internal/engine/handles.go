package engine

import (
	"sync"
	"sync/atomic"
)

// handles gives C integers to hold in place of Go pointers, as cgo.Handle does; a lookup, of which an event needs dozens, is two
// loads. The zero value is ready.
type handles[T any] struct {
	all  atomic.Pointer[[]atomic.Pointer[T]] // replaced by a longer one when it is full
	mu   sync.Mutex
	free []uintptr
}

func (h *handles[T]) add(p *T) uintptr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.free) == 0 {
		h.grow()
	}
	i := h.free[len(h.free)-1]
	h.free = h.free[:len(h.free)-1]
	(*h.all.Load())[i].Store(p)
	return i
}

// grow makes free ones. The caller holds mu.
func (h *handles[T]) grow() {
	var old []atomic.Pointer[T]
	if p := h.all.Load(); p != nil {
		old = *p
	}
	all := make([]atomic.Pointer[T], max(64, 2*len(old)))
	for i := range old {
		all[i].Store(old[i].Load())
	}
	for i := len(all) - 1; i >= len(old); i-- {
		h.free = append(h.free, uintptr(i))
	}
	h.all.Store(&all)
}

func (h *handles[T]) get(i uintptr) *T { return (*h.all.Load())[i].Load() }

func (h *handles[T]) drop(i uintptr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	(*h.all.Load())[i].Store(nil)
	h.free = append(h.free, i)
}
