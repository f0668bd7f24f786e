package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
)

var dataCommand = Command{
	Name:  "data",
	Short: "show messages that handlers sent to the fleet",
	Help: `Usage:
  dunlin data [flags]

Shows what handlers published on "uplink:<topic>", oldest first; the server keeps the newest ten thousand. A note says
what came late, how good the board's clock was, and how many messages of the topic were lost on the board before it.

Flags:
  --device NAME        of one board
  --after N            those after number N of the server
  --json               print JSON, one message a line, payloads in base64
` + serverHelp + `  --keys DIR           keys folder that knows the server (default keys)

Example:
  dunlin data --device coldroom-1 --to https://fleet.example --token-file admin.token
`,
	Run: runData,
}

func runData(ctx context.Context, env *Env, args []string) error {
	f := flag.NewFlagSet("data", flag.ContinueOnError)
	var s server
	s.flags(f)
	device := f.String("device", "", "")
	after := f.Uint64("after", 0, "")
	asJSON := f.Bool("json", false, "")
	if rest, err := parse(f, args); err != nil || len(rest) > 0 {
		return errors.Join(err, extra(rest))
	}
	c, err := s.connect(env)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	lines := json.NewEncoder(env.Stdout)
	for first := true; ; first = false {
		batch, err := c.Uplinks(ctx, *after, *device)
		if err != nil {
			return err
		}
		if len(batch.Messages) == 0 {
			break
		}
		if first && !*asJSON {
			fmt.Fprintln(t, "NUMBER\tAT\tDEVICE\tAPPLICATION\tTOPIC\tNOTE\tPAYLOAD")
		}
		for _, u := range batch.Messages {
			*after = u.Sequence
			if *asJSON {
				if err := lines.Encode(u); err != nil {
					return fmt.Errorf("print JSON: %w", err)
				}
				continue
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", u.Sequence, u.At.Format(time.RFC3339), u.Device, u.Application, printable(u.Topic), dash(remarks(u)), payloadText(u.Payload))
		}
	}
	return t.Flush()
}

// remarks are what a person should know of a message.
func remarks(u model.Uplink) string {
	var notes []string
	if u.Missing > 0 {
		notes = append(notes, fmt.Sprintf("%d lost before it", u.Missing))
	}
	if u.Historical {
		notes = append(notes, "historical")
	}
	if u.Clock != wire.ClockSynced {
		notes = append(notes, "clock "+string(u.Clock))
	}
	return strings.Join(notes, ", ")
}

func payloadText(b []byte) string {
	if !utf8.Valid(b) {
		return fmt.Sprintf("(%d bytes)", len(b))
	}
	return printable(fmt.Sprintf("%.80s", b))
}
