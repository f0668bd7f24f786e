package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Send is the command that fires one event; control is the name of the agent's socket in its state folder.
func Send(control string) Command {
	return Command{
		Name:  "send",
		Short: "fire one event at an application that runs here",
		Help: `Usage:
  dunlin send [flags] http [METHOD] PATH
  dunlin send [flags] mqtt TOPIC [PAYLOAD]
  dunlin send [flags] timer [ID]

Fires one event at what "dunlin up" runs in this folder, or at an agent on this machine, and tells how it ended. An HTTP
request prints the answer's body. A message goes to every handler whose topic filter matches, past the broker, and is not
tried again. A timer ticks now, beside its own beat; its ID may be left out where there is one timer.

Flags:
  -d BODY              an HTTP body (METHOD is then POST by default); @FILE reads a file, - standard input; so does PAYLOAD
  -H 'NAME: VALUE'     an HTTP header, several times
  --qos N              of the message: 0, 1 or 2 (default 1)
  -f FILE              the manifest that dunlin up runs, or its folder (default: this folder)
  --state DIR          state folder of the agent (default .dunlin beside the manifest; a board's is /var/lib/dunlin)
  --json               print outcomes as JSON

Examples:
  dunlin send http /climate
  dunlin send mqtt tele/door/SENSOR '{"Temperature": 9.5}'
  dunlin send timer watch

Exit code: 1 when a handler failed, or the answer's status is 400 or more.
`,
		Run: func(ctx context.Context, env *Env, args []string) error { return runSend(ctx, env, control, args) },
	}
}

type sendFlags struct {
	file, state, body string
	headers           headerFlag
	qos               int
	json              bool
}

// headerFlag collects NAME: VALUE.
type headerFlag struct{ http.Header }

func (h headerFlag) String() string { return "" }

func (h headerFlag) Set(s string) error {
	k, v, ok := strings.Cut(s, ":")
	if !ok || strings.TrimSpace(k) == "" {
		return errors.New("want 'NAME: VALUE'")
	}
	h.Add(strings.TrimSpace(k), strings.TrimSpace(v))
	return nil
}

func runSend(ctx context.Context, env *Env, control string, args []string) error {
	s := sendFlags{headers: headerFlag{http.Header{}}}
	f := flag.NewFlagSet("send", flag.ContinueOnError)
	f.StringVar(&s.file, "f", ".", "")
	f.StringVar(&s.state, "state", "", "")
	f.StringVar(&s.body, "d", "", "")
	f.Var(s.headers, "H", "")
	f.IntVar(&s.qos, "qos", 1, "")
	f.BoolVar(&s.json, "json", false, "")
	rest, err := parse(f, args)
	if err != nil {
		return err
	}
	c, err := controlClient(s.file, s.state, control)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	kind, arg, last := "", "", ""
	for i, to := range []*string{&kind, &arg, &last} {
		if i < len(rest) {
			*to = rest[i]
		}
	}
	switch n := len(rest); {
	case kind == "http" && n == 2:
		return s.request(ctx, env, c, "", arg)
	case kind == "http" && n == 3:
		return s.request(ctx, env, c, strings.ToUpper(arg), last)
	case kind == "mqtt" && (n == 2 || n == 3):
		q := url.Values{"topic": {arg}, "qos": {strconv.Itoa(s.qos)}}
		return s.fire(ctx, env, c, "mqtt?"+q.Encode(), last)
	case kind == "timer" && n <= 2:
		return s.fire(ctx, env, c, "timer?"+url.Values{"id": {arg}}.Encode(), "")
	}
	return Hint(Usage("send what?"), "say http [METHOD] PATH, mqtt TOPIC [PAYLOAD] or timer [ID]")
}

