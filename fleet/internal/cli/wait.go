package cli

import (
	"context"
	"fmt"
	"time"

	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
)

// A board that was here a moment ago may be on its way back: the server was restarted, say.
const (
	backSoon  = 2 * time.Minute
	backGrace = 30 * time.Second
)

// waiting is the boards that a release was assigned to, and how they fare.
type waiting struct {
	application, version string
	generations          map[string]uint64 // by device
	started              time.Time
}

// fate of one board.
type fate int

const (
	busy fate = iota
	runs
	failed
	away
)

// judge is pure: what a board's newest report says about our release at a time.
func (w *waiting) judge(d model.Device, now time.Time) fate {
	generation := w.generations[d.Name]
	if d.Refused != nil && d.Refused.Generation >= generation && d.Generation.Reported < generation {
		return failed
	}
	if d.Generation.Reported >= generation {
		for _, a := range d.Applications {
			if a.Application != w.application {
				continue
			}
			switch {
			case a.Desired != w.version: // somebody assigned another version since
				return runs
			case a.Phase == wire.PhaseFailed:
				return failed
			case a.Version == w.version && (a.Phase == wire.PhaseRunning || a.Phase == wire.PhaseIdle):
				return runs
			}
		}
	}
	if !d.Online && (w.started.Sub(d.LastSeen) > backSoon || now.Sub(w.started) > backGrace) {
		return away
	}
	return busy
}

// wait until no board is busy, or timeout; late says that it was the latter.
func (w *waiting) wait(ctx context.Context, c *client.Client, out *progress, timeout time.Duration, now func() time.Time) (list model.Devices, late bool, err error) {
	bar := out.bar("wait", "", int64(len(w.generations)))
	defer bar.clear()
	for {
		left := w.started.Add(timeout).Sub(now())
		if list, err = c.Devices(ctx, list.Revision, min(max(left, 0), 5*time.Second)); err != nil {
			return list, false, err
		}
		settled := 0
		for _, d := range list.Devices {
			if _, ours := w.generations[d.Name]; ours && w.judge(d, now()) != busy {
				settled++
			}
		}
		bar.set(int64(settled))
		switch {
		case settled >= len(w.generations):
			return list, false, nil
		case left <= 0:
			return list, true, nil
		}
	}
}

// rows of the final table: our application on our boards.
func (w *waiting) rows(list []model.Device, now time.Time) (rows []row, anyFailed bool) {
	rows = []row{} // in JSON none is a list too
	for _, d := range list {
		if _, ours := w.generations[d.Name]; !ours {
			continue
		}
		r := row{Device: d.Name, State: state(d), Application: w.application}
		for _, a := range d.Applications {
			if a.Application == w.application {
				r.Version, r.Phase, r.Note = versions(a), string(a.Phase), note(d, a, now)
			}
		}
		switch w.judge(d, now) {
		case failed:
			anyFailed = true
		case away:
			r.Note = fmt.Sprintf("gets it when it is back; last seen %s", ago(now.Sub(d.LastSeen)))
		}
		rows = append(rows, r)
	}
	return rows, anyFailed
}
