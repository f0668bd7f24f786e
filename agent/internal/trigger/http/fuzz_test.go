package http

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRoutes compares with a matcher that goes by the words of wire.CheckRoute, and looks at what Spin's headers make of the path.
func FuzzRoutes(f *testing.F) {
	f.Add("/a/:id/...", "/a/b/c%2Fd/")
	f.Add("/", "//")
	f.Add("/:x", "/%zz")
	f.Add("/...", "/../%00\xff")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		table, err := newTable([]Route{{ID: "r", Pattern: pattern, Spin: true}})
		if err != nil {
			return
		}
		segments, wild := split(pattern), false
		if n := len(segments); n > 0 && segments[n-1] == "..." {
			segments, wild = segments[:n-1], true
		}
		given := split(path)
		want := len(given) == len(segments) || wild && len(given) > len(segments)
		for i := 0; want && i < len(segments); i++ {
			s, err := url.PathUnescape(given[i])
			if err != nil {
				s = given[i]
			}
			want = segments[i][0] == ':' || segments[i] == s
		}
		if got := table.find(path) != nil; got != want {
			t.Fatalf("%q matches %q: %t", pattern, path, got)
		}
		u, err := url.ParseRequestURI(path)
		if !want || err != nil {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL = u
		addSpinHeaders(r, pattern)
		for name, values := range r.Header {
			for _, v := range values {
				if strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%s is %q", name, v)
				}
			}
		}
	})
}
