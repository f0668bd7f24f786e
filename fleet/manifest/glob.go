package manifest

import (
	"errors"
	"fmt"
	"strings"
)

// glob is a pattern as Spin's are (Rust's glob crate): ? is one character, * any of them, ** any folders, [a-z] and [!a-z] a
// character of a set.
type glob []globToken

type globToken struct {
	kind   globKind
	char   rune      // of globChar
	ranges [][2]rune // of globSet
	not    bool      // of globSet
}

type globKind byte

const (
	globChar globKind = iota
	globAny
	globStar
	globSet
	globFolders // "**/": none or more
	globBelow   // "**" at the end: all that is below
)

const maxGlob = 1024 // bytes

// parseGlob gives the token sequence of a pattern.
func parseGlob(pattern string) (glob, error) {
	if pattern == "" || len(pattern) > maxGlob {
		return nil, fmt.Errorf("pattern of %d bytes, want 1 to %d", len(pattern), maxGlob)
	}
	var g glob
	runes := []rune(pattern)
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; r {
		case '?':
			g = append(g, globToken{kind: globAny})
		case '*':
			n := i
			for n < len(runes) && runes[n] == '*' {
				n++
			}
			whole := (i == 0 || runes[i-1] == '/') && (n == len(runes) || runes[n] == '/')
			switch {
			case n-i == 1:
				g = append(g, globToken{kind: globStar})
			case n-i > 2 || !whole:
				return nil, fmt.Errorf("pattern %q: ** stands for whole folders, between slashes; use * within a name", pattern)
			case n == len(runes):
				g = append(g, globToken{kind: globBelow})
			default:
				g = append(g, globToken{kind: globFolders})
				n++ // the slash is its own
			}
			i = n - 1
		case '[':
			set, n, err := parseSet(runes[i+1:])
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
			g = append(g, set)
			i += n
		default:
			g = append(g, globToken{char: r})
		}
	}
	return g, nil
}

// parseSet reads what follows a [, and how many characters that is.
func parseSet(runes []rune) (globToken, int, error) {
	t := globToken{kind: globSet}
	i := 0
	if i < len(runes) && runes[i] == '!' {
		t.not = true
		i++
	}
	for first := i; i < len(runes) && (runes[i] != ']' || i == first); {
		if i+2 < len(runes) && runes[i+1] == '-' && runes[i+2] != ']' {
			t.ranges = append(t.ranges, [2]rune{runes[i], runes[i+2]})
			i += 3
			continue
		}
		t.ranges = append(t.ranges, [2]rune{runes[i], runes[i]})
		i++
	}
	if i == len(runes) {
		return t, 0, errors.New("a [ that no ] ends; write [[] for the character")
	}
	return t, i + 1, nil
}

func (t globToken) takes(r rune) bool {
	switch t.kind {
	case globChar:
		return r == t.char
	case globSet:
		for _, x := range t.ranges {
			if x[0] <= r && r <= x[1] {
				return !t.not
			}
		}
		return t.not
	}
	return true
}

// match says whether the whole path matches. crossing: *, ? and sets take slashes too, as they do in Spin's exclude_files. Its
// cost is the product of both lengths, whatever the pattern.
func (g glob) match(path string, crossing bool) bool {
	now, next := make([]bool, len(g)+1), make([]bool, len(g)+1)
	enter := func(set []bool, i int) {
		for ; !set[i]; i++ {
			set[i] = true
			if i == len(g) || g[i].kind != globStar && g[i].kind != globFolders {
				return
			}
		}
	}
	enter(now, 0)
	for _, r := range path {
		clear(next)
		for i, t := range g {
			if !now[i] {
				continue
			}
			switch t.kind {
			case globFolders:
				// It goes on only behind a slash, so it is marked without what follows it.
				if r == '/' {
					enter(next, i+1)
				}
				next[i] = true
			case globBelow:
				next[i], next[i+1] = true, true
			case globStar:
				if r != '/' || crossing {
					enter(next, i)
				}
			default:
				if (r != '/' || crossing || t.kind == globChar) && t.takes(r) {
					enter(next, i+1)
				}
			}
		}
		now, next = next, now
	}
	return now[len(g)]
}

// fixed is the folder that all matches lie in.
func fixed(pattern string) string {
	at := strings.IndexAny(pattern, "*?[")
	if at < 0 {
		return pattern
	}
	if slash := strings.LastIndexByte(pattern[:at], '/'); slash > 0 {
		return pattern[:slash]
	}
	return "."
}
