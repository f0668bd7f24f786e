// Package reconcile turns what a board should run and what it does run into the next thing to do. It is pure: the caller
// observes, asks Next, writes the step down, takes it, and asks again, so that a crash at any line resumes or goes back.
package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Desired is what the fleet wants of this board, from a verified desired envelope.
type Desired struct {
	Generation uint64
	Apps       map[string]string // application -> digest of its release
}

// Release is what is known of a release once its manifest is on the board and verified.
type Release struct {
	Application string
	Components  []Content
	Files       []Content // the archives of components' files
}

// Content names bytes by digest and size.
type Content struct {
	Digest string
	Size   int64
}

// Failure of a step for one release; it is tried again at Retry, at once under a new generation.
type Failure struct {
	Generation uint64
	Attempts   int
	Retry      time.Time
	Err        string
}

// Observed is the board as it is.
type Observed struct {
	Running  map[string]string  // application -> release that serves events
	Stopped  map[string]bool    // applications that are installed and don't serve
	Expired  []string           // applications that were removed, and whose data has been kept long enough
	Previous map[string]string  // application -> release kept to go back to
	Releases map[string]Release // by digest: manifests that are on the board and verified
	Content  map[string]bool    // digests of stored components and archives
	Prepared map[string]bool    // digests of components whose compiled code is in the cache
	Partial  map[string]bool    // digests of components whose transfer has begun
	Failed   map[string]Failure // by release digest
	Offline  bool               // nothing can be fetched now; what is here already can be installed
	Short    bool               // the disk is full: what is kept to go back to is dropped
}

// Kind of a Step.
type Kind string

// The steps of an install, in the order they are taken (DESIGN: compile, instantiate, health check, switch, drain, drop).
const (
	FetchRelease   Kind = "fetch-release"
	FetchComponent Kind = "fetch-component" // or the archive of its files
	Prepare        Kind = "prepare"         // compile
	Activate       Kind = "activate"        // instantiate, check, switch, drain
	Retire         Kind = "retire"          // the application is no longer wanted
	Purge          Kind = "purge"           // delete what a removed application has left behind
	Sweep          Kind = "sweep"           // drop content that nothing refers to
)

// Step is one thing to do.
type Step struct {
	Kind        Kind
	Application string
	Release     string  // digest
	Content     Content // of FetchComponent and Prepare
	Drop        []string
}

// Next gives the next step, or false when there is nothing to do now. One application's failure holds up no other's steps.
func Next(o Observed, d Desired, now time.Time) (Step, bool) {
	for _, app := range slices.Sorted(maps.Keys(d.Apps)) {
		if s, ok := install(o, d, app, now); ok {
			return s, true
		}
	}
	there := maps.Clone(o.Running)
	if there == nil {
		there = map[string]string{}
	}
	for app := range o.Stopped {
		there[app] = o.Running[app]
	}
	for _, app := range slices.Sorted(maps.Keys(there)) {
		if _, wanted := d.Apps[app]; !wanted {
			return Step{Kind: Retire, Application: app, Release: there[app]}, true
		}
	}
	for _, app := range slices.Sorted(slices.Values(o.Expired)) {
		if _, wanted := d.Apps[app]; !wanted { // one that comes back finds its data, however long its install takes
			return Step{Kind: Purge, Application: app}, true
		}
	}
	if drop := unreferenced(o, d); len(drop) > 0 {
		return Step{Kind: Sweep, Drop: drop}, true
	}
	return Step{}, false
}

// Wake is when a failed release is to be tried again; zero when nothing waits. It is after now: a release whose rest is over and
// that Next still gives no step for waits for something else, the link.
func Wake(o Observed, d Desired, now time.Time) time.Time {
	var at time.Time
	for _, rel := range d.Apps {
		f, failed := o.Failed[rel]
		if failed && f.Retry.After(now) && (at.IsZero() || f.Retry.Before(at)) {
			at = f.Retry
		}
	}
	return at
}

func install(o Observed, d Desired, app string, now time.Time) (Step, bool) {
	rel := d.Apps[app]
	if f, failed := o.Failed[rel]; failed && f.Generation == d.Generation && now.Before(f.Retry) {
		return Step{}, false
	}
	manifest, known := o.Releases[rel]
	if !known {
		if o.Offline {
			return Step{}, false
		}
		return Step{Kind: FetchRelease, Application: app, Release: rel}, true
	}
	// Everything is on the board before anything is compiled: a link that drops leaves nothing half installed.
	for _, kind := range []Kind{FetchComponent, Prepare} {
		have, content := o.Content, slices.Concat(manifest.Components, manifest.Files)
		if kind == Prepare {
			have, content = o.Prepared, manifest.Components
		}
		for _, c := range content {
			if !have[c.Digest] {
				if kind == FetchComponent && o.Offline {
					return Step{}, false
				}
				return Step{Kind: kind, Application: app, Release: rel, Content: c}, true
			}
		}
	}
	// A release that runs already went through the above too: what is damaged or gone of it is fetched again.
	if o.Running[app] == rel {
		return Step{}, false
	}
	return Step{Kind: Activate, Application: app, Release: rel}, true
}

// unreferenced is all content that no running, previous or wanted release names. A wanted release whose manifest isn't here
// yet may share content with anything, so nothing is dropped until it is.
func unreferenced(o Observed, d Desired) []string {
	keep := map[string]bool{}
	if o.Short {
		for _, rel := range o.Previous {
			keep[rel] = true // its manifest takes no room, and tells what to fetch
		}
		o.Previous = nil
	}
	for _, set := range []map[string]string{o.Running, o.Previous, d.Apps} {
		for _, rel := range set {
			m, known := o.Releases[rel]
			if !known {
				return nil
			}
			keep[rel] = true
			for _, c := range slices.Concat(m.Components, m.Files) {
				keep[c.Digest] = true
			}
		}
	}
	var drop []string
	for _, have := range []map[string]bool{o.Content, o.Prepared, o.Partial} {
		for digest := range have {
			if !keep[digest] {
				drop = append(drop, digest)
			}
		}
	}
	for digest := range o.Releases {
		if !keep[digest] {
			drop = append(drop, digest)
		}
	}
	slices.SortFunc(drop, cmp.Compare)
	return slices.Compact(drop)
}

// Backoff is how long a release that failed n times in a row rests: 5 s doubling to 10 min. jitter is in [0,1).
func Backoff(n int, jitter float64) time.Duration {
	const first, most = 5 * time.Second, 10 * time.Minute
	d := first << min(max(n-1, 0), 10)
	if d > most {
		d = most
	}
	return d/2 + time.Duration(float64(d/2)*jitter)
}
