// Package http is the source of requests: one listener, and routes to handlers.
package http

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// WellKnown is the path under which the agent answers for itself; no route can take it.
const WellKnown = "/.well-known/dunlin/"

const (
	headerTimeout = 10 * time.Second // to send a request's header
	idleTimeout   = 2 * time.Minute  // of a kept-alive connection
	maxHeader     = 64 << 10
	maxConns      = 512      // more wait in the kernel's backlog
	smallBody     = 64 << 10 // read before an instance is made for it, so that a slow sender holds none
	bodyTimeout   = 10 * time.Second
	lingerTimeout = time.Second // for the rest of a body that the handler did not read
	handOvers     = 3           // versions that a request is offered to while an upgrade replaces them
)

// Config of a Source.
type Config struct {
	Address   string        // host:port
	WellKnown http.Handler  // serves /.well-known/dunlin/; nil: nothing does
	MaxBody   int64         // bytes of a request body, whatever its handler may take; 0: 16 MiB
	Drain     time.Duration // how long Run waits for requests in flight before it closes them; 0: 10 s

	headerTimeout, bodyTimeout time.Duration // tests have less of it
}

// Source serves HTTP/1.1, and HTTP/2 to clients that start with its preface.
type Source struct {
	cfg    Config
	log    *slog.Logger
	routes atomic.Pointer[table]
	ready  chan struct{}

	mu     sync.Mutex
	addr   net.Addr
	status trigger.Status
}

// New makes a source; Run listens.
func New(cfg Config, log *slog.Logger) *Source {
	cfg.MaxBody = cmp.Or(cfg.MaxBody, 16<<20)
	cfg.Drain = cmp.Or(cfg.Drain, 10*time.Second)
	cfg.headerTimeout = cmp.Or(cfg.headerTimeout, headerTimeout)
	cfg.bodyTimeout = cmp.Or(cfg.bodyTimeout, bodyTimeout)
	s := &Source{cfg: cfg, log: log, ready: make(chan struct{})}
	s.routes.Store(&table{})
	s.setStatus(trigger.Stopped, "not started")
	return s
}

// Set replaces the routes. A request in flight ends on the handler that it began with. Two routes that match the same paths
// are an error, and nothing changes.
func (s *Source) Set(routes []Route) error {
	t, err := newTable(routes)
	if err != nil {
		return fmt.Errorf("set routes: %w", err)
	}
	s.routes.Store(t)
	return nil
}

// Run serves until ctx ends, then waits for requests in flight. It returns an error when it can't listen, and can be run again.
func (s *Source) Run(ctx context.Context) error {
	l, err := trigger.Listen(ctx, trigger.KindHTTP, s.cfg.Address,
		"set listen to another one, or stop the program that has it (ss -ltnp shows it)",
		"set listen to a port above 1023, or grant CAP_NET_BIND_SERVICE")
	if err != nil {
		s.setStatus(trigger.Degraded, err.Error())
		return err
	}
	// Requests outlive ctx: they end by themselves, or when the drain time is over.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.cfg.headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)

	s.mu.Lock()
	if s.addr == nil {
		close(s.ready)
	}
	s.addr = l.Addr()
	s.mu.Unlock()
	s.setStatus(trigger.Healthy, "")

	served := make(chan error, 1)
	go func() { served <- srv.Serve(newLimited(l, maxConns)) }()
	select {
	case err = <-served:
		s.setStatus(trigger.Degraded, err.Error())
		return fmt.Errorf("serve http on %s: %w", s.cfg.Address, err)
	case <-ctx.Done():
	}
	s.setStatus(trigger.Stopped, "")
	drain, stop := context.WithTimeout(requests, s.cfg.Drain)
	defer stop()
	if srv.Shutdown(drain) != nil {
		cancel()
		return errors.Join(srv.Close(), fmt.Errorf("stop http: requests were still in flight after %s", s.cfg.Drain))
	}
	return nil
}

// Ready is closed once the source listens.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// Addr is the address that it listens on; nil before Ready.
func (s *Source) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Status of the source.
func (s *Source) Status() trigger.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *Source) setStatus(h trigger.Health, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = trigger.Status{Source: string(trigger.KindHTTP), Health: h, Detail: detail}
}

