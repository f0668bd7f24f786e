//go:build dunlindebug

package engine

// #cgo CFLAGS: -DDUNLIN_DEBUG
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
)

// poke runs at every use of a handle: what only looks alive is collected now, not next month.
func poke() { runtime.GC() }

func misuse(what string) error { panic("engine: " + what) }

// watch reports what was never closed, with where it was made, when the collector finds it. Stores are not found this way
// (C holds a handle to each); Engine.Live counts them.
func watch[T any](p *T, what string, m *mark) {
	m.leak.state = new(leakState)
	stack := debug.Stack()
	runtime.AddCleanup(p, func(l *leakState) {
		if !l.closed.Load() {
			fmt.Fprintf(os.Stderr, "engine: %s never closed, made at:\n%s", what, stack)
		}
	}, m.leak.state)
}

type leak struct{ state *leakState }

type leakState struct{ closed atomic.Bool }

func (l *leak) close() {
	if l.state != nil {
		l.state.closed.Store(true)
	}
}
