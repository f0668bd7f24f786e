// Package semver reads and orders semantic versions (semver.org 2.0.0): release versions and their floors.
package semver

import (
	"cmp"
	"fmt"
	"strings"
)

// MaxBytes bounds a version, since it becomes part of file names and topics.
const MaxBytes = 64

// Check reports whether s is a semantic version that a release may have: "1.4.0", "2.0.0-rc.1". Build metadata ("+...")
// is refused, since two versions that differ only there are equal in order and yet not the same bytes.
func Check(s string) error {
	_, err := parse(s)
	return err
}

// Compare gives -1, 0 or 1 as a is before, equal to or after b. What isn't a version is before all that are.
func Compare(a, b string) int {
	va, ea := parse(a)
	vb, eb := parse(b)
	if ea != nil || eb != nil {
		return cmp.Compare(b2i(ea == nil), b2i(eb == nil))
	}
	for i := range va.core {
		if c := number(va.core[i], vb.core[i]); c != 0 {
			return c
		}
	}
	return prerelease(va.pre, vb.pre)
}

type version struct {
	core [3]string
	pre  []string
}

func parse(s string) (version, error) {
	var v version
	bad := func(why string) (version, error) {
		return version{}, fmt.Errorf("version %.80q %s: want MAJOR.MINOR.PATCH, for example 1.4.0 or 2.0.0-rc.1", s, why)
	}
	if len(s) > MaxBytes {
		return bad(fmt.Sprintf("is longer than %d bytes", MaxBytes))
	}
	if strings.Contains(s, "+") {
		return bad("has build metadata (+...), which has no order")
	}
	core, pre, has := strings.Cut(s, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return bad("is not a semantic version")
	}
	for i, p := range parts {
		if !digits(p) || len(p) > 1 && p[0] == '0' {
			return bad("is not a semantic version")
		}
		v.core[i] = p
	}
	if !has {
		return v, nil
	}
	v.pre = strings.Split(pre, ".")
	for _, p := range v.pre {
		if p == "" || digits(p) && len(p) > 1 && p[0] == '0' {
			return bad("is not a semantic version")
		}
		for i := range len(p) {
			if c := p[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return bad("has a pre-release with other than lower-case letters, digits and -")
			}
		}
	}
	return v, nil
}

// prerelease orders by semver.org item 11: none is after any; numbers before words; fewer fields first.
func prerelease(a, b []string) int {
	if len(a) == 0 || len(b) == 0 {
		return cmp.Compare(len(b), len(a))
	}
	for i := range min(len(a), len(b)) {
		na, nb := digits(a[i]), digits(b[i])
		switch {
		case na && nb:
			if c := number(a[i], b[i]); c != 0 {
				return c
			}
		case na != nb:
			return cmp.Compare(b2i(nb), b2i(na))
		default:
			if c := cmp.Compare(a[i], b[i]); c != 0 {
				return c
			}
		}
	}
	return cmp.Compare(len(a), len(b))
}

// number compares digits without leading zeros, of any length.
func number(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
