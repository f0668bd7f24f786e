package manifest

import (
	"fmt"
	"strings"

	"dunlin.dev/dunlin/fleet/wire"
)

// readUplinks reads the [[uplink]] tables.
func (m *Manifest) readUplinks(root *table) {
	topics := map[string]bool{}
	for i, t := range root.subs("uplink", "[[uplink]]") {
		if i == wire.MaxUplinkRules {
			t.f.add(t.n.at, "more than %d [[uplink]] tables", wire.MaxUplinkRules)
			return
		}
		r := wire.UplinkRule{}
		r.Topic = strings.TrimPrefix(t.checked(t.require("topic"), func(s string) error {
			s = strings.TrimPrefix(s, wire.UplinkPrefix) // as publish has it
			if topics[s] {
				return fmt.Errorf("duplicate topic %q: only the first [[uplink]] that matches counts", s)
			}
			topics[s] = true
			return wire.CheckFilter(s)
		}), wire.UplinkPrefix)
		if p := t.choice("priority", "normal", string(wire.PriorityHigh), string(wire.PriorityLow)); p != "normal" {
			r.Priority = wire.Priority(p)
		}
		r.Bytes = t.size("bytes", wire.MinUplinkBytes, wire.MaxUplinkBytes, 0)
		r.Age = wire.Duration(t.duration(t.find("age"), wire.MinUplinkAge, wire.MaxUplinkAge, 0))
		r.Reject = t.choice("when_full", "drop-oldest", "reject") == "reject"
		t.rest()
		m.Uplinks = append(m.Uplinks, r)
	}
}
