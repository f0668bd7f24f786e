package host

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// sent is what net/http writes of a request: its first line and its fields, which are all of it. ok is false if it refuses to.
func sent(t *testing.T, req *http.Request) (line string, lines []string, ok bool) {
	t.Helper()
	var b bytes.Buffer
	if err := req.Write(&b); err != nil {
		return "", nil, false
	}
	head, rest, whole := strings.Cut(b.String(), "\r\n\r\n")
	lines = strings.Split(head, "\r\n")
	if !whole || rest != "" || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
		t.Fatalf("this is not one request:\n%q", b.String())
	}
	return lines[0], lines[1:], true
}

// Whatever a guest may set as the parts of a request, a server sees one request with these parts.
func FuzzRequestLine(f *testing.F) {
	f.Add("GET", "http", "example.com:8080", "/a?b=c")
	f.Add("PURGE", "HTTPS", "[2001:db8::1]", "//double/%zz?%")
	f.Add("a b", "", "a\r\nHost: b", "/a b")
	f.Add("M-SEARCH", "http", "127.0.0.1", "*")
	f.Add("GET", "http", "a.b", "?/ü\xff{}|\\^`")
	f.Fuzz(func(t *testing.T, method, scheme, authority, path string) {
		name, ok := methodName(engine.Variant("other", engine.String(method)))
		spoken, known := schemeName(engine.Variant("other", engine.String(scheme)))
		if !ok || !known || !validAuthority(authority) || !validPath(path) {
			return
		}
		r := &outgoingRequest{method: name, scheme: spoken, authority: authority, path: path}
		u, err := r.url()
		if err != nil {
			return
		}
		if u.Host != authority {
			t.Fatalf("%q goes to %q", authority, u.Host)
		}
		req, err := http.NewRequest(name, u.Scheme+"://"+u.Host, http.NoBody)
		if err != nil {
			return
		}
		req.URL = u
		line, lines, ok := sent(t, req)
		if !ok {
			return
		}
		want := asASCII(path)
		if !strings.HasPrefix(want, "/") {
			want = "/" + want
		}
		if line != name+" "+want+" HTTP/1.1" && line != name+" "+u.Scheme+"://"+u.Host+want+" HTTP/1.1" {
			t.Fatalf("%s %q is sent as %q", name, path, line)
		}
		if lines[0] != "Host: "+authority {
			t.Fatalf("%q is sent as %q", authority, lines)
		}
	})
}

// A field that a guest may set is one field with this value, and no more.
func FuzzField(f *testing.F) {
	f.Add("X-Name", []byte("value"))
	f.Add("content-length", []byte("12"))
	f.Add("Transfer-Encoding ", []byte("chunked"))
	f.Add("x", []byte(" \tü\xff "))
	f.Add("x", []byte("a\r\nb: c"))
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		if _, ok := checkField(name, value); !ok || strings.EqualFold(name, contentLength) {
			return
		}
		req, err := http.NewRequest(http.MethodGet, "http://a/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = (&fields{lines: []field{{name, value}}}).header()
		_, lines, ok := sent(t, req)
		if !ok {
			t.Fatalf("field %q %q was taken, and can't be sent", name, value)
		}
		if strings.EqualFold(name, "User-Agent") || strings.EqualFold(name, "Trailer") { // net/http's own to deal with
			return
		}
		want := http.CanonicalHeaderKey(name) + ": " + strings.Trim(string(value), " \t")
		if !slices.Equal(lines, []string{"Host: a", "User-Agent: Go-http-client/1.1", want}) {
			t.Fatalf("field %q %q is sent as %q", name, value, lines)
		}
	})
}

func FuzzObject(f *testing.F) {
	f.Add(object{created: 1, size: 2, generation: 3}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := parseObject(b); err == nil && !bytes.Equal(o.bytes(), b) {
			t.Fatalf("%x is written as %x", b, o.bytes())
		}
	})
}
