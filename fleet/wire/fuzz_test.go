package wire

import (
	"strings"
	"testing"
	"time"
)

// Two routes with the same matches are duplicates, so what a route matches must be a route with these matches.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"/", "/a/", "/...", "/r/:id/x", "/:a/:b/...", "/ü/✓", "/a:b/:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		matches, err := CheckRoute(s)
		if err != nil {
			return
		}
		if len(s) >= MaxTopicBytes {
			return // the slash that may be added below has no room
		}
		named := strings.ReplaceAll(matches+"/", "/:/", "/:x/")
		named = strings.ReplaceAll(named, "/:/", "/:x/") // two in a row share a slash
		if again, err := CheckRoute(named); err != nil || again != matches {
			t.Fatalf("%q matches %q, and that %q, %v", s, matches, again, err)
		}
	})
}

// The times of a line only grow, and finding them ends.
func FuzzCron(f *testing.F) {
	zones := []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "Africa/Casablanca"}
	for i, line := range []string{"0 6 * * *", "*/5 * * * * *", "30 2 29 2 *", "0 0 * * 7", "15,45 1-3 * JAN-MAR MON", "0 0 31 4 *"} {
		f.Add(line, uint8(i), int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, line string, zone uint8, from int64) {
		s, err := ParseCron(line, zones[int(zone)%len(zones)])
		if err != nil {
			return
		}
		at := time.Unix(from%8_000_000_000, 0).UTC()
		for range 5 {
			next := s.Next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) {
				t.Fatalf("%q: %s comes after %s", line, next, at)
			}
			at = next
		}
	})
}

func FuzzDigest(f *testing.F) {
	f.Add(Sum([]byte("x")).String())
	f.Add("sha256:" + strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDigest(s); err == nil && d.String() != s {
			t.Fatalf("%q is also %q", s, d)
		}
	})
}
