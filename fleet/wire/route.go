package wire

import (
	"fmt"
	"strings"
)

// AgentPrefix is where the agent's own pages are (health), before any route of an application.
const AgentPrefix = "/.well-known/dunlin/"

// CheckRoute checks an HTTP route: an exact path ("/climate"), a prefix ("/climate/...", which matches "/climate" too), with
// single segments that match anything (":id"). It returns what the route matches: two routes with the same matches
// are duplicates, whatever their parameters are called and whether they end in a slash. A route below AgentPrefix is an
// error: no request would ever reach it.
func CheckRoute(s string) (matches string, err error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("route %.200q %s", s, why) }
	if !strings.HasPrefix(s, "/") {
		return bad("does not start with /")
	}
	if len(s) > MaxTopicBytes {
		return bad(fmt.Sprintf("is longer than %d bytes", MaxTopicBytes))
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("?#\\%*\uFFFD", r) }); i >= 0 {
		return bad(fmt.Sprintf("has %q: write the path itself, not escaped, with :name or /... for what varies", s[i]))
	}
	if strings.HasPrefix(s+"/", AgentPrefix) {
		return bad("lies under " + AgentPrefix + ", where the agent answers itself: choose another path")
	}
	var b strings.Builder
	segments := strings.Split(strings.TrimSuffix(s[1:], "/"), "/")
	for i, seg := range segments {
		switch {
		case seg == "" && len(segments) > 1:
			return bad("has an empty segment")
		case seg == "":
		case seg == "." || seg == "..":
			return bad("has the segment " + seg)
		case seg == "...":
			if i != len(segments)-1 {
				return bad("has ... before its end")
			}
			b.WriteString("/...")
		case seg == ":":
			return bad("has a parameter without a name")
		case seg[0] == ':':
			b.WriteString("/:")
		default:
			b.WriteString("/" + seg)
		}
	}
	if b.Len() == 0 {
		return "/", nil
	}
	return b.String(), nil
}
