package engine

// #include "shim.h"
import "C"

import (
	"cmp"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const interruptAgain = 5 * time.Millisecond

// Limits of one store. Zero fields mean the engine's defaults.
type Limits struct {
	Memory  uint64        // bytes, all linear memories and tables together; default 128 MiB
	CPU     time.Duration // processor time of the guest, and of the host functions that it calls; 0: not measured
	OverCPU func()        // is called once, on a goroutine of its own, when CPU is used up
	Share   *Share        // whose slots it takes; nil: nobody's
	Slots   int           // that were taken of Share for it
}

// Store is one event's world: instances, memories, resources. Not safe for concurrent use; Close ends it.
type Store struct {
	engine *Engine
	c      *C.dunlin_store
	ctx    context.Context
	data   any
	handle uintptr // of this, for C
	limits Limits

	instances int
	shape     shape        // of all instances
	slots     int64        // that it holds
	used      []*Component // kept until Close
	running   atomic.Int32 // calls into the guest under way
	args      []Val        // of host calls, used again
	hostErr   error        // of the host function that ended the guest's call
	hostName  string       // of the host function that ran last

	stop   func() bool
	mu     sync.Mutex  // between Close, the end of ctx and the look at the meter
	again  *time.Timer // of interrupt
	look   *time.Timer // at the meter
	closed mark
}

// NewStore makes a store. When ctx ends, guest code running in it is interrupted (Trap with code TrapInterrupt and the ctx's cause).
func (e *Engine) NewStore(ctx context.Context, l Limits, data any) *Store {
	e.retain("NewStore")
	l.Memory = min(cmp.Or(l.Memory, defaultMemory), math.MaxInt64)
	s := &Store{engine: e, ctx: ctx, data: data, limits: l, slots: int64(l.Slots)}
	s.handle = stores.add(s)
	s.c = C.dunlin_store_new(e.ptr, C.uintptr_t(s.handle), C.bool(l.CPU > 0))
	if s.c == nil {
		panic("engine: out of memory")
	}
	if ctx.Done() != nil {
		s.stop = context.AfterFunc(ctx, s.interrupt)
	}
	if l.CPU > 0 {
		s.look = time.AfterFunc(l.CPU, s.meter)
	}
	return s
}

// meter looks whether the guest has used up its processor time, first when it can have, and then when it can have again: one
// thread uses no more of it than passes.
func (s *Store) meter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return
	}
	left := s.limits.CPU - time.Duration(C.dunlin_store_cpu(s.c))
	if left > 0 {
		s.look.Reset(max(left, interruptAgain))
		return
	}
	go s.limits.OverCPU()
}

// interrupt ends what runs in this store; the epoch makes every running guest look, and the others go on. A guest that looked
// just before, for another store's sake, counts its deadline from the new epoch and misses it: so again, until the call is over.
func (s *Store) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return
	}
	C.dunlin_store_interrupt(s.c, s.engine.ptr)
	switch {
	case s.running.Load() == 0:
		// A call that begins after this sees the flag.
	case s.again == nil:
		s.again = time.AfterFunc(interruptAgain, s.interrupt)
	default:
		s.again.Reset(interruptAgain)
	}
}

// Close ends the store and everything in it. Host resources that the guest still held are the host's to clean up: no Drop runs.
func (s *Store) Close() {
	if s.running.Load() > 0 {
		panic("engine: Close of a store while a call runs in it")
	}
	s.mu.Lock()
	first := s.closed.close()
	if s.again != nil {
		s.again.Stop()
	}
	if s.look != nil {
		s.look.Stop()
	}
	s.mu.Unlock()
	if !first {
		return
	}
	if s.stop != nil {
		s.stop()
	}
	C.dunlin_store_free(s.c)
	s.c = nil
	stores.drop(s.handle)
	for _, c := range s.used {
		c.release()
	}
	s.engine.slots.release(s.limits.Share, s.slots)
	s.engine.release()
}

// Data is what NewStore was given.
func (s *Store) Data() any { return s.data }

// Context is the one that NewStore was given. A host function that waits must watch it: only guest code is interrupted.
func (s *Store) Context() context.Context { return s.ctx }

// Drop a guest's resource that a call returned; the guest's destructor runs. What isn't dropped goes with Close.
func (s *Store) Drop(v Val) error {
	if v.kind != KindGuestResource {
		return errors.New("drop resource: not a guest's resource")
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.running.Add(1)
	cerr := takeError(C.dunlin_drop_guest(s.c, C.uint32_t(v.num)))
	s.running.Add(-1)
	return s.failure("drop resource", false, cerr)
}

// enter refuses what would run guest code in a store that has ended.
func (s *Store) enter() error {
	if s.closed.Load() {
		return misuse("use of a closed store")
	}
	poke()
	s.hostErr, s.hostName = nil, ""
	if s.ctx.Err() != nil {
		return s.interrupted()
	}
	return nil
}

// received is what C left in the buffer; valid until the next crossing.
func (s *Store) received() []byte {
	return unsafe.Slice((*byte)(s.c.buf.data), s.c.buf.len)
}

// send puts an encoding into the buffer.
func (s *Store) send(encode func([]byte) ([]byte, error)) error {
	b, err := encode(unsafe.Slice((*byte)(s.c.buf.data), s.c.buf.cap)[:0])
	if err != nil {
		return err
	}
	if n := C.size_t(len(b)); n > s.c.buf.cap { // append went to Go's heap
		s.c.buf.len = 0
		if !C.dunlin_buf_reserve(&s.c.buf, n) {
			return errors.New("encode value: out of memory")
		}
		copy(unsafe.Slice((*byte)(s.c.buf.data), n), b)
	}
	s.c.buf.len = C.size_t(len(b))
	return nil
}
