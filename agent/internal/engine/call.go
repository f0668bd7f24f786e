package engine

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
)

// Instance of a component in a store.
type Instance struct {
	store     *Store
	component *Component
	c         C.wasmtime_component_instance_t
}

// Instantiate a component in a store; its start code runs. Where all slots are taken it waits for one, or for the end of the
// store's context. Missing imports are an error that names them, trapping start code is a *Trap.
func (l *Linker) Instantiate(s *Store, c *Component) (*Instance, error) {
	if l.engine != s.engine || c.engine != s.engine {
		return nil, errors.New("instantiate component: linker, store and component are of different engines")
	}
	if err := l.use(); err != nil {
		return nil, fmt.Errorf("instantiate component: %w", err)
	}
	defer l.release()
	if err := c.use(); err != nil {
		return nil, fmt.Errorf("instantiate component: %w", err)
	}
	if s.closed.Load() {
		c.release()
		return nil, fmt.Errorf("instantiate component: %w", misuse("use of a closed store"))
	}
	s.used = append(s.used, c)
	linker, err := l.link(c)
	if err != nil {
		return nil, fmt.Errorf("instantiate component: %w", err)
	}
	i := &Instance{store: s, component: c}
	if err := l.fill(i, linker); err != nil {
		return nil, err
	}
	s.instances++
	return i, nil
}

// fill takes a slot for each of the component's memories, and lets the store have as many memories and tables as the component has:
// so the pool is never short, and the sum of them all is bounded. How many that are is found by trying, once; half-made
// instances go with the store's C part.
func (l *Linker) fill(i *Instance, linker *C.wasmtime_component_linker_t) error {
	s, c := i.store, i.component
	for {
		known := c.shape.Load()
		s.shape = s.shape.with(known)
		if s.ctx.Err() != nil {
			return s.interrupted() // it did not wait
		}
		if s.shape.memories > int64(s.engine.plan.slots) {
			return fmt.Errorf("instantiate component: it has more linear memories than the %d that this engine has", s.engine.plan.slots)
		}
		if more := s.shape.memories - s.slots; more > 0 {
			if err := s.engine.slots.acquire(s.ctx, s.limits.Share, more); err != nil {
				return &Trap{Code: TrapInterrupt, Message: "no instance slot came free", Err: s.cause()}
			}
			s.slots = s.shape.memories
		}
		memory, elements := s.shape.divide(int64(s.limits.Memory))
		C.dunlin_store_limit(s.c, C.int64_t(memory), C.int64_t(elements), C.int64_t(s.shape.memories), C.int64_t(s.shape.tables))
		if err := s.enter(); err != nil {
			return err
		}
		s.running.Add(1)
		cerr := takeError(C.dunlin_instantiate(s.c, linker, c.ptr, &i.c))
		s.running.Add(-1)
		if cerr == nil {
			return nil
		}
		more := known.learn(cerr.text)
		if more == nil || !more.affordable(int64(s.limits.Memory)) {
			return s.failure("instantiate component", true, cerr)
		}
		c.shape.CompareAndSwap(known, more)
		if s.instances > 0 {
			return errors.New("instantiate component: it has more memories or tables than was known, found out beside another instance; try again in a new store")
		}
		C.dunlin_store_renew(s.c, s.engine.ptr)
		s.shape = shape{}
		if more.memories > known.memories { // holding on to some while it waits for more, it could wait for another that does so
			s.engine.slots.release(s.limits.Share, s.slots)
			s.slots = 0
		}
	}
}

// Call an exported function. A trap is a *Trap; after one, no instance of the store can be entered again.
func (i *Instance) Call(x *Export, args ...Val) (Val, error) {
	s := i.store
	if err := s.enter(); err != nil {
		return Val{}, err
	}
	if x.component != i.component {
		return Val{}, fmt.Errorf("call %s: the export is another component's", x.name)
	}
	err := s.send(func(b []byte) ([]byte, error) {
		b, err := appendCount(b, len(args))
		for n := 0; n < len(args) && err == nil; n++ {
			b, err = appendVal(b, args[n], 0)
		}
		return b, err
	})
	if err != nil {
		return Val{}, fmt.Errorf("call %s: %w", x.name, err)
	}
	s.running.Add(1)
	cerr := takeError(C.dunlin_call(s.c, &i.c, x.index, C.bool(x.result)))
	s.running.Add(-1)
	if cerr != nil {
		return Val{}, s.failure("call "+x.name, false, cerr)
	}
	if !x.result {
		return Val{}, nil
	}
	d := decoder{b: s.received()}
	v := d.val(0)
	if d.err != nil {
		return Val{}, fmt.Errorf("call %s: result: %w", x.name, d.err)
	}
	return v, nil
}
