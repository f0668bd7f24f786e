package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"dunlin.dev/dunlin/fleet/wire"
)

// triggers reads the [[trigger.*]] tables.
type triggers struct {
	m    *Manifest
	ids  map[string]bool
	used map[string]bool // components

	static map[*node]*wire.Static // http triggers that answer by themselves
}

func (m *Manifest) readTriggers(root *table) {
	all := root.sub("trigger", "[[trigger.<kind>]]")
	if all == nil {
		if root.n.get("trigger") == nil {
			root.f.add(root.n.at, "the manifest has no [[trigger.http]], [[trigger.mqtt]] or [[trigger.timer]]: nothing would ever run")
		}
		return
	}
	http, mqtt, timer := all.subs("http", "[[trigger.http]]"), all.subs("mqtt", "[[trigger.mqtt]]"), all.subs("timer", "[[trigger.timer]]")
	all.name = "[trigger]"
	all.rest()
	r := &triggers{m: m, ids: map[string]bool{}, used: map[string]bool{}}
	r.read(all, http, mqtt, timer)
	for _, e := range root.n.get("component").entries() {
		if _, ok := m.Components[e.name]; ok && !r.used[e.name] {
			root.f.add(e.at, "no trigger names the component %q: it would never run", e.name)
		}
	}
}

// read the triggers of each kind.
func (r *triggers) read(all *table, http, mqtt, timer []*table) {
	if n := len(http) + len(mqtt) + len(timer); n > wire.MaxTriggers {
		all.f.add(all.n.at, "%d triggers, limit is %d", n, wire.MaxTriggers)
		return
	}
	// Ids that are given come first, so that derived ones go around them.
	for _, t := range slices.Concat(http, mqtt, timer) {
		r.claim(t)
	}
	r.http(http)
	r.mqtt(mqtt)
	r.timer(timer)
}

// entries are a table's, also of no table.
func (e *entry) entries() []*entry {
	if e == nil {
		return nil
	}
	return e.value.keys
}

func (r *triggers) claim(t *table) {
	id := t.checked(t.find("id"), func(s string) error {
		if err := wire.CheckTriggerID(s); err != nil {
			return err
		}
		if r.ids[s] {
			return fmt.Errorf("two triggers have the id %q", s)
		}
		return nil
	})
	if id != "" {
		r.ids[id] = true
	}
}

// common reads what all triggers have: the component, and the id, by default "<component>.<kind>", then "<component>.<kind>.2".
func (r *triggers) common(t *table, kind string) (id, component string) {
	id = "static." + kind
	if r.static[t.n] == nil {
		component = r.component(t)
		id = component + "." + kind
	}
	if given, ok := t.str(t.n.get("id")); ok {
		return given, component
	}
	first := id
	for n := 2; r.ids[id]; n++ {
		id = first + "." + strconv.Itoa(n)
	}
	r.ids[id] = true
	return id, component
}

// durability of a trigger's events; "sync" is what a release says nothing about.
func durability(t *table) wire.Durability {
	if d := t.choice("durability", "sync", string(wire.DurabilityBatch), string(wire.DurabilityMemory)); d != "sync" {
		return wire.Durability(d)
	}
	return wire.DurabilitySync
}

func (r *triggers) component(t *table) string {
	e := t.require("component")
	component, ok := t.str(e)
	if ok {
		r.used[component] = true
		if _, known := r.m.Components[component]; !known {
			t.f.add(e.value.at, "component %q is not in the manifest%s", component, suggest(component, slices.Sorted(maps.Keys(r.m.Components))))
		}
	}
	return component
}

func (r *triggers) http(list []*table) {
	routes := map[string]string{}
	for _, t := range list {
		h := wire.HTTPTrigger{Static: r.static[t.n]}
		h.ID, h.Component = r.common(t, "http")
		h.Route = t.checked(t.require("route"), func(s string) error {
			matches, err := wire.CheckRoute(s)
			if err != nil {
				return err
			}
			if other, ok := routes[matches]; ok {
				return fmt.Errorf("duplicate route %q: %q matches the same", s, other)
			}
			routes[matches] = s
			return nil
		})
		h.Durability = durability(t)
		t.rest()
		r.m.Triggers.HTTP = append(r.m.Triggers.HTTP, h)
	}
}

// DefaultQoS of an mqtt trigger: no message is lost.
const DefaultQoS = 1

func (r *triggers) mqtt(list []*table) {
	topics := map[[2]string]bool{}
	for _, t := range list {
		q := wire.MQTTTrigger{}
		q.ID, q.Component = r.common(t, "mqtt")
		q.Topic = t.checked(t.require("topic"), func(s string) error {
			if err := wire.CheckFilter(s); err != nil {
				return err
			}
			if topics[[2]string{s, q.Component}] {
				return fmt.Errorf("duplicate topic %q for component %q", s, q.Component)
			}
			topics[[2]string{s, q.Component}] = true
			return nil
		})
		q.QoS = byte(t.integer("qos", 0, 2, DefaultQoS))
		q.MessageID = t.checked(t.find("message_id"), func(s string) error {
			_, err := wire.ParseMessageID(s)
			return err
		})
		q.Unordered = t.choice("order", "topic", "none") == "none"
		q.Durability = durability(t)
		t.rest()
		r.m.Triggers.MQTT = append(r.m.Triggers.MQTT, q)
	}
}

func (r *triggers) timer(list []*table) {
	for _, t := range list {
		c := wire.TimerTrigger{}
		c.ID, c.Component = r.common(t, "timer")
		every, line, zone := t.find("every"), t.find("cron"), t.find("timezone")
		switch {
		case every == nil && line == nil:
			t.f.add(t.n.at, "%s has neither every nor cron", t.name)
		case every != nil && line != nil:
			t.f.add(line.at, "%s has both every and cron", t.name)
		case every != nil:
			c.Every = wire.Duration(t.duration(every, wire.MinEvery, wire.MaxEvery, 0))
			if zone != nil {
				t.f.add(zone.at, "timezone in %s goes with cron, not with every", t.name)
			}
		default:
			c.Timezone = "UTC"
			at := line.value.at
			if s, ok := t.str(zone); ok {
				c.Timezone = s
				// A line that passes in UTC and not there is the zone's fault.
				if _, err := wire.ParseCron("* * * * *", s); err != nil {
					t.f.add(zone.value.at, "%s", err)
					c.Timezone = "UTC"
				}
			}
			if s, ok := t.str(line); ok {
				c.Cron = s
				if _, err := wire.ParseCron(s, c.Timezone); err != nil {
					t.f.add(at, "%s", err)
				}
			}
		}
		c.Missed = wire.Missed(t.choice("missed", string(wire.MissedSkip), string(wire.MissedOnce), string(wire.MissedAll)))
		c.Overlap = wire.Overlap(t.choice("overlap", string(wire.OverlapSkip), string(wire.OverlapQueue)))
		c.Jitter = wire.Duration(t.duration(t.find("jitter"), 0, c.MaxJitter(), 0))
		c.Durability = durability(t)
		t.rest()
		r.m.Triggers.Timer = append(r.m.Triggers.Timer, c)
	}
}
