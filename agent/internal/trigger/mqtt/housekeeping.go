package mqtt

import (
	"log/slog"
	"sync"
	"sync/atomic"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// housekeeping begins, when it is first called, what mochi's Serve begins at once: four looks each second, for as long as it
// lives, for sessions, messages and delayed wills whose time is over. Only MQTT 5 clients can set one. Without any there is
// nothing to look for, and an idle agent sleeps.
func housekeeping(server *mochi.Server, log *slog.Logger) func() {
	return sync.OnceFunc(func() {
		if err := server.Serve(); err != nil {
			log.Error("nothing on the bus expires", "error", err)
		}
	})
}

// startedOnce is a listener that serves already when mochi's Serve starts all listeners.
type startedOnce struct {
	listeners.Listener
	started atomic.Bool
}

func (l *startedOnce) Serve(establish listeners.EstablishFn) {
	if !l.started.Swap(true) {
		l.Listener.Serve(establish)
	}
}
