package wire

import (
	"strings"
	"testing"
)

func TestFiltersMatchAsMQTTSays(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		// MQTT 3.1.1 §4.7.1.2: the rest, and the parent.
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player2", false},
		{"sport/#", "sport", true},
		{"a/#", "ab", false},
		{"#", "sport", true},
		{"#", "a/b", true},
		{"#", "/", true},
		// §4.7.1.3: one level.
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/tennis/#", "sport/tennis", true},
		{"+/tennis/#", "sport/tennis/x/y", true},
		{"+/+/#", "a", false},
		{"+/+/#", "a/b", true},
		// §4.7.2: topics that start with $.
		{"#", "$SYS/broker/clients", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/monitor/Clients", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/#", "a/$b", true},
		// §4.7.3: case, spaces and empty levels count.
		{"ACCOUNTS", "Accounts", false},
		{"a//b", "a//b", true},
		{"a/+/b", "a//b", true},
		{"a/b", "a/b/", false},
		{"a/b/", "a/b", false},
		{"a/b", "a/b/c", false},
		{"a/b/c", "a/b", false},
		{"a b", "a b", true},
		{"tele/+/SENSOR", "tele/fridge/SENSOR", true},
		{"tele/+/SENSOR", "tele/fridge/STATE", false},
	} {
		if got := MatchFilter(c.filter, c.topic); got != c.want {
			t.Errorf("MatchFilter(%q, %q) = %t", c.filter, c.topic, got)
		}
	}
}

func TestBadFiltersAndTopicsAreNamed(t *testing.T) {
	for filter, want := range map[string]string{
		"": "is empty", "sport/tennis#": "# must be a level by itself", "sport/#/ranking": "# is only possible at the end", "sport+": "+ must be a level by itself",
		"a\x00": "without NUL", "a\xff": "UTF-8", strings.Repeat("a", MaxTopicBytes+1): "is longer than",
	} {
		if err := CheckFilter(filter); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckFilter(%.20q) = %v, want %q", filter, err, want)
		}
	}
	for _, filter := range []string{"#", "+", "/", "a/+/b/#", "$SYS/#", "a//", strings.Repeat("a", MaxTopicBytes)} {
		if err := CheckFilter(filter); err != nil {
			t.Error(err)
		}
	}
	for topic, want := range map[string]string{
		"": "is empty", "a/+": "wildcard", "#": "wildcard", "$SYS/x": "belong to the broker", "a\x00": "without NUL", strings.Repeat("a", MaxTopicBytes+1): "is longer than",
	} {
		if err := CheckTopic(topic); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckTopic(%.20q) = %v, want %q", topic, err, want)
		}
	}
	for _, topic := range []string{"/", "a", "a/$b", "a b", "ä//"} {
		if err := CheckTopic(topic); err != nil {
			t.Error(err)
		}
	}
}

// FuzzMatchFilter compares with a matcher that goes level by level, as the standard is worded.
func FuzzMatchFilter(f *testing.F) {
	f.Add("a/+/#", "a/b")
	f.Add("a/+/#", "a/b/c")
	f.Add("#", "$SYS")
	f.Add("$SYS/+", "$SYS/x")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		// The broker's own topics match too, though nobody else may publish to them.
		if CheckFilter(filter) != nil || CheckTopic(strings.TrimLeft(topic, "$")) != nil {
			return
		}
		fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
		want := topic[0] != '$' || fs[0] != "+" && fs[0] != "#"
		for i, l := range fs {
			if l == "#" {
				want = want && len(ts) >= i
				ts = ts[:min(i, len(ts))]
				fs = fs[:i]
				break
			}
		}
		want = want && len(fs) == len(ts)
		for i := range fs {
			want = want && (fs[i] == "+" || fs[i] == ts[i])
		}
		if got := MatchFilter(filter, topic); got != want {
			t.Fatalf("MatchFilter(%q, %q) = %t", filter, topic, got)
		}
		if !MatchFilter(topic, topic) {
			t.Errorf("%q does not match itself", topic)
		}
	})
}
