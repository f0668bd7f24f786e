package http

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// A handler trusts these headers, so nothing of a client's own may pass for one.
func TestSpinHeadersTellTheRouteAndNothingThatTheClientSays(t *testing.T) {
	show := func(_ context.Context, e *trigger.Event) error {
		var b strings.Builder
		h := e.HTTP.Request.Header
		for _, name := range []string{"full-url", "matched-route", "raw-component-route", "component-route", "base-path", "path-info", "path-match-user", "path-match-id", "forged"} {
			b.WriteString(name + "=" + strings.Join(h["Spin-"+http.CanonicalHeaderKey(name)], "|") + "\n")
		}
		if h.Get("spin-client-addr") != e.HTTP.Request.RemoteAddr {
			b.WriteString("client-addr=" + h.Get("spin-client-addr"))
		}
		_, err := io.WriteString(e.HTTP.Response, b.String())
		return err
	}
	_, url := start(t, Config{},
		Route{ID: "wild", Pattern: "/users/:user/...", Handle: show, Spin: true},
		Route{ID: "exact", Pattern: "/one/:id", Handle: show, Spin: true},
		Route{ID: "all", Pattern: "/...", Handle: show, Spin: true},
		Route{ID: "plain", Pattern: "/plain", Handle: show},
	)
	for path, want := range map[string]string{
		"/users/a%2Fb/c/d?q=1": "full-url=" + url + "/users/a%2Fb/c/d?q=1\nmatched-route=/users/:user/...\nraw-component-route=/users/:user/...\n" +
			"component-route=/users/:user\nbase-path=/\npath-info=/c/d\npath-match-user=a%2Fb\npath-match-id=\nforged=\n",
		"/users/x":  "full-url=" + url + "/users/x\nmatched-route=/users/:user/...\nraw-component-route=/users/:user/...\ncomponent-route=/users/:user\nbase-path=/\npath-info=\npath-match-user=x\npath-match-id=\nforged=\n",
		"/users/x/": "full-url=" + url + "/users/x/\nmatched-route=/users/:user/...\nraw-component-route=/users/:user/...\ncomponent-route=/users/:user\nbase-path=/\npath-info=/\npath-match-user=x\npath-match-id=\nforged=\n",
		"/one/7":    "full-url=" + url + "/one/7\nmatched-route=/one/:id\nraw-component-route=/one/:id\ncomponent-route=/one/:id\nbase-path=/\npath-info=\npath-match-user=\npath-match-id=7\nforged=\n",
		"/":         "full-url=" + url + "/\nmatched-route=/...\nraw-component-route=/...\ncomponent-route=\nbase-path=/\npath-info=/\npath-match-user=\npath-match-id=\nforged=\n",
		"/plain":    "full-url=\nmatched-route=\nraw-component-route=\ncomponent-route=\nbase-path=\npath-info=forged\npath-match-user=\npath-match-id=\nforged=yes\nclient-addr=",
	} {
		req, err := http.NewRequest(http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Spin-Path-Info": {"forged"}, "Spin-Forged": {"yes"}}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(b) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", path, err, b, want)
		}
	}
}

func TestStaticAnswersAreGivenAsTheyAreWritten(t *testing.T) {
	_, url := start(t, Config{},
		Route{ID: "moved", Pattern: "/old", Handle: Static(302, map[string]string{"location": "/new"}, "moved")},
		Route{ID: "empty", Pattern: "/none", Handle: Static(204, nil, "not sent")},
	)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, test := range []struct {
		method, path, body string
		status             int
	}{{"GET", "/old", "moved", 302}, {"HEAD", "/old", "", 302}, {"POST", "/old", "moved", 302}, {"GET", "/none", "", 204}} {
		req, err := http.NewRequest(test.method, url+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(b) != test.body || res.StatusCode != test.status {
			t.Errorf("%s %s: %d %q, %v", test.method, test.path, res.StatusCode, b, err)
		}
		if location := res.Header.Get("Location"); (test.status == 302) != (location == "/new") {
			t.Errorf("%s %s: location %q", test.method, test.path, location)
		}
	}
}
