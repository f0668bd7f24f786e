package mqtt

import (
	"strings"
	"testing"
	"time"
)

func TestMatchFollowsMQTT(t *testing.T) {
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
		{"#", "sport", true},
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
		{"a b", "a b", true},
		{"tele/+/SENSOR", "tele/fridge/SENSOR", true},
		{"tele/+/SENSOR", "tele/fridge/STATE", false},
	} {
		if got := Match(c.filter, c.topic); got != c.want {
			t.Errorf("Match(%q, %q) = %t", c.filter, c.topic, got)
		}
	}
}

func TestBadFiltersAndTopicsAreNamed(t *testing.T) {
	for filter, want := range map[string]string{
		"": "is empty", "sport/tennis#": "# must be alone", "sport/#/ranking": "# must be alone", "sport+": "+ must be alone",
		"a\x00": "without NUL", "a\xff": "UTF-8", strings.Repeat("a", 70000): "limit is 65535",
	} {
		if err := CheckFilter(filter); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckFilter(%.20q) = %v, want %q", filter, err, want)
		}
	}
	for _, filter := range []string{"#", "+", "/", "a/+/b/#", "$SYS/#", "a//"} {
		if err := CheckFilter(filter); err != nil {
			t.Error(err)
		}
	}
	for _, topic := range []string{"", "a/+", "#", "$SYS/x", "a\x00"} {
		if CheckTopic(topic) == nil {
			t.Errorf("CheckTopic(%q) = nil", topic)
		}
	}
}

func TestRetriesWaitLongerAndLonger(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 100, 1: 100, 2: 400, 3: 1600, 4: 5000, 1000: 5000} {
		if got := retryDelay(n); got != want*time.Millisecond {
			t.Errorf("retryDelay(%d) = %s, want %d ms", n, got, want)
		}
	}
}

func FuzzMatchAgreesWithItself(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Add("#", "$SYS")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if CheckFilter(filter) != nil || CheckTopic(topic) != nil {
			return
		}
		if !Match(topic, topic) || !Match("#", topic) {
			t.Errorf("%q does not match itself or #", topic)
		}
		// A level that is replaced by + takes at least what it took.
		if levels := strings.Split(filter, "/"); Match(filter, topic) && levels[len(levels)-1] != "#" {
			levels[len(levels)-1] = "+"
			if wide := strings.Join(levels, "/"); !Match(wide, topic) {
				t.Errorf("%q takes %q, %q doesn't", filter, topic, wide)
			}
		}
	})
}
