package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dunlin.dev/dunlin/agent/internal/space"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

// compiled is how many bytes of machine code one of a component becomes, at most: measured 2.4 for 13 MB of JavaScript's engine, 4.6 for 67 KB of Rust.
const compiled = 5

// disk is the room that the state directory has. What to do when it is short goes in this order: handlers' log lines, messages that
// wait for the fleet and are not of high priority, what releases to go back to need. What runs and what was accepted stays.
type disk struct {
	mu   sync.Mutex
	disk space.Disk
	err  error         // the file system could not be asked
	wake chan struct{} // holds one: it has become short or not, seen by another than watchDisk
}

// look at the disk.
func (a *Agent) look() (space.Disk, error) {
	a.disk.mu.Lock()
	defer a.disk.mu.Unlock()
	room, err := a.room()
	if err == nil && a.disk.disk.Look(room) {
		select {
		case a.disk.wake <- struct{}{}:
		default:
		}
	}
	a.disk.err = err
	return a.disk.disk, err
}

func (a *Agent) room() (space.Room, error) {
	room, err := roomUnder(a.cfg.State)
	if err != nil {
		return space.Room{}, err
	}
	st, err := a.store.Stats()
	if err != nil {
		return space.Room{}, err
	}
	room.Reusable = st.Free
	return room, nil
}

// roomUnder a directory, on its file system.
func roomUnder(dir string) (space.Room, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return space.Room{}, fmt.Errorf("ask for free space of %s: %w", dir, err)
	}
	return space.Room{Total: int64(fs.Blocks) * int64(fs.Bsize), Free: int64(fs.Bavail) * int64(fs.Bsize)}, nil //nolint:unconvert // 32 bits wide on some boards
}

// fits says whether there is room, looking anew. A file system that can't be asked is no reason to refuse: the write will tell.
func (a *Agent) fits(database, files int64) error {
	d, err := a.look()
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	return d.Fits(database, files)
}

// short says whether the disk is, and how much is missing beside what the database has of its own.
func (a *Agent) short() (short bool, missing int64) {
	a.disk.mu.Lock()
	defer a.disk.mu.Unlock()
	return a.disk.disk.Short, a.disk.disk.Missing()
}

// quiet: handlers' log lines are the first to go.
func (a *Agent) quiet() bool {
	short, _ := a.short()
	return short
}

// watchDisk sheds while the disk is short, and says so.
func (a *Agent) watchDisk(ctx context.Context) error {
	var rest time.Time // until then nothing is tried that has failed
	for short := false; ; {
		d, err := a.look()
		changed := d.Short != short
		short = d.Short
		switch {
		case err != nil:
			a.log.Warn("the disk can't be looked at", "cause", err)
		case changed && d.Short:
			a.log.Error("degraded: disk", "free", d.Room.Free, "keep", d.Keep.Of(d.Room.Total), "reusable", d.Room.Reusable)
		case changed:
			a.log.Info("the disk has room again", "free", d.Room.Free)
			a.roomy()
		}
		if changed {
			a.report()
		}
		if err == nil && d.Short && time.Now().After(rest) {
			if err := a.makeRoom(d.Missing()); err != nil {
				a.log.Warn("no room can be made on the disk", "cause", err)
				rest = time.Now().Add(time.Minute)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.disk.wake:
		case <-time.After(min(d.Every(), a.cfg.look)):
		}
	}
}

// shedBytes at a time: an event's commit waits for no more.
const shedBytes = 4 << 20

// makeRoom sheds messages that wait for the fleet; where there are none, the manager drops what is kept to go back to. Where nothing is
// missing that the database has not, others may have what it doesn't need.
func (a *Agent) makeRoom(missing int64) error {
	if missing == 0 {
		_, err := a.store.Compact()
		return err
	}
	freed, err := a.store.ShedOutbox(store.High, min(missing, shedBytes))
	if err != nil {
		return err
	}
	if freed > 0 {
		a.log.Warn("messages to the fleet are dropped, because the disk is full", "bytes", freed)
		a.report()
	} else if a.manager != nil {
		a.manager.poke()
	}
	return nil
}

// roomy has the manager try again what found no room.
func (a *Agent) roomy() {
	if a.manager != nil {
		a.manager.retry(waitsForRoom)
	}
}

// diskReport is nil where all is well.
func (a *Agent) diskReport() *wire.DiskReport {
	a.disk.mu.Lock()
	defer a.disk.mu.Unlock()
	if d := &a.disk.disk; d.Short {
		return &wire.DiskReport{Free: d.Room.Free, Keep: d.Keep.Of(d.Room.Total)}
	}
	return nil
}

// diskHealth in words.
func (a *Agent) diskHealth() string {
	a.disk.mu.Lock()
	defer a.disk.mu.Unlock()
	switch {
	case a.disk.err != nil:
		return "degraded: " + a.disk.err.Error()
	case a.disk.disk.Short:
		return "degraded: " + a.disk.disk.String()
	}
	return "ok"
}

// spaceless says whether err is for want of room.
func spaceless(err error) bool {
	var full *space.FullError
	return errors.As(err, &full) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// transfers is the store as fetches use it: none begins for which there is no room.
type transfers struct {
	*store.Store
	fits func(database, files int64) error
}

// BeginTransfer of what an offer tells: its blocks, and then the whole of it beside them.
func (t transfers) BeginTransfer(target string, meta []byte) error {
	offer, err := wire.UnmarshalOffer(meta)
	if err != nil {
		return err
	}
	if err := t.fits(offer.Encoded+offer.Size, 0); err != nil {
		return err
	}
	return t.Store.BeginTransfer(target, meta)
}
