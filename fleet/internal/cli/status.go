package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
)

var status = Command{
	Name:  "status",
	Short: "show all that the fleet knows of one board",
	Help: `Usage:
  dunlin status DEVICE [flags]

Shows what a board should run, what it says it runs, the health of its triggers, its counters, what waits in its outbox, topics
of which messages were lost on the board, its clock and the metadata that it trusts.

Flags:
  --json               print JSON
` + serverHelp + `  --keys DIR           keys folder that knows the server (default keys)

Example:
  dunlin status coldroom-1 --to https://fleet.example --token-file admin.token
`,
	Run: runStatus,
}

func runStatus(ctx context.Context, env *Env, args []string) error {
	f := flag.NewFlagSet("status", flag.ContinueOnError)
	var s server
	s.flags(f)
	asJSON := f.Bool("json", false, "")
	rest, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return Hint(Usage("status wants one device"), "dunlin devices lists them")
	}
	c, err := s.connect(env)
	if err != nil {
		return err
	}
	d, err := c.Device(ctx, rest[0])
	var answer *client.Error
	if errors.As(err, &answer) && answer.Code == http.StatusNotFound {
		return Hint(fmt.Errorf("no device %s in this fleet", rest[0]), "dunlin devices lists them")
	}
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(env.Stdout, d)
	}
	sent, err := c.Streams(ctx, rest[0])
	if err != nil {
		return err
	}
	return printStatus(env, d, sent.Streams)
}

func printStatus(env *Env, d model.Device, streams []model.Stream) error {
	t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("device", "%s", d.Name)
	line("state", "%s, last seen %s, first %s", state(d), ago(env.Now().Sub(d.LastSeen)), d.FirstSeen.UTC().Format(time.DateOnly))
	line("agent", "%s on %s", d.Agent, d.Arch)
	line("labels", "%s", dash(labels(d.Labels)))
	line("desired", "generation %d, the board has %d", d.Generation.Desired, d.Generation.Reported)
	if d.Refused != nil {
		line("refused", "generation %d: %s", d.Refused.Generation, d.Refused.Reason)
	}
	line("clock", "%s", dash(string(d.Clock)))
	frozen := ""
	if d.Frozen {
		frozen = ", expired: it installs nothing"
	}
	line("trust", "root %d, timestamp %d, snapshot %d, targets %d%s", d.Trust.Root, d.Trust.Timestamp, d.Trust.Snapshot, d.Trust.Targets, frozen)
	line("events", "%d handled, %d failed, %d retried, %d dropped, %d dead letters wait", d.Counters.Handled, d.Counters.Failed, d.Counters.Retried, d.Counters.Dropped, d.Counters.Dead)
	if o := d.Outbox; o != nil {
		line("outbox", "%d messages wait (%s)%s", o.Messages, amount(o.Bytes), drops(o.Dropped))
	}
	if k := d.Disk; k != nil {
		line("degraded", "disk: %s are free, %s are to be kept so; the board drops what it can do without", amount(k.Free), amount(k.Keep))
	}
	for _, r := range d.Removed {
		line("removed", "%s %s, its data is kept%s", r.Application, r.Version, keptFor(r.Left))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(d.Applications) > 0 {
		fmt.Fprintln(env.Stdout)
		if err := printRows(env.Stdout, rowsOf([]model.Device{d}, env.Now())); err != nil {
			return err
		}
	}
	if len(d.Triggers) > 0 {
		fmt.Fprintln(t, "\nAPPLICATION\tTRIGGER\tSTATUS\tDETAIL")
		for _, g := range d.Triggers {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", g.Application, g.ID, g.Status, printable(g.Detail))
		}
	}
	if len(streams) > 0 && streams[0].Missing > 0 {
		fmt.Fprintln(t, "\nAPPLICATION\tUPLINK TOPIC\tNEWEST\tLOST")
	}
	for _, s := range streams {
		if s.Missing > 0 {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", s.Application, printable(s.Topic), s.Number, s.Missing)
		}
	}
	return t.Flush()
}

func keptFor(left *wire.Duration) string {
	if left == nil {
		return ""
	}
	d := time.Duration(*left)
	if d >= 48*time.Hour {
		return fmt.Sprintf(" for %d days more", int(d.Hours()/24))
	}
	return fmt.Sprintf(" for %s more", d)
}

// drops says what was dropped, and why.
func drops(dropped map[string]uint64) string {
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(dropped)) {
		parts = append(parts, fmt.Sprintf("%d (%s)", dropped[why], why))
	}
	if len(parts) == 0 {
		return ""
	}
	return ", dropped since it started: " + strings.Join(parts, ", ")
}
