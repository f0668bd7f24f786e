package cli

import (
	"context"
	"flag"
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

// waitFlags say for how long a command waits for boards.
type waitFlags struct {
	wait, noWait bool
	timeout      time.Duration
}

func (f *waitFlags) flags(set *flag.FlagSet) {
	set.BoolVar(&f.wait, "wait", true, "")
	set.BoolVar(&f.noWait, "no-wait", false, "")
	set.DurationVar(&f.timeout, "timeout", 5*time.Minute, "")
}

// finish waits for the boards that a version was assigned to ("": none of the application), and prints their table.
func (f *waitFlags) finish(ctx context.Context, env *Env, c *client.Client, out *progress, application, version string, assigned model.Assigned, show func([]row) error) error {
	w := &waiting{application: application, version: version, generations: map[string]uint64{}, started: env.Now()}
	for _, d := range assigned.Devices {
		w.generations[d.Name] = d.Generation
	}
	late := false
	var list model.Devices
	var err error
	if f.wait && !f.noWait {
		list, late, err = w.wait(ctx, c, out, f.timeout, env.Now)
	} else {
		list, err = c.Devices(ctx, 0, 0)
	}
	if err != nil {
		return err
	}
	rows, failed := w.rows(list.Devices, env.Now())
	err = show(rows)
	switch {
	case err != nil:
		return err
	case failed:
		return &exit{code: ExitRefused}
	case late:
		return Hint(&exit{ExitTimeout, fmt.Sprintf("boards were still at it after %s", f.timeout)}, "they go on by themselves; dunlin devices shows how far they are")
	}
	return nil
}

// waiting is the boards that a release was assigned to, and how they fare.
type waiting struct {
	application, version string            // without a version: to be removed
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
		there := false
		for _, a := range d.Applications {
			if a.Application != w.application {
				continue
			}
			there = true
			switch {
			case a.Desired != w.version: // somebody assigned another version since
				return runs
			case w.version == "":
			case a.Phase == wire.PhaseFailed:
				return failed
			case a.Version == w.version && (a.Phase == wire.PhaseRunning || a.Phase == wire.PhaseIdle):
				return runs
			}
		}
		if w.version == "" && !there {
			return runs
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
		for _, removed := range d.Removed {
			if removed.Application == w.application && r.Phase == "" {
				r.Phase, r.Note = "removed", "its data is kept"+keptFor(removed.Left)
			}
		}
		switch w.judge(d, now) {
		case failed:
			anyFailed = true
		case away:
			r.Note = fmt.Sprintf("hears of it when it is back; last seen %s", ago(now.Sub(d.LastSeen)))
		}
		rows = append(rows, r)
	}
	return rows, anyFailed
}
