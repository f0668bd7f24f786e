package manifest

import (
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"dunlin.dev/dunlin/fleet/wire"
)

// SpinVersion is the spin_manifest_version that this build reads.
const SpinVersion = 2

// noVersion is the version of a Spin application that names none.
const noVersion = "0.0.0"

// spin turns the tables of a spin.toml into those of a dunlin.toml, with the places that they had, for the same readers.
// Keys are those of Spin's schema (crates/manifest/src/schema/v2.rs) and of its mqtt and cron triggers.
type spin struct {
	f         *faults
	m         *Manifest
	values    Lookup
	variables map[string]*variable
	names     map[string]string // a component's id to its name here
	tables    *node             // [component.<name>] as dunlin.toml has them
	static    map[*node]*wire.Static
}

func isSpin(root *node) bool {
	return root.get("spin_manifest_version") != nil || root.get("spin_version") != nil
}

func readSpin(root *table, values Lookup) (*Manifest, error) {
	f := root.f
	if !spinVersion(root) {
		return nil, f.err()
	}
	s := &spin{f: f, m: &Manifest{}, values: values, names: map[string]string{}, static: map[*node]*wire.Static{},
		tables: &node{kind: unstable.Table, at: root.n.at}}
	application, triggers := root.require("application"), root.require("trigger")
	s.readVariables(root)
	if application != nil {
		s.application(&table{f: f, n: root.sub("application", "[application]").node(), name: "[application]"})
	}
	s.components(root.sub("component", "[component.<id>]"))
	if triggers != nil {
		s.triggers(root.sub("trigger", "[[trigger.<type>]]"), root.n)
	}
	root.rest()
	if err := f.err(); err != nil {
		return nil, err
	}
	s.m.Notes = f.notes()
	return s.m, nil
}

// node of a table that may not be there: an empty one then.
func (t *table) node() *node {
	if t == nil {
		return &node{kind: unstable.Table}
	}
	return t.n
}

// spinVersion reports whether this is a version that can be read.
func spinVersion(root *table) bool {
	const out = "Spin manifest of version 1: this build reads version 2; \"spin doctor\" turns the one into the other"
	if e := root.find("spin_version"); e != nil {
		root.f.add(e.at, out)
		return false
	}
	e := root.require("spin_manifest_version")
	switch v, ok := e.value.integer(); {
	case ok && v == SpinVersion:
		return true
	case v == 1 || e.value.text == "1":
		root.f.add(e.at, out)
	default:
		root.f.add(e.value.at, "spin_manifest_version: this build reads version %d", SpinVersion)
	}
	return false
}

func (s *spin) application(t *table) {
	out := t.only("version")
	if out.get("version") == nil {
		s.f.note(t.n.at, "[application] has no version: it is %s, which boards take once; give it one that grows", noVersion)
		out.set("version", text(t.n.at, noVersion))
	}
	if e := t.require("name"); e != nil {
		out.set("name", s.renamed("application", e.value))
	}
	t.unused("description", "authors")
	t.ignored("targets", "dunlin check holds components against what boards have")
	if all := t.sub("trigger", "[application.trigger.<type>]"); all != nil {
		for _, e := range all.n.keys {
			why := "a trigger has its settings by itself"
			if e.name == "mqtt" {
				why = "messages come from the board's bus, which its configuration and dunlin up --mqtt name"
			}
			s.f.note(e.at, "[application.trigger.%s] has no meaning here: %s", e.name, why)
		}
	}
	if tools := t.sub("tool", "[application.tool.<name>]"); tools != nil {
		for _, e := range tools.n.keys {
			s.f.note(e.at, "[application.tool.%s] has no meaning here", e.name)
		}
	}
	t.rest()
	s.m.readApplication(&table{f: s.f, n: &node{kind: unstable.Table, keys: []*entry{{name: "application", at: t.n.at, value: out}}}})
}

// components reads the [component.<id>] tables. An inline one of a trigger comes later.
func (s *spin) components(all *table) {
	for _, e := range all.node().keys {
		t := all.sub(e.name, "[component."+e.name+"]")
		if t == nil {
			continue
		}
		name := s.renamed("component", text(e.at, e.name)).text
		s.names[e.name] = name
		s.component(t, name)
	}
}

// component puts one among the tables that a dunlin.toml would have.
func (s *spin) component(t *table, name string) {
	if s.tables.get(name) != nil {
		s.f.add(t.n.at, "%s: its name %q here is another component's too", t.name, name)
		return
	}
	out := t.only("environment")
	out.at = t.n.at
	s.tables.set(name, out)
	if e := t.require("source"); e != nil {
		out.set("source", s.source(e.value, t.name))
	}
	if e := t.find("variables"); e != nil {
		for _, v := range e.value.keys {
			s.expand(v.value)
		}
		out.set("variables", e.value)
	}
	if e := t.find("key_value_stores"); e != nil {
		out.set("key_value_stores", e.value)
	}
	s.outbound(t, out)
	for _, key := range []string{"files", "exclude_files"} {
		if e := t.find(key); e != nil {
			out.set(key, e.value)
		}
	}
	t.unused("description")
	t.ignored("targets", "dunlin check holds components against what boards have")
	t.ignored("sqlite_databases", "boards have key_value_stores")
	t.ignored("ai_models", "boards have no models")
	t.ignored("build", "build first")
	t.ignored("profile", "what source names is what runs")
	t.ignored("dependencies", "compose the component first, for example with wac plug")
	t.ignored("dependencies_inherit_configuration", "a composed component has its own grants as a whole")
	s.tools(t, out)
	t.rest()
}

