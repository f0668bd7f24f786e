package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"text/tabwriter"
	"time"

	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
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

A message of QoS 1 or 2 that a handler fails on is tried four times, and then set aside as a dead letter, with the reason. retry puts
a letter behind what waits for its trigger, under a new name; drop removes it for good.

This command is for the agent on this machine, or for what "dunlin up" runs in this folder; with --device, for a board of the fleet,
which must be connected. list also takes several boards. Of a payload, a board of the fleet shows 48 KiB at most.

Flags:
  -f FILE              the manifest that dunlin up runs, or its folder (default: this folder)
  --state DIR          state folder of the agent (default .dunlin beside the manifest; a board's is /var/lib/dunlin)
  --json               print JSON
  --device NAME        a board of the fleet
  --label KEY=VALUE    list: boards with that label; several times: all of them
  --all                list: every board
` + serverHelp + `  --keys DIR           keys folder that knows the server (default keys)

Examples:
  dunlin events
  dunlin events show e17
  dunlin events retry all
  dunlin events drop e17 --device coldroom-1 --to https://fleet.example
`,
		Run: func(ctx context.Context, env *Env, args []string) error { return runEvents(ctx, env, control, args) },
	}
}

func runEvents(ctx context.Context, env *Env, control string, args []string) error {
	var s server
	var file, state string
	e := events{env: env}
	f := flag.NewFlagSet("events", flag.ContinueOnError)
	s.flags(f)
	f.StringVar(&file, "f", ".", "")
	f.StringVar(&state, "state", "", "")
	f.BoolVar(&e.json, "json", false, "")
	var b boardFlags
	b.flags(f)
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
	switch {
	case b.several() && verb != "list":
		return Hint(Usage("%s is for one board at a time", verb), "say --device NAME; list takes --label and --all")
	case b.given():
		boards, err := b.selector()
		if err != nil {
			return err
		}
		c, err := s.connect(env)
		if err != nil {
			return err
		}
		if b.several() {
			return e.listAll(ctx, c, boards)
		}
		e.letters = remote{c, b.device}
	case s.to != "":
		return Hint(Usage("which boards of %s?", s.to), "say --device NAME; list takes --label and --all too")
	default:
		c, err := controlClient(file, state, control)
		if err != nil {
			return err
		}
		defer c.CloseIdleConnections()
		e.letters = local{c}
	}
	switch verb {
	case "list":
		return e.list(ctx)
	case "show":
		return e.show(ctx, rest[0])
	}
	return e.each(ctx, verb, rest)
}

type events struct {
	letters
	env  *Env
	json bool
}

// letters are the dead letters of one agent.
type letters interface {
	all(ctx context.Context) (wire.Events, error)
	one(ctx context.Context, event string) (wire.DeadEvent, error)
	retry(ctx context.Context, event string) (wire.Renamed, error)
	drop(ctx context.Context, event string) (wire.Renamed, error)
}

func (e *events) list(ctx context.Context) error {
	all, err := e.all(ctx)
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.env.Stdout, all)
	}
	e.count("", all)
	if len(all.Dead) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(e.env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, lettersHead)
	printLetters(w, "", all.Dead)
	return w.Flush()
}

func (e *events) count(of string, all wire.Events) {
	fmt.Fprintf(e.env.Stderr, "%s%d waiting (%d bytes), %d bytes in the outbox, %d dead letters\n", of, all.Waiting, all.WaitingBytes, all.OutboxBytes, len(all.Dead))
	if all.Left > 0 {
		fmt.Fprintf(e.env.Stderr, "%s%d of those wait for triggers that are gone, and are handled when they are back\n", of, all.Left)
	}
	if all.Uplinks > 0 {
		fmt.Fprintf(e.env.Stderr, "%s%d messages and requests (%d bytes) wait for the fleet or for deferred hosts\n", of, all.Uplinks, all.UplinkBytes)
	}
	if all.DeadDropped > 0 {
		fmt.Fprintf(e.env.Stderr, "%s%d more dead letters had to make room since the agent started\n", of, all.DeadDropped)
	}
	if all.More {
		fmt.Fprintf(e.env.Stderr, "%sthere are more dead letters than these\n", of)
	}
}

const lettersHead = "EVENT\tAT\tTRIGGER\tTOPIC\tBYTES\tREASON\tCAUSE"

func printLetters(w *tabwriter.Writer, of string, dead []wire.DeadEvent) {
	for _, d := range dead {
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%d\t%s\t%s\n", of, d.Event, d.At.Format(time.DateTime), d.Trigger, printable(d.Topic), d.Bytes,
			printable(d.Reason), printable(fmt.Sprintf("%.80s", d.Cause)))
	}
}

// boardEvents is what one board of several says, as JSON.
type boardEvents struct {
	Device string       `json:"device"`
	Events *wire.Events `json:"events,omitempty"`
	Error  string       `json:"error,omitempty"`
}

// listAll asks each board of a selector, one after the other; one that doesn't answer holds up no other.
func (e *events) listAll(ctx context.Context, c *client.Client, s model.Selector) error {
	known, err := c.Devices(ctx, 0, 0)
	if err != nil {
		return err
	}
	boards, silent := []boardEvents{}, 0
	for _, d := range known.Devices {
		if !s.Matches(d.Name, d.Labels) {
			continue
		}
		b := boardEvents{Device: d.Name}
		all, err := remote{c, d.Name}.all(ctx)
		if err != nil {
			silent++
			b.Error = err.Error()
			fmt.Fprintln(e.env.Stderr, "dunlin: warning:", err)
		} else {
			b.Events = &all
			e.count(d.Name+": ", all)
		}
		boards = append(boards, b)
	}
	switch {
	case len(boards) == 0:
		return Hint(fmt.Errorf("no board matches: %s", s), "dunlin devices lists them")
	case e.json:
		err = printJSON(e.env.Stdout, boards)
	default:
		w := tabwriter.NewWriter(e.env.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "DEVICE\t"+lettersHead)
		for _, b := range boards {
			if b.Events != nil {
				printLetters(w, b.Device+"\t", b.Events.Dead)
			}
		}
		err = w.Flush()
	}
	if silent > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %s could not be asked", silent, plural(len(boards), "board")))
	}
	return err
}

func (e *events) show(ctx context.Context, name string) error {
	d, err := e.one(ctx, name)
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.env.Stdout, d)
	}
	fmt.Fprintf(e.env.Stderr, "%s: %s on %q, QoS %d, taken in %s\ngiven up after %d attempts: %s: %s\n",
		d.Event, d.Trigger, d.Topic, d.QoS, d.At.Format(time.RFC3339), d.Attempts, printable(d.Reason), printable(d.Cause))
	payload := append([]byte(d.Text), d.Payload...)
	if d.Cut {
		fmt.Fprintf(e.env.Stderr, "the first %d of its %d bytes:\n", len(payload), d.Bytes)
	}
	_, err = e.env.Stdout.Write(payload)
	if err == nil && e.env.Terminal && len(payload) > 0 && payload[len(payload)-1] != '\n' {
		fmt.Fprintln(e.env.Stdout)
	}
	return err
}

// each of the named events, or all.
func (e *events) each(ctx context.Context, verb string, names []string) error {
	if len(names) == 1 && names[0] == "all" {
		all, err := e.all(ctx)
		if err != nil {
			return err
		}
		names = nil
		for _, d := range all.Dead {
			names = append(names, d.Event)
		}
	}
	do := e.drop
	if verb == "retry" {
		do = e.retry
	}
	for _, name := range names {
		done, err := do(ctx, name)
		if err != nil {
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
