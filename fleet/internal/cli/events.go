package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
)

// Events is the command for what a board has accepted and not handled; control is the name of the agent's socket in its state
// folder.
func Events(control string) Command {
	return Command{
		Name:  "events",
		Short: "list, show, retry or drop messages that handlers failed on",
		Help: `Usage:
  dunlin events [flags] [list]
  dunlin events [flags] show EVENT
  dunlin events [flags] retry EVENT...|all
  dunlin events [flags] drop EVENT...|all

A message of QoS 1 or 2 that a handler fails on is tried four times, and then set aside as a dead letter, with the reason. This
command is for the agent on this machine, or for what "dunlin up" runs in this folder. retry puts a letter behind what waits for its
trigger, under a new name; drop removes it for good.

Flags:
  -f FILE              the manifest that dunlin up runs, or its folder (default: this folder)
  --state DIR          state folder of the agent (default .dunlin beside the manifest; a board's is /var/lib/dunlin)
  --json               print JSON

Examples:
  dunlin events
  dunlin events show e17
  dunlin events retry all
`,
		Run: func(ctx context.Context, env *Env, args []string) error { return runEvents(ctx, env, control, args) },
	}
}

// waitingEvents and deadEvent are the agent's answers.
type waitingEvents struct {
	Waiting      int         `json:"waiting"`
	WaitingBytes int64       `json:"waiting_bytes"`
	OutboxBytes  int64       `json:"outbox_bytes"`
	DeadDropped  uint64      `json:"dead_dropped"`
	Dead         []deadEvent `json:"dead"`
}

type deadEvent struct {
	Event    string    `json:"event"`
	Trigger  string    `json:"trigger"`
	Topic    string    `json:"topic"`
	QoS      byte      `json:"qos"`
	At       time.Time `json:"at"`
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason"`
	Cause    string    `json:"cause"`
	Bytes    int       `json:"bytes"`
	Text     string    `json:"text,omitempty"`
	Payload  []byte    `json:"payload,omitempty"`
}

func runEvents(ctx context.Context, env *Env, control string, args []string) error {
	var file, state string
	var asJSON bool
	f := flag.NewFlagSet("events", flag.ContinueOnError)
	f.StringVar(&file, "f", ".", "")
	f.StringVar(&state, "state", "", "")
	f.BoolVar(&asJSON, "json", false, "")
	rest, err := parse(f, args)
	if err != nil {
		return err
	}
	verb := "list"
	if len(rest) > 0 {
		verb, rest = rest[0], rest[1:]
	}
	switch {
	case verb == "list" && len(rest) == 0, verb == "show" && len(rest) == 1, (verb == "retry" || verb == "drop") && len(rest) > 0:
	default:
		return Hint(Usage("do what with events?"), "say list, show EVENT, retry EVENT or drop EVENT")
	}
	c, err := controlClient(file, state, control)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	e := events{env: env, client: c, json: asJSON}
	switch verb {
	case "list":
		return e.list(ctx)
	case "show":
		return e.show(ctx, rest[0])
	}
	return e.each(ctx, verb, rest)
}

type events struct {
	env    *Env
	client *http.Client
	json   bool
}

// ask the agent; its refusals are its own words.
func (e *events) ask(ctx context.Context, method, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost/"+path, nil)
	if err != nil {
		return Usage("%v", err)
	}
	resp, err := e.client.Do(req)
	var broken *url.Error
	if errors.As(err, &broken) {
		err = broken.Err // its URL is no place that the user knows
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	return json.Unmarshal(body, answer)
}

func (e *events) list(ctx context.Context) error {
	var all waitingEvents
	if err := e.ask(ctx, http.MethodGet, "events", &all); err != nil {
		return err
	}
	if e.json {
		return printJSON(e.env.Stdout, all)
	}
	fmt.Fprintf(e.env.Stderr, "%d waiting (%d bytes), %d bytes in the outbox, %d dead letters\n", all.Waiting, all.WaitingBytes, all.OutboxBytes, len(all.Dead))
	if all.DeadDropped > 0 {
		fmt.Fprintf(e.env.Stderr, "%d more dead letters had to make room since the agent started\n", all.DeadDropped)
	}
	if len(all.Dead) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(e.env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EVENT\tAT\tTRIGGER\tTOPIC\tBYTES\tREASON\tCAUSE")
	for _, d := range all.Dead {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%.80s\n", d.Event, d.At.Format(time.DateTime), d.Trigger, d.Topic, d.Bytes, d.Reason, d.Cause)
	}
	return w.Flush()
}

func (e *events) show(ctx context.Context, name string) error {
	var d deadEvent
	if err := e.ask(ctx, http.MethodGet, "events/"+url.PathEscape(name), &d); err != nil {
		return err
	}
	if e.json {
		return printJSON(e.env.Stdout, d)
	}
	fmt.Fprintf(e.env.Stderr, "%s: %s on %q, QoS %d, taken in %s\ngiven up after %d attempts: %s: %s\n",
		d.Event, d.Trigger, d.Topic, d.QoS, d.At.Format(time.RFC3339), d.Attempts, d.Reason, d.Cause)
	payload := append([]byte(d.Text), d.Payload...)
	_, err := e.env.Stdout.Write(payload)
	if err == nil && e.env.Terminal && len(payload) > 0 && payload[len(payload)-1] != '\n' {
		fmt.Fprintln(e.env.Stdout)
	}
	return err
}

// each of the named events, or all.
func (e *events) each(ctx context.Context, verb string, names []string) error {
	if len(names) == 1 && names[0] == "all" {
		var all waitingEvents
		if err := e.ask(ctx, http.MethodGet, "events", &all); err != nil {
			return err
		}
		names = nil
		for _, d := range all.Dead {
			names = append(names, d.Event)
		}
	}
	method, suffix := http.MethodDelete, ""
	if verb == "retry" {
		method, suffix = http.MethodPost, "/retry"
	}
	for _, name := range names {
		var done struct {
			Event string `json:"event"`
		}
		if err := e.ask(ctx, method, "events/"+url.PathEscape(name)+suffix, &done); err != nil {
			return err
		}
		switch {
		case e.json:
			if err := printJSON(e.env.Stdout, done); err != nil {
				return err
			}
		case verb == "retry":
			fmt.Fprintf(e.env.Stdout, "%s is tried again as %s\n", name, done.Event)
		default:
			fmt.Fprintf(e.env.Stdout, "%s is dropped\n", name)
		}
	}
	return nil
}
