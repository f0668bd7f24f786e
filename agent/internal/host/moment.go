package host

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Moment is when an event is handled, as well as the board knows. A handler finds it in a request's headers and a message's metadata
// as dunlin-at, dunlin-clock, dunlin-boot and dunlin-up, and with every trigger in its environment, as DUNLIN_AT and so on.
type Moment struct {
	At    time.Time     // when the board took the event in; zero: nobody said
	Clock string        // how far the wall clock can be trusted now: "synced", "estimated" or "unsynced"
	Boot  string        // the kernel's boot id
	Up    time.Duration // since that boot, now: what remains of time where the clock can't be trusted
}

const momentPrefix = "dunlin-"

// pairs of the moment, by name; none where nobody tells it. It is asked for once, when the guest first looks.
func (g *Guest) moment() [][2]string {
	if g.env.Moment == nil {
		return nil
	}
	if g.told == nil {
		m := g.env.Moment()
		if !m.At.IsZero() {
			g.told = append(g.told, [2]string{momentPrefix + "at", strconv.FormatInt(m.At.UnixMilli(), 10)})
		}
		g.told = append(g.told, [2]string{momentPrefix + "boot", m.Boot}, [2]string{momentPrefix + "clock", m.Clock},
			[2]string{momentPrefix + "up", strconv.FormatInt(m.Up.Milliseconds(), 10)})
	}
	return g.told
}

// requestFields are a request's headers, with the moment in place of whatever the client says in its name.
func (g *Guest) requestFields(h http.Header) *fields {
	f := fieldsOf(h)
	if g.env.Moment != nil {
		f.extra = g.moment
	}
	return f
}

// addMoment to the lines that came from net/http.
func (f *fields) addMoment() {
	if f.extra == nil {
		return
	}
	f.lines = slices.DeleteFunc(f.lines, func(l field) bool { return strings.HasPrefix(l.name, momentPrefix) })
	for _, p := range f.extra() {
		f.lines = append(f.lines, field{p[0], []byte(p[1])})
	}
	f.extra = nil
}

// environ is the manifest's environment, and the moment.
func (g *Guest) environ() map[string]string {
	all := make(map[string]string, len(g.env.Environ)+4)
	maps.Copy(all, g.env.Environ)
	for _, p := range g.moment() {
		all[strings.ToUpper(strings.ReplaceAll(p[0], "-", "_"))] = p[1]
	}
	return all
}
