package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
)

var devicesCommand = Command{
	Name:  "devices",
	Short: "list the fleet's boards: what each should run, and does",
	Help: `Usage:
  dunlin devices [flags]

Lists every board that ever said hello: whether it is connected, what it should run and what it says it runs.

Flags:
  --json               print JSON
` + serverHelp + `  --keys DIR           keys folder that knows the server (default keys)

Example:
  dunlin devices --to https://fleet.example --token-file admin.token
`,
	Run: runDevices,
}

func runDevices(ctx context.Context, env *Env, args []string) error {
	f := flag.NewFlagSet("devices", flag.ContinueOnError)
	var s server
	s.flags(f)
	asJSON := f.Bool("json", false, "")
	if rest, err := parse(f, args); err != nil || len(rest) > 0 {
		return errors.Join(err, extra(rest))
	}
	c, err := s.connect(env)
	if err != nil {
		return err
	}
	d, err := c.Devices(ctx, 0, 0)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(env.Stdout, d)
	}
	if len(d.Devices) == 0 {
		_, err := fmt.Fprintln(env.Stderr, "no board has said hello yet: give one the server's join.token and the fleet's root.json")
		return err
	}
	return printRows(env.Stdout, rowsOf(d.Devices, env.Now()))
}

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// row of a table of devices: one application on one device.
type row struct {
	Device      string `json:"device"`
	State       string `json:"state"`
	Application string `json:"application,omitempty"`
	Version     string `json:"version,omitempty"`
	Phase       string `json:"phase,omitempty"`
	Note        string `json:"note,omitempty"`
}

func printRows(w io.Writer, rows []row) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tSTATE\tAPPLICATION\tVERSION\tPHASE\tNOTE")
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join([]string{r.Device, r.State, dash(r.Application), dash(r.Version), dash(r.Phase), printable(r.Note)}, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// printSome prints a table of what there is; of nothing, nothing.
func printSome(w io.Writer, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	return printRows(w, rows)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable keeps what a board says to one line of a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func rowsOf(list []model.Device, now time.Time) (rows []row) {
	for _, d := range list {
		if len(d.Applications) == 0 {
			rows = append(rows, row{Device: d.Name, State: state(d), Note: note(d, model.Application{}, now)})
		}
		for _, a := range d.Applications {
			rows = append(rows, row{
				Device: d.Name, State: state(d), Application: a.Application, Version: versions(a), Phase: string(a.Phase), Note: note(d, a, now),
			})
		}
	}
	return rows
}

func state(d model.Device) string {
	if d.Online {
		return "online"
	}
	return "offline"
}

// versions is what runs, and with an arrow what should.
func versions(a model.Application) string {
	switch {
	case a.Desired == "" || a.Version == a.Desired:
		return a.Version
	case a.Version == "":
		return "-> " + a.Desired
	}
	return a.Version + " -> " + a.Desired
}

// note is what a person should know first of an application on a device.
func note(d model.Device, a model.Application, now time.Time) string {
	switch {
	case a.Error != "":
		return a.Error
	case d.Refused != nil && d.Refused.Generation >= d.Generation.Desired:
		return "refused: " + d.Refused.Reason
	case !d.Online:
		return "last seen " + ago(now.Sub(d.LastSeen))
	case a.Progress != nil && a.Progress.Total > 0:
		return fmt.Sprintf("%d %% of %s", a.Progress.Done*100/a.Progress.Total, amount(a.Progress.Total))
	case d.Frozen:
		return "frozen: the fleet's metadata has expired, it installs nothing"
	case d.Clock == wire.ClockUnsynced:
		return "its clock is not set"
	case a.Desired == "" && a.Application != "":
		return "not assigned any more"
	}
	for _, t := range d.Triggers {
		if t.Application == a.Application && t.Status != wire.TriggerServing {
			return fmt.Sprintf("trigger %s is %s: %s", t.ID, t.Status, t.Detail)
		}
	}
	return ""
}

func ago(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

func amount(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, " ")
}
