package agent

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// goodRecord holds the last synchronised time that was saved: seconds since 1970 in eight bytes, big endian.
const goodRecord = "clock/good"

// saveEvery bounds what the floor costs the disk: one small commit a day.
const saveEvery = 24 * time.Hour

// lastGood is the record of goodRecord, in memory.
type lastGood struct {
	mu sync.Mutex
	at time.Time
}

// time is the best guess of it, and how good the guess is. The system's clock counts while it is plausible.
func (a *Agent) time() (time.Time, wire.ClockQuality) {
	synced := a.cfg.synced()
	now, plausible := a.known().Now(a.cfg.system(), synced)
	switch {
	case !plausible:
		return now, wire.ClockUnsynced
	case synced:
		return now, wire.ClockSynced
	}
	return now, wire.ClockEstimated
}

// known is what the board knows of the time without its clock.
func (a *Agent) known() trust.Clock {
	c := trust.Clock{Build: a.cfg.Built}
	if a.manager != nil {
		a.manager.mu.Lock()
		c.Verified = a.manager.state.Issued
		a.manager.mu.Unlock()
	}
	a.good.mu.Lock()
	c.LastGood = a.good.at
	a.good.mu.Unlock()
	return c
}

// qualities of a clock, as messages of the outbox keep them: never another order.
var qualities = []wire.ClockQuality{wire.ClockSynced, wire.ClockEstimated, wire.ClockUnsynced}

// stamp is the time of what is published.
func (a *Agent) stamp() store.Stamp {
	now, quality := a.time()
	return store.Stamp{At: time.UnixMilli(now.UnixMilli()), Clock: byte(slices.Index(qualities, quality)), Boot: a.boot, Up: sinceBoot()}
}

// moment is what handlers are told of the time.
func (a *Agent) moment() host.Moment {
	_, quality := a.time()
	return host.Moment{Clock: string(quality), Boot: wire.BootID(a.boot).String(), Up: sinceBoot()}
}

// sinceBoot is the time since the kernel's boot, sleep included: clock_gettime(2), CLOCK_BOOTTIME.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano()).Truncate(time.Millisecond)
}

// bootUUID is the kernel's boot id as bytes; zero where there is none.
func bootUUID() (id [16]byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(bootID(), "-", ""))
	if err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// stamped gives the time of a message that was published, or the present one where it has none.
func (a *Agent) stamped(m store.Message) (time.Time, wire.ClockQuality) {
	if m.At.IsZero() || int(m.Clock) >= len(qualities) {
		return a.time()
	}
	return m.At, qualities[m.Clock]
}

// now is what certificates and metadata are held against.
func (a *Agent) now() time.Time {
	now, _ := a.time()
	return now
}

func (a *Agent) clockSynced() bool {
	_, quality := a.time()
	return quality == wire.ClockSynced
}

// loadGood reads the floor. Without it a board still starts.
func (a *Agent) loadGood() {
	b, ok, err := a.store.Get(goodRecord)
	switch {
	case err == nil && ok && len(b) == 8:
		a.good.at = time.Unix(int64(binary.BigEndian.Uint64(b)), 0)
	case err != nil || ok:
		a.log.Error("the time that was saved last can't be read", "bytes", len(b), "cause", err)
	}
}

// saveGood keeps the floor for a start without a network. While the clock is not synchronised it looks again, ever more rarely.
func (a *Agent) saveGood(ctx context.Context) error {
	const first, rarely = time.Minute, time.Hour
	for wait := first; ; {
		synced, err := a.noteGood()
		switch {
		case err != nil:
			a.log.Error("the time can't be saved", "cause", err)
			wait = rarely
		case synced:
			wait = saveEvery
		default:
			wait = min(2*wait, rarely)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// noteGood saves a synchronised time that differs from the saved one by a day, also when it is earlier: then that one was
// wrong. synced is false while there is none to save.
func (a *Agent) noteGood() (synced bool, err error) {
	now, quality := a.time()
	if quality != wire.ClockSynced {
		return false, nil
	}
	a.good.mu.Lock()
	defer a.good.mu.Unlock()
	if now.Sub(a.good.at).Abs() < saveEvery {
		return true, nil
	}
	if err := a.store.Put(map[string][]byte{goodRecord: binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))}); err != nil {
		return false, err
	}
	a.good.at = time.Unix(now.Unix(), 0)
	return true, nil
}

// kernelSynced asks the kernel whether something (NTP, PTP, GPS) disciplines the clock: adjtimex(2), STA_UNSYNC.
func kernelSynced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	const timeError = 5 // TIME_ERROR
	return err == nil && state != timeError && t.Status&unix.STA_UNSYNC == 0
}