// controlClient talks to the agent whose state folder is state, or that of what runs from the manifest file.
func controlClient(file, state, control string) (*http.Client, error) {
	state, err := stateOf(file, state)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{DialContext: dialControl(filepath.Join(state, control))},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// stateOf is the state folder that was named, or that of what runs from the manifest file.
func stateOf(file, state string) (string, error) {
	if state != "" {
		return state, nil
	}
	app := application{file: file}
	if err := app.find(); err != nil {
		return "", err
	}
	return stateBeside(app.file), nil
}

var errNoAgent = errors.New("no agent listens on")

// dialControl connects to an agent's socket, through its directory: a socket's path has 107 bytes at most.
func dialControl(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		dir, err := os.Open(filepath.Dir(path))
		if err == nil {
			defer dir.Close()
			var d net.Dialer
			var c net.Conn
			if c, err = d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))); err == nil {
				return c, nil
			}
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, Hint(fmt.Errorf("%w %s", errNoAgent, path), "start dunlin up first, or name an agent's folder with --state")
		}
		return nil, fmt.Errorf("reach the agent: %w", err)
	}
}

// content of an argument: itself, a @FILE's, or standard input's for -.
func (env *Env) content(arg string) (io.Reader, error) {
	file, named := strings.CutPrefix(arg, "@")
	switch {
	case arg == "-":
		return env.Stdin, nil
	case !named:
		return strings.NewReader(arg), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read payload: %w", err)
	}
	return strings.NewReader(string(b)), nil
}

func (s *sendFlags) do(ctx context.Context, env *Env, c *http.Client, method, path, body string) (*http.Response, error) {
	r, err := env.content(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost/"+path, r)
	if err != nil {
		return nil, Usage("%v", err)
	}
	req.Header = s.headers.Clone()
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := c.Do(req)
	var broken *url.Error
	if errors.As(err, &broken) {
		err = broken.Err // its URL is no place that the user knows
	}
	return resp, err
}

func (s *sendFlags) request(ctx context.Context, env *Env, c *http.Client, method, path string) error {
	if method == "" {
		method = http.MethodGet
		if s.body != "" {
			method = http.MethodPost
		}
	}
	if !strings.HasPrefix(path, "/") {
		return Usage("path %q: it starts with /", path)
	}
	begun := env.Now()
	resp, err := s.do(ctx, env, c, method, "http"+path, s.body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	took := env.Now().Sub(begun)
	if s.json {
		err = printJSON(env.Stdout, struct {
			Status  int         `json:"status"`
			Headers http.Header `json:"headers"`
			Body    string      `json:"body"`
			Micros  int64       `json:"micros"`
		}{resp.StatusCode, resp.Header, string(body), took.Microseconds()})
	} else {
		fmt.Fprintf(env.Stderr, "%s in %s\n", resp.Status, took.Round(time.Microsecond))
		_, err = env.Stdout.Write(body)
		if err == nil && env.Terminal && len(body) > 0 && body[len(body)-1] != '\n' {
			fmt.Fprintln(env.Stdout)
		}
	}
	if err == nil && resp.StatusCode >= 400 {
		return &exit{code: ExitError}
	}
	return err
}

// fired is what the agent answers for each handler.
type fired struct {
	Trigger string `json:"trigger"`
	Error   string `json:"error,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Event   string `json:"event,omitempty"`
	Micros  int64  `json:"micros"`
}

func (s *sendFlags) fire(ctx context.Context, env *Env, c *http.Client, path, payload string) error {
	resp, err := s.do(ctx, env, c, http.MethodPost, path, payload)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return errors.New(strings.TrimSpace(string(b)))
	}
	var all []fired
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if s.json {
		if err := printJSON(env.Stdout, all); err != nil {
			return err
		}
	}
	failed := false
	for _, o := range all {
		failed = failed || o.Error != ""
		took := time.Duration(o.Micros) * time.Microsecond
		switch {
		case s.json:
		case o.Error != "":
			fmt.Fprintf(env.Stdout, "%s failed after %s (%s, event %s): %s\n", o.Trigger, took, o.Reason, o.Event, o.Error)
		default:
			fmt.Fprintf(env.Stdout, "%s handled it in %s\n", o.Trigger, took)
		}
	}
	if failed {
		return &exit{code: ExitError}
	}
	return nil
}
