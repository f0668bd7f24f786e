package semver

import "testing"

func TestOrderOfVersions(t *testing.T) {
	// The order that semver.org gives as its example, and numbers beyond 64 bits.
	order := []string{"not a version", "0.0.1", "0.9.0", "0.10.0", "1.0.0-0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta",
		"1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "2.0.0", "99999999999999999999.0.0", "100000000000000000000.0.0"}
	for i, a := range order {
		for j, b := range order {
			want := b2i(i > j) - b2i(i < j)
			if got := Compare(a, b); got != want {
				t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestOnlyOrderedVersionsAreAllowed(t *testing.T) {
	for _, good := range []string{"0.0.0", "1.4.0", "2.0.0-rc.1", "1.0.0-x-y.7"} {
		if err := Check(good); err != nil {
			t.Errorf("Check(%s): %v", good, err)
		}
	}
	for _, bad := range []string{"", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+build", "1.2.3-RC", "1.2.3-a..b", "1.2.x", "1.2.3 ", "../../../etc"} {
		if Check(bad) == nil {
			t.Errorf("Check(%s) passes", bad)
		}
	}
}

// Floors and rollbacks lean on this being one order in which nothing but the same version is equal.
func FuzzCompare(f *testing.F) {
	f.Add("1.0.0", "1.0.0-rc.1", "1.0.0-rc.1.0")
	f.Add("18446744073709551616.0.0", "2.0.0", "x")
	f.Add("1.0.0--", "1.0.0-0a", "1.0.0-10")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if Compare(a, b) != -Compare(b, a) {
			t.Fatalf("%q and %q are %d one way and %d the other", a, b, Compare(a, b), Compare(b, a))
		}
		if Check(a) == nil && Check(b) == nil && (Compare(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q compare as %d", a, b, Compare(a, b))
		}
		if Compare(a, b) <= 0 && Compare(b, c) <= 0 && Compare(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q, but the first is after the last", a, b, c)
		}
	})
}
