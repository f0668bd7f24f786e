package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// peers are the servers that the cases call, each at a port of its own on this machine.
type peers struct {
	client *http.Client
	query  string // name=authority&name=authority
	grants []string
}

func newPeers(t *testing.T) *peers {
	resolver, _ := nameServer(t)
	p := &peers{client: withoutRedirects(&http.Client{Transport: newEgress(resolver)})}
	t.Cleanup(p.client.CloseIdleConnections)
	add := func(name, authority string) {
		p.query += name + "=" + authority + "&"
		p.grants = append(p.grants, "http://"+authority, "https://"+authority)
	}
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)

	echo := httptest.NewUnstartedServer(newEcho())
	echo.Config.ErrorLog = quiet
	echo.Start()
	t.Cleanup(echo.Close)
	add("echo", echo.Listener.Addr().String())

	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	t.Cleanup(secure.Close)
	add("tls", secure.Listener.Addr().String())

	gone := listen(t)
	_ = gone.Close()
	add("refused", gone.Addr().String())
	add("no-name", "no-name.example")

	for _, name := range slices.Sorted(maps.Keys(misbehaviours)) {
		l := listen(t)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					misbehaviours[name](t, c.(*net.TCPConn))
					_ = c.Close()
				}()
			}
		}()
		add(name, l.Addr().String())
	}
	return p
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// head reads a request up to its body and gives the first line.
func head(c net.Conn) string {
	r := bufio.NewReaderSize(c, 1) // not much more than it
	first := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return strings.TrimSpace(first)
		}
		if first == "" {
			first = line
		}
	}
}

// says is a server that reads the head of a request, answers with these bytes, and closes.
func says(answer string) func(*testing.T, *net.TCPConn) {
	return func(_ *testing.T, c *net.TCPConn) {
		head(c)
		_, _ = io.WriteString(c, answer)
		// A close with bytes unread would be a reset, which may overtake the answer.
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// saysAndStays answers, and then nothing happens.
func saysAndStays(answer string) func(*testing.T, *net.TCPConn) {
	return func(t *testing.T, c *net.TCPConn) {
		head(c)
		_, _ = io.WriteString(c, answer)
		<-t.Context().Done()
	}
}

func resets(answer string) func(*testing.T, *net.TCPConn) {
	return func(_ *testing.T, c *net.TCPConn) {
		head(c)
		_, _ = io.WriteString(c, answer)
		_ = c.SetLinger(0)
	}
}

// repeats a part of an answer for as long as it is taken.
func repeats(start, part string) func(*testing.T, *net.TCPConn) {
	return func(_ *testing.T, c *net.TCPConn) {
		head(c)
		_, err := io.WriteString(c, start)
		for err == nil {
			_, err = io.WriteString(c, part)
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\n"

// misbehaviours by the peer's name. Each is called with a connection, which it has for itself.
var misbehaviours = map[string]func(*testing.T, *net.TCPConn){
	"silent": func(t *testing.T, c *net.TCPConn) {
		_ = c.SetReadBuffer(4 << 10)
		<-t.Context().Done()
	},
	"half":         saysAndStays(ok + "Content-Length: 10\r\n\r\nhalf"),
	"closes":       says(""),
	"resets":       resets(""),
	"half-header":  says(ok + "Content-Length: 5\r\n"),
	"short":        says(ok + "Content-Length: 10\r\n\r\nshort"),
	"short-reset":  resets(ok + "Content-Length: 10\r\n\r\nshort"),
	"broken-chunk": says(ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe"),
	"bad-chunk":    says(ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"),
	"garbage":      says("this is not the protocol\r\n\r\n"),
	"bad-status":   says("HTTP/1.1 abc OK\r\n\r\n"),
	"bad-version":  says("HTTP/one 200 OK\r\n\r\n"),
	"bad-header":   says(ok + "no colon here\r\n\r\n"),
	"bad-name":     says(ok + "a name: value\r\nContent-Length: 0\r\n\r\n"),
	"two-lengths":  says(ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
	"bad-length":   says(ok + "Content-Length: five\r\n\r\nhello"),
	"bad-coding":   says(ok + "Transfer-Encoding: gzip\r\n\r\nhello"),
	"switches":     says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nhello"),
	"large-header": says(ok + "X-Large: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"),
	"many-headers": repeats(ok, "X-Many: x\r\n"),
	"interim":      repeats("", "HTTP/1.1 103 Early Hints\r\nX-Hint: x\r\n\r\n"),
	"hints":        says("HTTP/1.1 103 Early Hints\r\nX-Hint: x\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n"),
	"tls-alert": func(_ *testing.T, c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 5))
		_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 40}) // fatal: handshake failure
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	},
	"endless":       repeats(ok+"\r\n", strings.Repeat("x", 10_000)),
	"answers-early": says("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
	"connection": says(ok + "Connection: keep-alive, x-mine\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\n" +
		"Upgrade: h2c\r\nX-Twice: 1\r\nX-Twice: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
	"raw": func(_ *testing.T, c *net.TCPConn) {
		line := head(c)
		_, _ = fmt.Fprintf(c, ok+"Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(line), line)
	},
}

// newEcho tells about each request in its answer and gives its body back; some paths do something else.
func newEcho() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Method", r.Method)
		h.Set("X-Target", r.RequestURI)
		h.Set("X-Host", r.Host)
		h.Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
		for name, values := range r.Header {
			h["X-Saw-"+name] = values
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	sized := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body)
		}
	}
	mux.HandleFunc("/sized", sized("hello"))
	mux.HandleFunc("/large", sized(strings.Repeat("large", 100_000)))
	mux.HandleFunc("/digits", sized(strings.Repeat("0123456789", 10_000)))
	mux.HandleFunc("/status/{status}", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.PathValue("status"))
		w.WriteHeader(status)
	})
	mux.Handle("/redirect", http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, n)
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-End")
		_, _ = io.WriteString(w, "hello")
		w.Header().Set("X-End", "done")
	})
	mux.HandleFunc("/see-trailers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for _, name := range slices.Sorted(maps.Keys(r.Trailer)) {
			for _, v := range r.Trailer[name] {
				_, _ = fmt.Fprintf(w, "%s: %s\n", name, v)
			}
		}
	})
	mux.HandleFunc("/duplex", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = errors.Join(c.EnableFullDuplex(), c.Flush())
		b := make([]byte, 1000)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = c.Flush()
			if err != nil {
				return
			}
		}
	})
	// Parts of one answer, each but the first after it was asked for.
	var gates sync.Map
	gate := func(r *http.Request) chan struct{} {
		g, _ := gates.LoadOrStore(r.PathValue("id"), make(chan struct{}))
		return g.(chan struct{})
	}
	mux.HandleFunc("/parts/{id}", func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "part %d", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-gate(r):
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/next/{id}", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case gate(r) <- struct{}{}:
		case <-r.Context().Done():
		}
	})
	return mux
}