// ServeHTTP serves a request, also one that did not come through the listener.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, WellKnown) && s.cfg.WellKnown != nil {
		s.cfg.WellKnown.ServeHTTP(w, r)
		return
	}
	if r.Method == "PRI" { // the start of an HTTP/2 preface that did not go on, which net/http lets pass
		w.Header().Set("Connection", "close")
		http.Error(w, "no HTTP/2 follows", http.StatusHTTPVersionNotSupported)
		return
	}
	if !sound(r) {
		http.Error(w, "the method or the authority is none", http.StatusBadRequest)
		return
	}
	at := time.Now()
	route := s.routes.Load().find(r.URL.EscapedPath())
	if route == nil {
		http.Error(w, fmt.Sprintf("no route for %s", r.URL.EscapedPath()), http.StatusNotFound)
		return
	}
	if r.ContentLength > s.cfg.MaxBody {
		http.Error(w, fmt.Sprintf("the body has %d bytes, the limit is %d", r.ContentLength, s.cfg.MaxBody), http.StatusRequestEntityTooLarge)
		return
	}
	out := &observed{ResponseWriter: w}
	if r.ContentLength != 0 {
		out.request = &ending{ReadCloser: http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)}
		r.Body = out.request
		out.http1, out.chunked = r.ProtoMajor == 1, len(r.TransferEncoding) > 0
		control := http.NewResponseController(w)
		// Else net/http reads the rest of the body before it answers, from a client that may not send it.
		_ = control.EnableFullDuplex() // HTTP/2 has it anyway
		// And after the answer it reads on, to use the connection again.
		defer func() { _ = control.SetReadDeadline(time.Now().Add(lingerTimeout)) }() // a connection that is gone has none
	}
	if err := readSmall(w, r, s.cfg.bodyTimeout); err != nil {
		http.Error(out, "the body did not arrive: "+err.Error(), http.StatusBadRequest)
		return
	}
	var err error
	for range handOvers {
		if route.Spin {
			addSpinHeaders(r, route.Pattern)
		}
		err = trigger.Guarded(r.Context(), route.Handle, &trigger.Event{
			Kind: trigger.KindHTTP, Trigger: route.ID, At: at,
			HTTP: &trigger.HTTP{Request: r, Response: out, Route: route.Pattern},
		})
		if trigger.ReasonOf(err) != trigger.Closed || out.started {
			break
		}
		if route = s.routes.Load().find(r.URL.EscapedPath()); route == nil {
			http.Error(out, fmt.Sprintf("no route for %s", r.URL.EscapedPath()), http.StatusNotFound)
			return
		}
	}
	if err == nil {
		out.start()
		return
	}
	if out.started {
		panic(http.ErrAbortHandler) // the client must not take what it has for the whole answer
	}
	fail(out, err)
}

const (
	alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	tokenChars   = "!#$%&'*+-.^_`|~" + alphanumeric     // RFC 9110, 5.6.2
	hostChars    = "!$%&'()*+,-.:;=[]_~" + alphanumeric // RFC 3986, 3.2.2
)

// sound tells whether a request's method and authority are some: of HTTP/2 net/http does not.
func sound(r *http.Request) bool {
	return r.ProtoMajor == 1 || strings.Trim(r.Method, tokenChars) == "" && strings.Trim(r.Host, hostChars) == ""
}

// fail answers for a handler that has not.
func fail(w http.ResponseWriter, err error) {
	status, text := http.StatusInternalServerError, "the handler failed"
	var tooLarge *http.MaxBytesError
	switch trigger.ReasonOf(err) {
	case trigger.Busy:
		w.Header().Set("Retry-After", "1")
		status, text = http.StatusServiceUnavailable, "too many requests wait for this handler"
	case trigger.Closed, trigger.Unavailable, trigger.Canceled:
		w.Header().Set("Retry-After", "1")
		status, text = http.StatusServiceUnavailable, "the handler is not available"
	case trigger.TooSlow, trigger.TooBusy:
		status, text = http.StatusGatewayTimeout, "the handler ran out of time"
	case trigger.TooLarge:
		text = "the answer is over the handler's payload limit"
		if errors.As(err, &tooLarge) {
			status, text = http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is over the limit of %d bytes", tooLarge.Limit)
		}
	}
	// The cause stays in the log: it may hold what the client should not see.
	if f := (*trigger.Failure)(nil); errors.As(err, &f) && f.Event != "" {
		text += "; the log has more about event " + f.Event
	}
	http.Error(w, text, status)
}

// readSmall reads a body of known small size into memory.
func readSmall(w http.ResponseWriter, r *http.Request, timeout time.Duration) error {
	if r.ContentLength <= 0 || r.ContentLength > smallBody {
		return nil
	}
	deadline := http.NewResponseController(w)
	if err := deadline.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return deadline.SetReadDeadline(time.Time{})
}

// observed notes whether a response was begun.
type observed struct {
	http.ResponseWriter
	request        *ending // nil: the request has no body
	http1, chunked bool
	started        bool
}

func (o *observed) WriteHeader(status int) {
	if status >= 200 {
		o.start()
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observed) Write(p []byte) (int, error) {
	o.start()
	return o.ResponseWriter.Write(p)
}

// start of the response: the last moment at which its connection can be given up. net/http takes what follows a body for a request,
// in full duplex also when the body broke off or was malformed; and behind a proxy that goes by a length, when there was one beside
// the chunks, it may be the end of another client's (RFC 9112, 6.3), which net/http does not tell.
func (o *observed) start() {
	if !o.started && o.request != nil && o.http1 && (o.chunked || !o.request.ended.Load()) {
		o.Header().Set("Connection", "close")
	}
	o.started = true
}

// ending notes that a body has been read to its end.
type ending struct {
	io.ReadCloser
	ended atomic.Bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err == io.EOF {
		e.ended.Store(true)
	}
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }
