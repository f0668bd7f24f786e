package manifest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"dunlin.dev/dunlin/fleet/wire"
)

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// triggers reads the [[trigger.<type>]] tables, and after them the components, of which some stand in them.
func (s *spin) triggers(all *table, root *node) {
	if all == nil {
		return
	}
	kinds := map[string][]*table{}
	for _, e := range all.n.keys {
		if e.name == "http" || e.name == "mqtt" || e.name == "cron" {
			for _, t := range all.subs(e.name, "[[trigger."+e.name+"]]") {
				if out := s.trigger(t, e.name); out != nil {
					kinds[e.name] = append(kinds[e.name], &table{f: s.f, n: out, name: t.name})
				}
			}
			continue
		}
		s.f.add(e.at, "[[trigger.%s]] has no equal here: http, mqtt and cron have", e.name)
	}
	if len(all.n.keys) == 0 {
		s.f.add(all.n.at, "the manifest has no trigger: nothing would ever run")
	}
	// Components that others are composed of, or that only Spin's private routes lead to.
	for _, e := range slices.Clone(s.tables.keys) {
		named := func(t *table) bool { return t.n.get("component").is(e.name) }
		if !slices.ContainsFunc(slices.Concat(kinds["http"], kinds["mqtt"], kinds["cron"]), named) {
			s.f.note(e.value.at, "the component %q does not run: no trigger here leads to it", e.name)
			s.tables.drop(e.name)
		}
	}
	holder := &node{kind: unstable.Table, at: root.at}
	holder.set("component", s.tables)
	s.m.readComponents(&table{f: s.f, n: holder})
	r := &triggers{m: s.m, ids: map[string]bool{}, used: map[string]bool{}, static: s.static}
	r.read(all, kinds["http"], kinds["mqtt"], kinds["cron"])
	for i := range s.m.Triggers.HTTP {
		s.m.Triggers.HTTP[i].Spin = true
	}
}

func (e *entry) is(text string) bool { return e != nil && e.value.text == text }

// trigger as dunlin.toml has it; nil if there is none to make.
func (s *spin) trigger(t *table, kind string) *node {
	out := &node{kind: unstable.Table, at: t.n.at}
	if e := t.find("id"); e != nil {
		out.set("id", s.renamed("trigger", e.value))
	}
	t.find("components")
	if e := t.find("dependencies"); e != nil {
		s.f.add(e.at, "dependencies in %s: middleware is not run here, and what it guards would stand open; compose it into the component", t.name)
	}
	name := s.componentOf(t, kind, out)
	keep := true
	switch kind {
	case "http":
		keep = s.http(t, out, name)
	case "mqtt":
		if e := t.require("topic"); e != nil {
			s.expand(e.value)
			out.set("topic", e.value)
		}
		if e := t.require("qos"); e != nil { // a string, in Spin
			out.set("qos", &node{kind: unstable.Integer, at: e.value.at, text: e.value.text})
		}
	case "cron":
		if e := t.require("cron_expression"); e != nil {
			out.set("cron", s.cron(e.value))
		}
	}
	t.rest()
	if !keep {
		return nil
	}
	return out
}

// componentOf sets the trigger's component: an id, or a table in its place.
func (s *spin) componentOf(t *table, kind string, out *node) string {
	e := t.find("component")
	if e == nil {
		return "" // an http trigger may have something else
	}
	if e.value.kind == unstable.Table {
		n := 1
		name := "inline-" + kind
		for s.tables.get(name) != nil {
			n++
			name = "inline-" + kind + "-" + strconv.Itoa(n)
		}
		s.component(&table{f: s.f, n: e.value, name: "component of " + t.name}, name)
		out.set("component", text(e.value.at, name))
		return name
	}
	value := e.value
	if name, ok := s.names[value.text]; ok && value.kind == unstable.String {
		value = text(value.at, name)
	}
	out.set("component", value)
	return value.text
}

// http reads what is left of an http trigger, and reports whether there is a route to serve.
func (s *spin) http(t *table, out *node, component string) bool {
	if e := t.find("executor"); e != nil {
		kind := e.value.get("type")
		if kind == nil || kind.value.text != "http" && kind.value.text != "spin" {
			s.f.add(e.at, "executor in %s: only components with an HTTP interface run here; build the component for wasi:http", t.name)
		}
	}
	e := t.require("route")
	if e == nil {
		return true
	}
	if e.value.kind == unstable.Table {
		inner := &table{f: s.f, n: e.value, name: "route of " + t.name}
		if !inner.flag("private") {
			s.f.add(e.value.at, "route in %s: want a path, or { private = true }", t.name)
		}
		inner.rest()
		s.f.note(e.value.at, "a private route has no meaning here: components don't call each other")
		return false
	}
	if e.value.kind == unstable.String {
		route := "/" + strings.TrimPrefix(e.value.text, "/")
		if prefix, ok := strings.CutSuffix(route, "/*"); ok {
			route = prefix + "/..."
		}
		out.set("route", text(e.value.at, route))
	} else {
		out.set("route", e.value)
	}
	answer := t.sub("static_response", t.name+" static_response")
	switch {
	case answer == nil && component == "":
		s.f.add(t.n.at, "%s has neither component nor static_response", t.name)
		return false
	case answer != nil && component != "":
		s.f.add(t.n.at, "%s has both component and static_response", t.name)
		return false
	case answer != nil:
		s.static[out] = readStatic(answer)
	}
	return true
}

func readStatic(t *table) *wire.Static {
	a := &wire.Static{Status: int(t.integer("status_code", 200, 599, 200)), Headers: t.texts("headers", func(string) error { return nil })}
	a.Body, _ = t.str(t.find("body"))
	t.rest()
	if err := a.Check(); err != nil {
		t.f.add(t.n.at, "%s: %s", t.name, err)
	}
	return a
}

// cron turns Spin's six fields, or seven with the year, in UTC, into our six.
func (s *spin) cron(n *node) *node {
	if n.kind != unstable.String {
		return n
	}
	fields := strings.Fields(n.text)
	bad := func(why string) *node {
		s.f.add(n.at, "cron_expression %.100q %s", n.text, why)
		return text(n.at, "0 0 * * *")
	}
	if len(fields) == 7 {
		if fields[6] != "*" && fields[6] != "?" {
			return bad("restricts the year, which boards don't: write * for it")
		}
		fields = fields[:6]
	}
	if len(fields) != 6 {
		return bad(fmt.Sprintf("has %d fields: Spin's have six, from seconds to the day of the week, or seven with the year", len(fields)))
	}
	every := func(field string) bool { return field == "*" || field == "?" }
	if !every(fields[3]) && !every(fields[5]) {
		return bad("restricts both the day of the month and the day of the week: where Spin wants both to match, here either is enough; leave one as *")
	}
	line := strings.Join(fields, " ")
	if _, err := wire.ParseCron(line, "UTC"); err != nil {
		return bad("can't be read: " + strings.TrimPrefix(err.Error(), fmt.Sprintf("cron line %.100q: ", line)))
	}
	return text(n.at, line)
}
