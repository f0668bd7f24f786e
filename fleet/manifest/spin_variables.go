package manifest

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"dunlin.dev/dunlin/fleet/wire"
)

// variable is one of [variables]; it has a value, or a default, or is a fault where it is used.
type variable struct {
	at       int
	value    string
	known    bool
	secret   bool
	notedFor bool // that it is secret, and in a release
}

func (s *spin) readVariables(root *table) {
	s.variables = map[string]*variable{}
	all := root.sub("variables", "[variables]")
	if all == nil {
		return
	}
	for _, e := range all.n.keys {
		if err := wire.CheckVariable(e.name); err != nil {
			s.f.add(e.at, "%s", err)
		}
		t := all.sub(e.name, "[variables."+e.name+"]")
		if t == nil {
			continue
		}
		v := &variable{at: e.at}
		t.unused("description")
		required, secret := t.flag("required"), t.flag("secret")
		v.value, v.known = t.str(t.find("default"))
		t.rest()
		switch v.secret = secret; {
		case !required && !v.known:
			s.f.add(e.at, "variable %q has neither default nor required = true", e.name)
			v.known = true // one fault is enough
		case required && v.known:
			s.f.add(e.at, "variable %q is required and has a default: it is one or the other", e.name)
		}
		if s.values != nil {
			if given, ok := s.values(e.name); ok {
				v.value, v.known = given, true
			}
		}
		s.variables[e.name] = v
	}
}

// flag is true or false; false if it isn't there.
func (t *table) flag(key string) bool {
	e := t.find(key)
	if e != nil && e.value.kind != unstable.Bool {
		t.wrong(e, "true or false")
	}
	return e != nil && e.value.text == "true"
}

// expand puts values in the place of a string's {{ variables }}, and reports whether there were any. Spin's templates
// (crates/expressions) have nothing else: no escapes, no nesting.
func (s *spin) expand(n *node) bool {
	if n.kind != unstable.String || !strings.Contains(n.text, "{{") {
		return false
	}
	var b strings.Builder
	rest := n.text
	for {
		literal, more, ok := strings.Cut(rest, "{{")
		b.WriteString(literal)
		if !ok {
			break
		}
		name, after, ok := strings.Cut(more, "}}")
		if !ok {
			s.f.add(n.at, "%.100q has {{ without }}", n.text)
			return true
		}
		b.WriteString(s.value(n, strings.TrimSpace(name)))
		rest = after
	}
	n.text = b.String()
	return true
}

func (s *spin) value(n *node, name string) string {
	v, ok := s.variables[name]
	switch {
	case !ok:
		var all []string
		for known := range s.variables {
			all = append(all, known)
		}
		s.f.add(n.at, "variable %q is not in [variables]%s", name, suggest(name, sorted(all)))
		return ""
	case !v.known:
		s.f.add(v.at, "variable %q has no value: set %s, or say --variable %s=VALUE", name, SpinEnvironment(name), name)
	case v.secret && !v.notedFor:
		v.notedFor = true
		s.f.note(v.at, "variable %q is secret: the release has its value, for the fleet server and the boards to read", name)
	}
	return v.value
}

// SpinEnvironment is the environment variable that gives a Spin variable its value.
func SpinEnvironment(name string) string { return "SPIN_VARIABLE_" + strings.ToUpper(name) }
