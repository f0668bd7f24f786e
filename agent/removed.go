package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	timertrigger "dunlin.dev/dunlin/agent/internal/trigger/timer"
	"dunlin.dev/dunlin/fleet/wire"
)

// removedArea is where applications are written down that were removed and whose data is still kept: "removed/<application>".
const removedArea = "removed/"

// removed is such a record: for how long the data has been kept, as far as the board knows, and when that was written. What a board without
// a clock can't know, such as how long it was off, doesn't count: the data stays longer then.
type removed struct {
	Version string        `json:"version,omitempty"`
	Kept    time.Duration `json:"kept"`
	Stamp   store.Stamp   `json:"stamp"`
}

// kept is for how long the data has been kept by now.
func (r removed) kept(now store.Stamp) time.Duration {
	since, ok := now.Since(r.Stamp)
	if !ok {
		since = now.Up // the board has started since
	}
	return r.Kept + max(0, since)
}

// sure: between two times of a clock that somebody sets, the time that has passed is known, also over starts.
func (r removed) sure(now store.Stamp) bool { return now.Clock == 0 && r.Stamp.Clock == 0 }

// noteEvery is how often it is written down how long data was kept, while no clock can tell.
const noteEvery = time.Hour

// retire stops an application, and writes down that what it has kept is to be deleted one day.
func (a *Agent) retire(ctx context.Context, app string) error {
	rec, _, err := a.installed(app)
	if err != nil {
		return err
	}
	r := removed{Stamp: a.stamp()}
	if b, ok, err := a.store.Get(manifestArea + rec.Current); err == nil && ok {
		if m, err := wire.ParseRelease(b); err == nil {
			r.Version = m.Version
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := a.store.Put(map[string][]byte{installArea + app: nil, attemptArea + app: nil, removedArea + app: b}); err != nil {
		return err
	}
	old, err := a.replace(app, nil)
	if err != nil {
		return err
	}
	a.log.Info("application is removed", "application", app, "version", r.Version, "its_data_is_kept", a.cfg.keeps())
	if old != nil {
		old.close(ctx)
		a.apps.retire(old)
	}
	return nil
}

// keeps is Config.keep for people.
func (c *Config) keeps() string {
	if c.keep < 0 {
		return "forever"
	}
	return c.keep.String()
}

// removedApps are those whose data is kept.
func (a *Agent) removedApps() (map[string]removed, error) {
	records, err := a.store.List(removedArea)
	if err != nil {
		return nil, err
	}
	out := map[string]removed{}
	for key, value := range records {
		var r removed
		if err := json.Unmarshal(value, &r); err != nil { // its time begins again: too long is better than too short
			a.log.Error("the record of a removed application can't be read", "record", key, "cause", err)
			r = removed{Stamp: a.stamp()}
		}
		out[key[len(removedArea):]] = r
	}
	return out, nil
}

// expired are the removed applications whose time is over, and when it is to be looked again; zero where nothing waits.
func (a *Agent) expired() (apps []string, again time.Duration, err error) {
	all, err := a.removedApps()
	if err != nil || a.cfg.keep < 0 {
		return nil, 0, err
	}
	now := a.stamp()
	for app, r := range all {
		kept := r.kept(now)
		left := a.cfg.keep - kept
		if left <= 0 {
			apps = append(apps, app)
			continue
		}
		if !r.sure(now) {
			if kept-r.Kept >= noteEvery || now.Clock == 0 {
				if err := a.note(app, removed{r.Version, kept, now}); err != nil {
					return nil, 0, err
				}
			}
			left = min(left, noteEvery)
		}
		if again == 0 || left < again {
			again = left
		}
	}
	slices.Sort(apps)
	return apps, again, nil
}

// purgeExpired deletes what is left of applications whose time is over, where no manager does.
func (a *Agent) purgeExpired() error {
	apps, _, err := a.expired()
	for _, app := range apps {
		err = errors.Join(err, a.purge(app))
	}
	return err
}

func (a *Agent) note(app string, r removed) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return a.store.Put(map[string][]byte{removedArea + app: b})
}

// purge deletes all that a removed application has left behind. Interrupted, it is begun again: its record goes last.
func (a *Agent) purge(app string) error {
	if err := wire.CheckName("application", app); err != nil { // it becomes a path
		return fmt.Errorf("delete what %q left behind: %w", app, err)
	}
	bytes, err := a.directories.purge(filepath.Join(a.cfg.State, "data", app))
	if err != nil {
		return fmt.Errorf("delete directories of %s: %w", app, err)
	}
	if err := a.store.DeleteApplication(app); err != nil {
		return err
	}
	waiting, dead, err := a.inbox.ForgetApplication(app)
	if err != nil {
		return err
	}
	timers, err := a.store.List(timertrigger.Area + app + "/")
	if err != nil {
		return err
	}
	changes := map[string][]byte{removedArea + app: nil}
	for key := range timers {
		changes[key] = nil
	}
	if err := a.store.Put(changes); err != nil {
		return err
	}
	a.log.Warn("what a removed application left behind is deleted", "application", app, "kept", a.cfg.keeps(), "directory_bytes", bytes,
		"events_that_waited", waiting, "dead_letters", dead)
	return nil
}

// purge closes the directories below a path and deletes them.
func (d *directories) purge(path string) (bytes int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, one := range d.open {
		if filepath.Dir(p) == path {
			bytes += one.Used()
			if err := one.Close(); err != nil {
				return bytes, err
			}
			delete(d.open, p)
		}
	}
	return bytes, os.RemoveAll(path)
}

// removedReport is what the fleet is told of data that is kept.
func (a *Agent) removedReport() (out []wire.RemovedReport) {
	all, err := a.removedApps()
	if err != nil {
		a.log.Error("which applications were removed can't be read", "cause", err)
		return nil
	}
	now := a.stamp()
	for _, app := range slices.Sorted(maps.Keys(all)) {
		r := wire.RemovedReport{Application: app, Version: all[app].Version}
		if a.cfg.keep >= 0 {
			left := wire.Duration(max(0, a.cfg.keep-all[app].kept(now)).Round(time.Second))
			r.Left = &left
		}
		if out = append(out, r); len(out) == wire.MaxReleases {
			break
		}
	}
	return out
}
