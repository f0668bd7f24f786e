package http

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// witness is a handler that notes each request that it is called with.
type witness struct {
	mu   sync.Mutex
	seen []string
}

func (w *witness) handle(_ context.Context, e *trigger.Event) error {
	r := e.HTTP.Request
	var body []byte
	var err error
	if r.URL.Path != "/unread" {
		body, err = io.ReadAll(io.LimitReader(r.Body, 1000))
	}
	w.mu.Lock()
	w.seen = append(w.seen, fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body))
	w.mu.Unlock()
	if err != nil {
		return &trigger.Failure{Event: "e", Reason: trigger.Refused, Err: err}
	}
	_, err = io.WriteString(e.HTTP.Response, "ok")
	return err
}

func (w *witness) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// send bytes on a connection of their own, and no more.
func send(t *testing.T, url, text string) []int {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	go func() {
		// The server may answer and close before it has read all of this.
		_, _ = io.WriteString(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	return statuses(t, c, text)
}

// statuses of all answers to text on a connection until the server closes it.
func statuses(t *testing.T, c net.Conn, text string) (all []int) {
	t.Helper()
	for r := bufio.NewReader(c); ; {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("%.60q: the connection stays open", text)
			}
			return all
		}
		all = append(all, res.StatusCode)
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}

const (
	get1      = "GET /1 HTTP/1.1\r\nHost: a\r\n"
	post1     = "POST /1 HTTP/1.1\r\nHost: a\r\n"
	smuggled  = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	chunked   = "Transfer-Encoding: chunked\r\n"
	lastChunk = "0\r\n\r\n"
)

// Each of these is answered with an error or cut off, no handler sees what was hidden in it, and others are served as before.
func TestMalformedRequestsReachNoHandler(t *testing.T) {
	many := strings.Repeat("X-Many: x\r\n", 20_000)
	for name, c := range map[string]struct {
		text string
		want []int    // statuses
		seen []string // what handlers were called with
	}{
		"two lengths":                      {post1 + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + smuggled, []int{400}, nil},
		"two lengths in one":               {post1 + "Content-Length: 5, 6\r\n\r\nhello" + smuggled, []int{400}, nil},
		"a signed length":                  {post1 + "Content-Length: +5\r\n\r\nhello" + smuggled, []int{400}, nil},
		"a length below zero":              {post1 + "Content-Length: -1\r\n\r\n" + smuggled, []int{400}, nil},
		"a length of 2^64":                 {post1 + "Content-Length: 18446744073709551616\r\n\r\n" + smuggled, []int{400}, nil},
		"a length in hexadecimal":          {post1 + "Content-Length: 0x5\r\n\r\nhello" + smuggled, []int{400}, nil},
		"a length and chunks":              {post1 + "Content-Length: 4\r\n" + chunked + "\r\n" + lastChunk + smuggled, []int{200}, []string{"POST /1 "}},
		"chunks and a length":              {post1 + chunked + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(lastChunk+smuggled)) + lastChunk + smuggled, []int{200}, []string{"POST /1 "}},
		"chunks by another name":           {post1 + "Transfer-Encoding: xchunked\r\n\r\n" + lastChunk + smuggled, []int{501}, nil},
		"chunks twice":                     {post1 + "Transfer-Encoding: chunked, chunked\r\n\r\n" + lastChunk + smuggled, []int{501}, nil},
		"chunks in two lines":              {post1 + chunked + chunked + "\r\n" + lastChunk + smuggled, []int{501}, nil},
		"chunks and identity":              {post1 + "Transfer-Encoding: identity\r\n" + chunked + "\r\n" + lastChunk + smuggled, []int{501}, nil},
		"chunks with a tab":                {post1 + "Transfer-Encoding:\x0bchunked\r\n\r\n" + lastChunk + smuggled, []int{400}, nil},
		"a coding with a space":            {post1 + "Transfer-Encoding : chunked\r\n\r\n" + lastChunk + smuggled, []int{400}, nil},
		"a chunk that is none":             {post1 + chunked + "\r\nzz\r\n" + smuggled, []int{500}, []string{"POST /1 "}},
		"a chunk below zero":               {post1 + chunked + "\r\n-5\r\nhello\r\n" + smuggled, []int{500}, []string{"POST /1 "}},
		"a chunk of 2^64":                  {post1 + chunked + "\r\n10000000000000005\r\nhello\r\n" + lastChunk + smuggled, []int{500}, []string{"POST /1 "}},
		"a chunk that is too long":         {post1 + chunked + "\r\n5\r\nhello there\r\n" + lastChunk + smuggled, []int{500}, []string{"POST /1 hello"}},
		"a chunk's end without a return":   {post1 + chunked + "\r\n5\nhello\r\n" + lastChunk + smuggled, []int{500}, []string{"POST /1 "}},
		"a chunk's extension that hides":   {post1 + chunked + "\r\n5;a\nb\r\nhello\r\n" + lastChunk + smuggled, []int{500}, []string{"POST /1 "}},
		"a trailer that is forbidden":      {post1 + chunked + "Trailer: Content-Length\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + smuggled, []int{400}, nil},
		"a body that nobody reads":         {fmt.Sprintf("POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 20_000*len(smuggled)) + strings.Repeat(smuggled, 20_000), []int{200}, []string{"POST /unread "}},
		"a header line without a colon":    {get1 + "GET /smuggled HTTP/1.1\r\n\r\n", []int{400}, nil},
		"a header's name with a space":     {get1 + "X Y: z\r\n\r\n", []int{400}, nil},
		"a header's name that is none":     {get1 + ": z\r\n\r\n", []int{400}, nil},
		"a header's name with a NUL":       {get1 + "X\x00: z\r\n\r\n", []int{400}, nil},
		"a header's value with a NUL":      {get1 + "X: a\x00b\r\n\r\n", []int{400}, nil},
		"a header's value with a return":   {get1 + "X: a\rGET /smuggled HTTP/1.1\r\n\r\n", []int{400}, nil},
		"a line that goes on at first":     {"GET /1 HTTP/1.1\r\n Host: a\r\n\r\n", []int{400}, nil},
		"no host":                          {"GET /1 HTTP/1.1\r\n\r\n" + smuggled, []int{400}, nil},
		"two hosts":                        {get1 + "Host: b\r\n\r\n", []int{400}, nil},
		"a host that is none":              {"GET /1 HTTP/1.1\r\nHost: a/b c\r\n\r\n", []int{400}, nil},
		"a NUL in the path":                {"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", []int{400}, nil},
		"a space in the path":              {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", []int{400}, nil},
		"an escape that is none":           {"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", []int{400}, nil},
		"a path that is none":              {"GET 1 HTTP/1.1\r\nHost: a\r\n\r\n", []int{400}, nil},
		"a method that is none":            {"G(T /1 HTTP/1.1\r\nHost: a\r\n\r\n", []int{400}, nil},
		"http/0.9":                         {"GET /1\r\n", []int{400}, nil},
		"http/0.9 with headers":            {"GET /1 HTTP/0.9\r\nHost: a\r\n\r\n", []int{505}, nil},
		"http/2 without its preface":       {"GET /1 HTTP/2.0\r\nHost: a\r\n\r\n", []int{505}, nil},
		"http/2's preface, and then not":   {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, nil, nil},
		"half of http/2's preface":         {"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + smuggled, []int{505}, nil},
		"tls":                              {"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", []int{400}, nil},
		"nothing at all":                   {"", nil, nil},
		"noise":                            {strings.Repeat("\x00\xff\r\n", 100), []int{400}, nil},
		"a million empty lines":            {strings.Repeat("\r\n", 1_000_000), []int{400}, nil},
		"many headers":                     {get1 + many + "\r\n", []int{431}, nil},
		"a large header":                   {get1 + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", []int{431}, nil},
		"a header that never ends":         {get1 + "X: " + strings.Repeat("x", 1<<20), []int{431}, nil},
		"a huge path":                      {"GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: a\r\n\r\n", []int{431}, nil},
		"a request line that never ends":   {strings.Repeat("G", 1<<20), []int{431}, nil},
		"many trailers":                    {post1 + chunked + "\r\n0\r\n" + many + "\r\n" + smuggled, []int{500}, []string{"POST /1 "}},
		"a large chunk extension":          {post1 + chunked + "\r\n5;" + strings.Repeat("x", 1<<20) + "\r\nhello\r\n" + lastChunk, []int{500}, []string{"POST /1 "}},
		"expects what nobody knows":        {get1 + "Expect: 200-maybe\r\n\r\n", []int{417}, nil},
		"expects to go on, and is refused": {"POST /unread HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100000000\r\n\r\n", []int{413}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w witness
			_, url := start(t, Config{}, Route{ID: "all", Pattern: "/...", Handle: w.handle})
			if got := send(t, url, c.text); !slices.Equal(got, c.want) {
				t.Errorf("answered %v, want %v", got, c.want)
			}
			if seen := w.take(); !slices.Equal(seen, c.seen) {
				t.Errorf("handlers saw %q, want %q", seen, c.seen)
			}
			if got := send(t, url, "POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"); !slices.Equal(got, []int{200}) {
				t.Errorf("the next client was answered %v", got)
			}
			if seen := w.take(); !slices.Equal(seen, []string{"POST /next hi"}) {
				t.Errorf("of the next client handlers saw %q", seen)
			}
		})
	}
}

// What is unusual and well-formed is served.
func TestUnusualRequestsAreServed(t *testing.T) {
	var w witness
	_, url := start(t, Config{}, Route{ID: "all", Pattern: "/...", Handle: w.handle})
	for name, c := range map[string]struct {
		text string
		want []int
		seen []string
	}{
		"one after the other":        {get1 + "\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", []int{200, 200}, []string{"GET /1 ", "GET /2 "}},
		"after a body":               {post1 + "Content-Length: 5\r\n\r\nhello" + get1 + "\r\n", []int{200, 200}, []string{"POST /1 hello", "GET /1 "}},
		"the same length twice":      {post1 + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", []int{200}, []string{"POST /1 hello"}},
		"chunks":                     {post1 + chunked + "\r\n5;ext=1\r\nhello\r\n" + lastChunk, []int{200}, []string{"POST /1 hello"}},
		"lines without a return":     {"GET /1 HTTP/1.1\nHost: a\n\n", []int{200}, []string{"GET /1 "}},
		"a header that goes on":      {get1 + "X: a\r\n b\r\n\r\n", []int{200}, []string{"GET /1 "}},
		"http/1.0":                   {"GET /1 HTTP/1.0\r\n\r\n" + smuggled, []int{200}, []string{"GET /1 "}},
		"an upgrade to http/2":       {get1 + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", []int{200}, []string{"GET /1 "}},
		"an upgrade to a websocket":  {get1 + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", []int{200}, []string{"GET /1 "}},
		"expects to go on":           {post1 + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", []int{100, 200}, []string{"POST /1 hello"}},
		"the absolute form":          {"GET http://b:80/2?q HTTP/1.1\r\nHost: a\r\n\r\n", []int{200}, []string{"GET /2?q "}},
		"options of everything":      {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", []int{200}, nil},
		"sixty kilobytes of headers": {get1 + strings.Repeat("X-Many: x\r\n", 5000) + "\r\n", []int{200}, []string{"GET /1 "}},
	} {
		if got := send(t, url, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s: answered %v, want %v", name, got, c.want)
		}
		if seen := w.take(); !slices.Equal(seen, c.seen) {
			t.Errorf("%s: handlers saw %q, want %q", name, seen, c.seen)
		}
	}
}

// A client that sends slowly, or stops, is cut off, and holds up no other meanwhile.
func TestSlowSendersAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []int // and 400 after that, or nothing
	}{
		"in the request line": {"GET /1 HT", nil},
		"in the header":       {get1 + "X: ", nil},
		"after a request":     {get1 + "\r\nGET /2 HTTP/1.1\r\nHost", []int{200}},
		"in the body":         {post1 + "Content-Length: 1000\r\n\r\nhello", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w witness
			_, url := start(t, Config{headerTimeout: 200 * time.Millisecond, bodyTimeout: 200 * time.Millisecond}, Route{ID: "all", Pattern: "/...", Handle: w.handle})
			c2, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c2.Close() }()
			if _, err := io.WriteString(c2, c.text); err != nil {
				t.Fatal(err)
			}
			if got := send(t, url, "POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"); !slices.Equal(got, []int{200}) {
				t.Errorf("the next client was answered %v", got)
			}
			drips, stop := time.NewTicker(20*time.Millisecond), make(chan struct{})
			defer close(stop)
			go func() { // a byte now and then buys no more time
				defer drips.Stop()
				for {
					select {
					case <-drips.C:
						_, _ = io.WriteString(c2, "x")
					case <-stop:
						return
					}
				}
			}()
			if got := statuses(t, c2, c.text); !slices.Equal(got, c.want) && !slices.Equal(got, append(c.want, 400)) {
				t.Errorf("answered %v, want %v", got, c.want)
			}
			if seen := w.take(); len(seen) != len(c.want)+1 {
				t.Errorf("handlers saw %q", seen)
			}
		})
	}
}
