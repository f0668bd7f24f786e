package wire

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// UplinkPrefix marks a publish grant or a published topic that goes to the fleet instead of the local bus.
const UplinkPrefix = "uplink:"

// CheckTopic checks a topic that one publishes to (MQTT 3.1.1, section 4.7): no wildcards, UTF-8, not empty, and none of the
// broker's own.
func CheckTopic(s string) error {
	if err := topicText("topic", s); err != nil {
		return err
	}
	if i := strings.IndexAny(s, "+#"); i >= 0 {
		return fmt.Errorf("topic %q has the wildcard %q: only subscriptions may", s, s[i])
	}
	if s[0] == '$' {
		return fmt.Errorf("topic %q: those that start with $ belong to the broker", s)
	}
	return nil
}

// CheckFilter checks a topic filter (MQTT 3.1.1, section 4.7.1): + and # are whole levels, # is the last.
func CheckFilter(s string) error {
	if err := topicText("topic filter", s); err != nil {
		return err
	}
	levels := strings.Split(s, "/")
	for i, l := range levels {
		switch {
		case l == "#" && i != len(levels)-1:
			return fmt.Errorf("topic filter %q: # is only possible at the end", s)
		case l == "#" || l == "+":
		case strings.Contains(l, "#"):
			return fmt.Errorf("topic filter %q: # must be a level by itself, as in %q", s, "sensors/#")
		case strings.Contains(l, "+"):
			return fmt.Errorf("topic filter %q: + must be a level by itself, as in %q", s, "sensors/+/temperature")
		}
	}
	return nil
}

// MatchFilter reports whether a checked filter matches a checked topic. Topics that start with $ match no filter that
// starts with a wildcard (section 4.7.2).
func MatchFilter(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		f, fRest, fMore := strings.Cut(filter, "/")
		t, tRest, tMore := strings.Cut(topic, "/")
		if f == "#" {
			return true
		}
		if f != "+" && f != t {
			return false
		}
		if !tMore {
			return !fMore || fRest == "#" // "a/#" matches "a" too
		}
		if !fMore {
			return false
		}
		filter, topic = fRest, tRest
	}
}

func topicText(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > MaxTopicBytes:
		return fmt.Errorf("%s %.80q is longer than %d bytes", what, s, MaxTopicBytes)
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return fmt.Errorf("%s %q is not UTF-8 without NUL", what, s)
	}
	return nil
}
