package devices

import (
	"testing"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

func rule(sequence uint64, application, version string, s model.Selector) store.Rule {
	return store.Rule{Sequence: sequence, Selector: s, Release: wire.Pointer{Application: application, Version: version}}
}

var (
	all   = model.Selector{All: true}
	north = model.Selector{Labels: map[string]string{"site": "north"}}
	named = model.Selector{Device: "board"}
)

func TestNewestMatchingRuleOfEachApplicationWins(t *testing.T) {
	atNorth := map[string]string{"site": "north", "room": "4"}
	for _, c := range []struct {
		name     string
		rules    []store.Rule
		labels   map[string]string
		assigned map[string]store.Choice
		want     map[string]string
		changed  bool
	}{
		{"no rules", nil, nil, nil, map[string]string{}, false},
		{"all, then a label that it has", []store.Rule{rule(1, "a", "1", all), rule(2, "a", "2", north)}, atNorth, nil, map[string]string{"a": "2"}, true},
		{"all, then a label that it hasn't", []store.Rule{rule(1, "a", "1", all), rule(2, "a", "2", north)}, nil, nil, map[string]string{"a": "1"}, true},
		{"a label, then all", []store.Rule{rule(1, "a", "1", north), rule(2, "a", "2", all)}, atNorth, nil, map[string]string{"a": "2"}, true},
		{"two applications", []store.Rule{rule(1, "a", "1", all), rule(2, "b", "7", named)}, nil, nil, map[string]string{"a": "1", "b": "7"}, true},
		{"what it has, said again", []store.Rule{rule(9, "a", "1", all)}, nil,
			map[string]store.Choice{"a": {Pointer: wire.Pointer{Application: "a", Version: "1"}, Rule: 1}}, map[string]string{"a": "1"}, false},
		{"an older rule that matches only now", []store.Rule{rule(1, "a", "1", north)}, atNorth,
			map[string]store.Choice{"a": {Pointer: wire.Pointer{Application: "a", Version: "2"}, Rule: 2}}, map[string]string{"a": "2"}, false},
		{"removed by label", []store.Rule{rule(1, "a", "1", all), rule(2, "a", "", north)}, atNorth,
			map[string]store.Choice{"a": {Pointer: wire.Pointer{Application: "a", Version: "1"}, Rule: 1}}, map[string]string{"a": ""}, true},
		{"removed, and the older rule again", []store.Rule{rule(1, "a", "1", all)}, nil,
			map[string]store.Choice{"a": {Pointer: wire.Pointer{Application: "a"}, Rule: 2}}, map[string]string{"a": ""}, false},
		{"removed, and there was none", []store.Rule{rule(2, "a", "", all)}, nil, nil, map[string]string{"a": ""}, false},
		{"removed before it said hello", []store.Rule{rule(1, "a", "1", all), rule(2, "a", "", all)}, nil, nil, map[string]string{"a": ""}, true},
		{"removed, and back", []store.Rule{rule(3, "a", "1", all)}, nil,
			map[string]store.Choice{"a": {Pointer: wire.Pointer{Application: "a"}, Rule: 2}}, map[string]string{"a": "1"}, true},
		{"a label that went away", []store.Rule{rule(1, "a", "1", north)}, nil,
			map[string]store.Choice{"a": {Pointer: wire.Pointer{Application: "a", Version: "1"}, Rule: 1}}, map[string]string{"a": "1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(c.assigned)
			got, changed := choose(c.assigned, c.rules, "board", c.labels)
			if len(c.assigned) != before {
				t.Error("it changed its argument")
			}
			if changed != c.changed || len(got) != len(c.want) {
				t.Fatalf("changed %v, %v; want %v, %v", changed, got, c.changed, c.want)
			}
			for app, version := range c.want {
				if got[app].Version != version {
					t.Errorf("%s in version %q, want %q", app, got[app].Version, version)
				}
			}
		})
	}
}

// Dropping covered rules must not change what any board gets.
func TestDroppedRulesDecidedNothing(t *testing.T) {
	steps := []store.Rule{
		rule(1, "a", "1", all), rule(2, "a", "2", north), rule(3, "b", "1", all), rule(4, "a", "3", north),
		rule(5, "a", "4", named), rule(6, "a", "5", all), rule(7, "a", "6", named), rule(8, "a", "7", named),
	}
	boards := map[string]map[string]string{"board": nil, "other": nil, "north": {"site": "north"}}
	var kept []store.Rule
	for i, r := range steps {
		var drop []uint64
		kept, drop = covered(kept, r)
		for name, labels := range boards {
			want, _ := choose(nil, steps[:i+1], name, labels)
			got, _ := choose(nil, kept, name, labels)
			if len(got) != len(want) {
				t.Fatalf("after rule %d %s gets %v, want %v", r.Sequence, name, got, want)
			}
			for app := range want {
				if got[app] != want[app] {
					t.Errorf("after rule %d (dropped %v) %s gets %+v, want %+v", r.Sequence, drop, name, got[app], want[app])
				}
			}
		}
	}
	if len(kept) != 3 {
		t.Errorf("%d rules are kept, want 3: %v", len(kept), kept)
	}
}
