package host

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/test/guests"
)

// setting of a case that needs another one than the usual, or that must not end as usual.
type setting struct {
	traps   string        // in the error that ends the case; "": its verdict must be good
	within  time.Duration // of the event; 0: a time that no case should take
	body    int64         // the limit
	command bool          // it is called as one
	exits   bool          // and gives no verdict; traps then tells the error, "" for none
	args    []string
	environ map[string]string
	stdin   string
	logs    []string // all that must be logged
}

const (
	permitted  = "where check-write permitted"
	atMost4096 = "it takes at most 4096"
	fullFields = "the headers are larger than 128 KiB"
	streamHeld = "the body's stream must be dropped first"
	tumtum     = "So rested he by the Tumtum tree,\nAnd stood awhile in thought."
)

var settings = map[string]setting{
	"io/poll-of-nothing-traps":                                {traps: "the list of pollables is empty"},
	"io/poll-without-end-ends-with-the-event":                 {traps: "its time is over", within: 50 * time.Millisecond},
	"io/block-without-end-ends-with-the-event":                {traps: "its time is over", within: 50 * time.Millisecond},
	"io/pollables-that-pile-up-trap":                          {traps: "10000 handles, which is the limit"},
	"io/write-over-the-permit-traps":                          {traps: permitted},
	"io/write-without-a-permit-traps":                         {traps: permitted},
	"io/write-zeroes-over-the-permit-traps":                   {traps: permitted},
	"io/write-zeroes-of-everything-traps":                     {traps: permitted},
	"io/a-permit-is-used-up":                                  {traps: permitted},
	"io/blocking-write-of-4097-traps":                         {traps: atMost4096},
	"io/blocking-write-zeroes-of-4097-traps":                  {traps: atMost4096},
	"io/blocking-write-zeroes-of-everything-traps":            {traps: atMost4096},
	"random/too-much-at-once-traps":                           {traps: "random bytes at once"},
	"random/too-much-that-is-insecure-traps":                  {traps: "random bytes at once"},
	"fields/many-names-trap":                                  {traps: fullFields},
	"fields/many-empty-values-trap":                           {traps: fullFields},
	"fields/many-values-trap":                                 {traps: fullFields},
	"fields/many-empty-values-of-one-name-trap":               {traps: fullFields},
	"fields/a-value-of-a-megabyte-traps":                      {traps: fullFields},
	"http-requests/a-body-that-ends-before-its-stream-traps":  {traps: streamHeld},
	"http-trailers/finish-before-the-stream-is-dropped-traps": {traps: streamHeld},
	"http-bodies/a-body-before-its-request-is-bounded":        {traps: "wait for the request to be sent"},
	"http-errors/an-answer-over-the-limit":                    {body: 100_000},

	"cli/environment-is-what-is-granted": {environ: map[string]string{"callooh": "callay", "frabjous": "day ✓", "EMPTY": ""}},
	"cli/arguments":                      {command: true, args: []string{"", "an argument", "with ✓", `"quotes"`}},
	"cli/stdin-is-read-to-its-end":       {stdin: tumtum},
	"cli/stdin-by-twos":                  {stdin: tumtum},
	"cli/stdin-is-spliced-to-stdout":     {stdin: tumtum},
	"cli/stdin-is-skipped":               {stdin: tumtum},
	"cli/output-is-lines": {logs: []string{
		"INFO stdout: this is half a print to stdout", "INFO stdout: ", "INFO stdout: after empty",
		"WARN stderr: this is half a print to stderr", "WARN stderr: ", "WARN stderr: after empty",
		"INFO stdout: never ended", "WARN stderr: never ended",
	}},
	"cli/output-of-two-handles-is-one": {logs: []string{"WARN stderr: start a print 123"}},
	"cli/exit-with-success":            {command: true, exits: true},
	"cli/exit-with-code-0":             {command: true, exits: true},
	"cli/exit-with-failure":            {command: true, exits: true, traps: "exit code 1"},
	"cli/exit-with-code-42":            {command: true, exits: true, traps: "exit code 42"},
}

// What WASI 0.2 asks of a host, as test/guests/conformance has it, each case in an event of its own.
func TestWASIConformance(t *testing.T) {
	c := compile(t, guests.Conformance)
	list, err := serve(t, c, Limits{}, &Env{}, request("GET", "/cases", nil))
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(list.body.String())
	if len(names) < 180 {
		t.Errorf("the guest has %d cases only", len(names))
	}
	for name := range settings {
		if !slices.Contains(names, name) {
			t.Errorf("the guest has no case %s", name)
		}
	}
	peers := newPeers(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings[name]
			verdict, l, err := s.run(t, c, peers, name)
			switch {
			case s.traps != "":
				if err == nil || !strings.Contains(err.Error(), s.traps) {
					t.Errorf("ended with %q, %v; want an error with %q", verdict, err, s.traps)
				}
			case err != nil:
				t.Errorf("%v\n%s", err, strings.Join(l, "\n"))
			case s.exits:
				if verdict != "" {
					t.Errorf("it went on: %s", verdict)
				}
			default:
				var v struct {
					Pass   bool
					Detail []string
				}
				if err := json.Unmarshal([]byte(verdict), &v); err != nil {
					t.Fatalf("verdict %q: %v", verdict, err)
				}
				if !v.Pass {
					t.Error(strings.Join(v.Detail, ", "))
				}
			}
			if s.logs != nil && !slices.Equal(l, s.logs) {
				t.Errorf("logged %q", l)
			}
		})
	}
}

// run the case and give its verdict.
func (s setting) run(t *testing.T, c *engine.Component, peers *peers, name string) (verdict string, l logs, err error) {
	limit := s.within
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	env := &Env{Log: l.add, Environ: s.environ, Client: peers.client, Grants: Grants{OutboundHosts: peers.grants}}
	if s.stdin != "" {
		env.Stdin = strings.NewReader(s.stdin)
	}
	if !s.command {
		a, err := serve(t, c, Limits{Body: s.body}, env, request("GET", "/case/"+name+"?"+peers.query, nil).WithContext(ctx))
		return a.body.String(), l, err
	}
	env.Args = append([]string{name, peers.query}, s.args...)
	g := start(t, ctx, c, Limits{Body: s.body}, env)
	err = g.HandleTick(HandlersOf(c), Tick{})
	g.Close()
	for _, line := range l {
		if v, ok := strings.CutPrefix(line, "INFO stdout: "); ok {
			verdict += v
		}
	}
	return verdict, l, err
}
