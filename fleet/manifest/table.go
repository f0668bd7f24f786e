package manifest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// table reads one TOML table key by key, and then reports the keys that nobody read.
type table struct {
	f     *faults
	n     *node
	name  string   // as it stands in the file: "[[trigger.mqtt]]"
	known []string // keys that were asked for
}

func (t *table) find(key string) *entry {
	t.known = append(t.known, key)
	return t.n.get(key)
}

// require is find, with a fault if there is no such key.
func (t *table) require(key string) *entry {
	e := t.find(key)
	if e == nil {
		t.f.add(t.n.at, "%s has no %s", t.name, key)
	}
	return e
}

func (t *table) wrong(e *entry, want string) {
	t.f.add(e.value.at, "%s in %s is %s, want %s", e.name, t.name, kindName(e.value.kind), want)
}

// str is a string's text; ok is false, with a fault, if e is something else, and without one if e is nil.
func (t *table) str(e *entry) (string, bool) {
	if e == nil {
		return "", false
	}
	if e.value.kind != unstable.String {
		want := "a string"
		if e.value.text != "" {
			want = fmt.Sprintf("the string %q", e.value.text)
		}
		t.wrong(e, want)
		return "", false
	}
	return e.value.text, true
}

// checked is a string that check passes.
func (t *table) checked(e *entry, check func(string) error) string {
	s, ok := t.str(e)
	if ok {
		if err := check(s); err != nil {
			t.f.add(e.value.at, "%s", err)
		}
	}
	return s
}

// list is a list of strings that check passes.
func (t *table) list(key string, check func(string) error) []string {
	e := t.find(key)
	if e == nil {
		return nil
	}
	if e.value.kind != unstable.Array {
		t.wrong(e, "a list of strings")
		return nil
	}
	var out []string
	for _, item := range e.value.items {
		if item.kind != unstable.String {
			t.f.add(item.at, "%s in %s has %s, want strings", key, t.name, kindName(item.kind))
			continue
		}
		if err := check(item.text); err != nil {
			t.f.add(item.at, "%s", err)
		}
		out = append(out, item.text)
	}
	return out
}

// integer is a whole number from low to high.
func (t *table) integer(key string, low, high, otherwise int64) int64 {
	e := t.find(key)
	if e == nil {
		return otherwise
	}
	i, ok := e.value.integer()
	if !ok || i < low || i > high {
		t.f.add(e.value.at, "%s in %s: want a whole number from %d to %d", key, t.name, low, high)
		return otherwise
	}
	return i
}

// size is a string as "32MiB", in bytes, from low to high.
func (t *table) size(key string, low, high, otherwise int64) int64 {
	e := t.find(key)
	s, ok := t.str(e)
	if !ok {
		return otherwise
	}
	n, err := ParseSize(s)
	if err != nil {
		t.f.add(e.value.at, "%s in %s: %v", key, t.name, err)
		return otherwise
	}
	if n < low || n > high {
		t.f.add(e.value.at, "%s in %s is %s, want %s to %s", key, t.name, s, formatSize(low), formatSize(high))
		return otherwise
	}
	return n
}

// duration is a string as "500ms", from low to high.
func (t *table) duration(e *entry, low, high, otherwise time.Duration) time.Duration {
	s, ok := t.str(e)
	if !ok {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.f.add(e.value.at, "%s in %s is %q, want a duration as in %q, %q or %q", e.name, t.name, s, "500ms", "30s", "1h30m")
		return otherwise
	}
	if d < low || d > high {
		t.f.add(e.value.at, "%s in %s is %s, want %s to %s", e.name, t.name, s, low, high)
		return otherwise
	}
	return d
}

// choice is one of some words; the first is the default.
func (t *table) choice(key string, words ...string) string {
	e := t.find(key)
	s, ok := t.str(e)
	if !ok {
		return words[0]
	}
	for _, w := range words {
		if s == w {
			return s
		}
	}
	t.f.add(e.value.at, "%s in %s is %q%s", key, t.name, s, suggest(s, words))
	return words[0]
}

// sub is a table inside; nil if there is none.
func (t *table) sub(key, name string) *table {
	e := t.find(key)
	if e == nil {
		return nil
	}
	if e.value.kind != unstable.Table {
		t.wrong(e, "a table: write "+name)
		return nil
	}
	return &table{f: t.f, n: e.value, name: name}
}

// texts is a table of strings whose names check passes; nil if there is none.
func (t *table) texts(key string, check func(string) error) map[string]string {
	inner := t.sub(key, t.name+" "+key)
	if inner == nil {
		return nil
	}
	var out map[string]string
	for _, e := range inner.n.keys {
		if err := check(e.name); err != nil {
			t.f.add(e.at, "%s", err)
		}
		if s, ok := inner.str(e); ok {
			if out == nil {
				out = map[string]string{}
			}
			out[e.name] = s
		}
	}
	return out
}

// subs is a list of tables inside.
func (t *table) subs(key, name string) []*table {
	e := t.find(key)
	if e == nil {
		return nil
	}
	if e.value.kind != unstable.Array {
		t.wrong(e, "a list of tables: write "+name)
		return nil
	}
	var out []*table
	for _, item := range e.value.items {
		if item.kind != unstable.Table {
			t.f.add(item.at, "%s has %s, want tables", name, kindName(item.kind))
			continue
		}
		out = append(out, &table{f: t.f, n: item, name: name})
	}
	return out
}

// rest reports the keys that nobody asked for.
func (t *table) rest() {
	asked := map[string]bool{}
	for _, k := range t.known {
		asked[k] = true
	}
	for _, e := range t.n.keys {
		if !asked[e.name] {
			t.f.add(e.at, "unknown key %q in %s%s", e.name, t.name, suggest(e.name, t.known))
		}
	}
}

var units = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}}

// ParseSize reads a size with its unit, "64KiB", in bytes.
func ParseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("size %q: want a whole number and a unit, as in %q, %q or %q", s, "64KiB", "32MiB", "1GiB")
}

func formatSize(n int64) string {
	for _, u := range units {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return "0B"
}
