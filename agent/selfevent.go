package agent

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/runner"
	timertrigger "dunlin.dev/dunlin/agent/internal/trigger/timer"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// selfEventWASM is test/guests/vectors/self-event.wat.
//
//go:embed selfevent.wasm
var selfEventWASM []byte

// selfName is the application and the timer that the agent's event to itself is of. No manifest can name an application so.
const selfName = "(self)"

// newSelfEvent makes the runner of the agent's event to itself: a component of no effect, which needs what every event needs:
// a turn, a slot of the engine, an instance with a memory, and a transaction.
func (a *Agent) newSelfEvent() *runner.Runner {
	return runner.New(runner.Config{
		Engine: a.engine, Host: a.host,
		Load:        func() (*engine.Component, error) { return a.engine.Compile(selfEventWASM) },
		Application: selfName, Name: selfName,
		Limits: runner.Limits{Memory: 1 << 20, Time: time.Second, CPU: time.Second, Concurrency: 1},
		Begin:  func(*trigger.Event) runner.Tx { return a.store.Begin(selfName) },
		Log:    a.log,
	})
}

// handleSelf takes one event to itself through the runner.
func (a *Agent) handleSelf(ctx context.Context) error {
	if err := a.self.Handle(ctx, &trigger.Event{Kind: trigger.KindTimer, Trigger: selfName, At: time.Now(), Timer: &trigger.Tick{}}); err != nil {
		return fmt.Errorf("handle an event of its own: %w", err)
	}
	return nil
}

// everySelf makes the scheduler of timers fire f, as it fires an application's timer.
func (a *Agent) everySelf(every time.Duration, f func(context.Context)) error {
	a.apps.mu.Lock()
	defer a.apps.mu.Unlock()
	a.apps.own = []timertrigger.Timer{{ID: selfName, Every: every, Handle: func(ctx context.Context, _ *trigger.Event) error {
		f(ctx)
		return nil
	}}}
	return a.bind()
}