// source is the path of a component.
func (s *spin) source(n *node, of string) *node {
	if n.kind != unstable.Table {
		return n
	}
	at := n.at
	switch {
	case n.get("url") != nil:
		s.f.add(at, "source of %s is a URL: download it, compare its digest, and name the file", of)
	case n.get("package") != nil:
		s.f.add(at, "source of %s is in a registry: get it, for example with wkg get, and name the file", of)
	default:
		s.f.add(at, "source of %s is a table, want the path of a file", of)
	}
	return text(at, "unknown")
}

// dunlinTool is the [component.<id>.tool.dunlin] table: what Spin's manifest has no key for, and ignores.
const dunlinTool = "dunlin"

// tools takes over what [component.<id>.tool.dunlin] grants.
func (s *spin) tools(t *table, out *node) {
	all := t.sub("tool", t.name+" tool")
	if all == nil {
		return
	}
	for _, e := range all.n.keys {
		name := strings.TrimSuffix(t.name, "]") + ".tool." + e.name + "]"
		if e.name != dunlinTool {
			s.f.note(e.at, "%s has no meaning here", name)
			continue
		}
		ours := all.sub(dunlinTool, name)
		if ours == nil {
			continue
		}
		for _, key := range []string{"limits", "publish", "blob_stores", "directory"} {
			if e := ours.find(key); e != nil {
				out.drop(key) // an entry for mqtt among the outbound hosts says less
				out.set(key, e.value)
			}
		}
		ours.rest()
	}
}

// outbound keeps the hosts that requests can go to.
func (s *spin) outbound(t *table, out *node) {
	hosts := &node{kind: unstable.Array, at: t.n.at}
	add := func(key string, turn func(*node)) {
		e := t.find(key)
		if e == nil {
			return
		}
		if e.value.kind != unstable.Array {
			t.wrong(e, "a list of strings")
			return
		}
		for _, item := range e.value.items {
			turn(item)
		}
	}
	add("allowed_outbound_hosts", func(n *node) {
		templated := s.expand(n)
		n.text = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(n.text), "/"))
		scheme, host, _ := strings.Cut(n.text, "://")
		switch {
		case templated && (host == "" || host == "/"): // an optional host that has no value
		case strings.HasSuffix(host, ".spin.internal") || strings.Contains(host, ".spin.internal:"):
			s.f.note(n.at, "%q has no meaning here: components don't call each other; publish a message, or compose them", n.text)
		case scheme == "mqtt" || scheme == "mqtts":
			s.f.note(n.at, "%q: what %s publishes goes to the board's bus, whatever the address", n.text, t.name)
			out.drop("publish")
			out.set("publish", &node{kind: unstable.Array, at: n.at, items: []*node{text(n.at, "#")}})
		case slices.Contains([]string{"redis", "rediss", "mysql", "postgres", "postgresql"}, scheme):
			s.f.note(n.at, "%q has no meaning here: boards have key_value_stores", n.text)
		default:
			hosts.items = append(hosts.items, n)
		}
	})
	add("allowed_http_hosts", func(n *node) { // deprecated: host[:port], or one word for all
		if n.text == "insecure:allow-all" {
			hosts.items = append(hosts.items, text(n.at, "https://*:*"), text(n.at, "http://*:*"))
			return
		}
		bare := strings.TrimPrefix(strings.TrimPrefix(n.text, "https://"), "http://")
		hosts.items = append(hosts.items, text(n.at, "https://"+bare), text(n.at, "http://"+bare))
	})
	if len(hosts.items) > 0 {
		out.set("allowed_outbound_hosts", hosts)
	}
}

// renamed is a name as applications and components have it here.
func (s *spin) renamed(what string, n *node) *node {
	if n.kind != unstable.String {
		return n // a fault later
	}
	name := strings.Map(func(r rune) rune {
		if wire.CheckName(what, "a"+string(r)) == nil {
			return r
		}
		return '-'
	}, strings.ToLower(n.text))
	name = strings.Trim(name, "-.")
	if name != n.text && name != "" {
		s.f.note(n.at, "the %s %q is %q here", what, n.text, name)
		return text(n.at, name)
	}
	return n
}

// only copies the entries that mean the same here.
func (t *table) only(keys ...string) *node {
	out := &node{kind: unstable.Table, at: t.n.at}
	for _, key := range keys {
		if e := t.find(key); e != nil {
			out.keys = append(out.keys, e)
		}
	}
	return out
}

// unused keys are for people, and not worth a word.
func (t *table) unused(keys ...string) {
	for _, key := range keys {
		t.find(key)
	}
}

// ignored says that a key is not used, and why.
func (t *table) ignored(key, why string) {
	e := t.find(key)
	if e == nil {
		return
	}
	if e.value.kind == unstable.Table && strings.HasPrefix(t.name, "[component.") {
		t.f.note(e.at, "%s.%s] has no meaning here: %s", strings.TrimSuffix(t.name, "]"), key, why)
		return
	}
	t.f.note(e.at, "%s in %s has no meaning here: %s", key, t.name, why)
}

func text(at int, s string) *node { return &node{kind: unstable.String, at: at, text: s} }

func (n *node) set(key string, value *node) {
	n.keys = append(n.keys, &entry{name: key, at: value.at, value: value})
}

func (n *node) drop(key string) {
	n.keys = slices.DeleteFunc(n.keys, func(e *entry) bool { return e.name == key })
}
