package manifest

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// node is a TOML value that knows where it stands.
type node struct {
	kind  unstable.Kind // a scalar's, Array or Table
	at    int           // byte offset of the value; of the header or key for a table
	text  string        // scalars
	items []*node       // Array
	keys  []*entry      // Table, in the file's order
}

type entry struct {
	name  string
	at    int
	value *node
}

func (n *node) get(name string) *entry {
	for _, e := range n.keys {
		if e.name == name {
			return e
		}
	}
	return nil
}

// parseTree reads TOML. A syntax error is one fault, and the tree is nil.
func parseTree(f *faults) *node {
	// The library's decoder is the judge of what is TOML; the parser below only finds the places.
	var valid map[string]any
	if err := toml.Unmarshal(f.data, &valid); err != nil {
		var de *toml.DecodeError
		at, text := 0, err.Error()
		if errors.As(err, &de) {
			line, column := de.Position()
			at, text = offset(f.data, line, column), strings.TrimPrefix(de.Error(), "toml: ")
		}
		f.add(at, "%s", text)
		return nil
	}
	root := &node{kind: unstable.Table}
	current := root
	var p unstable.Parser
	p.Reset(f.data)
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			current, _ = descend(root, path(e), false)
		case unstable.ArrayTable:
			current, _ = descend(root, path(e), true)
		case unstable.KeyValue:
			set(current, e)
		}
	}
	if err := p.Error(); err != nil {
		f.add(0, "%s", err)
		return nil
	}
	return root
}

// offset is the inverse of the library's line and column, which counts bytes.
func offset(data []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(string(data[at:]), '\n')
		if i < 0 {
			break
		}
		at += i + 1
	}
	return min(at+max(column-1, 0), len(data))
}

type step struct {
	name string
	at   int
}

func path(e *unstable.Node) []step {
	var steps []step
	for it := e.Key(); it.Next(); {
		k := it.Node()
		steps = append(steps, step{string(k.Data), int(k.Raw.Offset)})
	}
	return steps
}

// descend goes from n along the keys, makes what is missing, and ends in a table: for another, a new element of an
// array of tables.
func descend(n *node, keys []step, another bool) (*node, *entry) {
	var last *entry
	for i, k := range keys {
		e := n.get(k.name)
		if e == nil {
			e = &entry{name: k.name, at: k.at, value: &node{kind: unstable.Table, at: k.at}}
			if another && i == len(keys)-1 {
				e.value.kind = unstable.Array
			}
			n.keys = append(n.keys, e)
		}
		last, n = e, e.value
		if n.kind == unstable.Array {
			if another && i == len(keys)-1 {
				n.items = append(n.items, &node{kind: unstable.Table, at: k.at})
			}
			n = n.items[len(n.items)-1]
		}
	}
	return n, last
}

func set(n *node, e *unstable.Node) {
	keys := path(e)
	last := keys[len(keys)-1]
	n, _ = descend(n, keys[:len(keys)-1], false)
	n.keys = append(n.keys, &entry{name: last.name, at: last.at, value: value(e.Value(), last.at)})
}

// value reads a value; at is its key's place, for values that have none of their own.
func value(v *unstable.Node, at int) *node {
	n := &node{kind: v.Kind, at: at}
	if v.Raw.Length > 0 {
		n.at = int(v.Raw.Offset)
	}
	switch v.Kind {
	case unstable.Array:
		for it := v.Children(); it.Next(); {
			n.items = append(n.items, value(it.Node(), n.at))
		}
	case unstable.InlineTable:
		n.kind = unstable.Table
		for it := v.Children(); it.Next(); {
			set(n, it.Node())
		}
	default:
		n.text = string(v.Data)
	}
	return n
}

func (n *node) integer() (int64, bool) {
	if n.kind != unstable.Integer {
		return 0, false
	}
	i, err := strconv.ParseInt(strings.ReplaceAll(strings.TrimPrefix(n.text, "+"), "_", ""), 0, 64)
	return i, err == nil
}

// kindName is what people call a kind of value.
func kindName(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "a string"
	case unstable.Bool:
		return "true or false"
	case unstable.Integer, unstable.Float:
		return "a number"
	case unstable.Array:
		return "a list"
	case unstable.Table, unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}
