package http

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/fleet/wire"
)

// Route is one binding. Pattern is an exact path ("/climate"), a prefix ("/climate/..."), and may have single segments
// that match anything ("/room/:id/climate"). A slash at the end of a path or a pattern makes no difference.
type Route struct {
	ID      string
	Pattern string
	Handle  trigger.Handler
	Spin    bool // requests carry the headers that Spin adds
}

// table holds routes, the most specific ones first.
type table struct{ routes []parsed }

type parsed struct {
	Route
	segments []string // literal, or "" where anything matches
	prefix   bool
	rank     string // sorts by specificity: at each segment a literal comes before a parameter, the end before "..."
}

func newTable(routes []Route) (*table, error) {
	t := &table{routes: make([]parsed, 0, len(routes))}
	taken := map[string]string{} // what a pattern matches, to the id of the route
	for _, r := range routes {
		matches, err := wire.CheckRoute(r.Pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.ID, err)
		}
		if other, ok := taken[matches]; ok {
			return nil, fmt.Errorf("routes %s and %s both match %s: give one of them another path", other, r.ID, r.Pattern)
		}
		taken[matches] = r.ID
		t.routes = append(t.routes, parse(r, matches))
	}
	slices.SortStableFunc(t.routes, func(a, b parsed) int { return strings.Compare(a.rank, b.rank) })
	return t, nil
}

// parse what a pattern matches, as wire.CheckRoute gives it.
func parse(r Route, matches string) parsed {
	p := parsed{Route: r}
	for _, s := range split(matches) {
		switch s {
		case "...":
			p.prefix = true
			p.rank += "c"
		case ":":
			p.segments = append(p.segments, "")
			p.rank += "b"
		default:
			p.segments = append(p.segments, s)
			p.rank += "a"
		}
	}
	return p
}

// find the most specific route for an escaped path; nil if there is none.
func (t *table) find(path string) *Route {
	segments := split(path)
	for i, s := range segments {
		// Unescaped one by one: an escaped slash is part of a segment.
		if u, err := url.PathUnescape(s); err == nil {
			segments[i] = u
		}
	}
	for i := range t.routes {
		if t.routes[i].match(segments) {
			return &t.routes[i].Route
		}
	}
	return nil
}

func (p *parsed) match(path []string) bool {
	if len(path) < len(p.segments) || (!p.prefix && len(path) > len(p.segments)) {
		return false
	}
	for i, s := range p.segments {
		if s != "" && s != path[i] {
			return false
		}
	}
	return true
}

// split a path into segments; empty ones are left out.
func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
}
