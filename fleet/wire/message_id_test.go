package wire

import (
	"strings"
	"testing"
)

func TestMessageIDsAreFoundWhereTheManifestSays(t *testing.T) {
	for _, c := range []struct {
		where, topic, payload, want string
	}{
		{"json:/id", "t", `{"id": 17, "x": 1}`, "n17"},
		{"json:/id", "t", `{"id": "17"}`, "s17"},
		{"json:/a/1/b~1c~0", "t", `{"a": [0, {"b/c~": "deep"}]}`, "sdeep"},
		{"json:/", "t", `{"": 1}`, "n1"},
		{"json:/id", "t", `{"id": {}}`, ""},
		{"json:/id", "t", `{"id": null}`, ""},
		{"json:/id", "t", `{"id": 1} trailing`, ""},
		{"json:/a/01", "t", `{"a": [0, 1]}`, ""},
		{"json:/a/9", "t", `{"a": [0, 1]}`, ""},
		{"json:/id", "t", `not json`, ""},
		{"json:/id", "t", `{"id": "` + strings.Repeat("x", 2000) + `"}`, ""},
		{"topic:2", "tele/door/17", "", "door"},
		{"topic:4", "tele/door/17", "", ""},
		{"", "tele/door/17", `{"id": 1}`, ""},
	} {
		id, err := ParseMessageID(c.where)
		if err != nil {
			t.Errorf("%s: %v", c.where, err)
			continue
		}
		if got, ok := id.Of(c.topic, []byte(c.payload)); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s of %s %.60s: %q, %v, want %q", c.where, c.topic, c.payload, got, ok, c.want)
		}
	}
	for _, bad := range []string{"id", "json:id", "json:", "json:/a~2", "json:/~", "topic:0", "topic:x", "topic:01", "topic:-1", "header:x", "json:/" + strings.Repeat("x", 2000)} {
		if _, err := ParseMessageID(bad); err == nil || !strings.Contains(err.Error(), "json:/pointer") {
			t.Errorf("%.40s: %v, want an error that says what is", bad, err)
		}
	}
}

func FuzzMessageID(f *testing.F) {
	f.Add("json:/a/0", "t/1", []byte(`{"a":["x"]}`))
	f.Add("topic:1", "t/1", []byte{})
	f.Fuzz(func(t *testing.T, where, topic string, payload []byte) {
		id, err := ParseMessageID(where)
		if err != nil {
			return
		}
		a, ok := id.Of(topic, payload)
		if b, again := id.Of(topic, payload); a != b || ok != again || len(a) > max(len(topic), maxMessageID+1) {
			t.Errorf("%q of %q: %q, then %q", where, topic, a, b)
		}
	})
}
