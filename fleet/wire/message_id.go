package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MessageID says where a sender puts what tells one message from the next: "json:" and a pointer into a JSON payload (RFC
// 6901), or "topic:" and a level of the topic, from 1. The zero MessageID finds none.
type MessageID struct {
	pointer []string // reference tokens
	level   int      // 0: json
	is      bool
}

// maxMessageID bounds what is taken for an id, in bytes.
const maxMessageID = 1 << 10

// ParseMessageID reads the text of a manifest; "" is the zero MessageID.
func ParseMessageID(s string) (MessageID, error) {
	if s == "" {
		return MessageID{}, nil
	}
	bad := func(why string) (MessageID, error) {
		return MessageID{}, fmt.Errorf("message id %.80q: %s; want json:/pointer/into/payload or topic:LEVEL", s, why)
	}
	if len(s) > maxMessageID {
		return bad("too long")
	}
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "topic":
		n, err := strconv.Atoi(rest)
		if err != nil || n < 1 || n > 100 || strconv.Itoa(n) != rest {
			return bad("a level is a number from 1 to 100")
		}
		return MessageID{level: n, is: true}, nil
	case "json":
		if !strings.HasPrefix(rest, "/") {
			return bad("a pointer begins with /")
		}
		id := MessageID{is: true}
		for _, token := range strings.Split(rest[1:], "/") {
			if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(token), "~") {
				return bad("~ is written ~0, and / in a name ~1")
			}
			id.pointer = append(id.pointer, strings.NewReplacer("~1", "/", "~0", "~").Replace(token))
		}
		return id, nil
	}
	return bad("no such place")
}

// Of a message: its id, or false where it has none. Of JSON, strings and numbers are ids, numbers as they are written.
func (id MessageID) Of(topic string, payload []byte) (string, bool) {
	switch {
	case !id.is:
		return "", false
	case id.level > 0:
		levels := strings.Split(topic, "/")
		if id.level > len(levels) {
			return "", false
		}
		return levels[id.level-1], true
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", false
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", false
	}
	for _, token := range id.pointer {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[token]
			if !ok {
				return "", false
			}
			v = next
		case []any:
			n, err := strconv.Atoi(token)
			if err != nil || n < 0 || n >= len(at) || strconv.Itoa(n) != token {
				return "", false
			}
			v = at[n]
		default:
			return "", false
		}
	}
	switch v := v.(type) {
	case string:
		return "s" + v, len(v) <= maxMessageID
	case json.Number:
		return "n" + v.String(), len(v) <= maxMessageID
	}
	return "", false
}
