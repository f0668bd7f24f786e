package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"text/tabwriter"

	"dunlin.dev/dunlin/fleet/wire"
)

// errUnwell: a finding is a failure; what it is was printed.
var errUnwell = errors.New("this board needs help")

// Doctor is the command that looks at the agent on this machine; control is the name of its socket in its state folder.
func Doctor(control string) Command {
	return Command{
		Name:  "doctor",
		Short: "look at the agent on this machine, and say what is wrong and what helps",
		Help: `Usage:
  dunlin doctor [flags]

Looks at what a board depends on: the agent itself, its HTTP, MQTT and timers, the broker and what that may drop by limits of its
own, the database, the disk, the clock, the fleet link, the watchdog, each application, events that were given up and messages
that were dropped. "warn" works today and may cost something one day, or is outside what the agent can promise; "fail" doesn't
work, and makes the exit status 1.

Flags:
  -f FILE              the manifest that dunlin up runs, or its folder (default: this folder)
  --state DIR          state folder of the agent (default .dunlin beside the manifest; a board's is /var/lib/dunlin)
  --json               print JSON

Example:
  sudo dunlin doctor --state /var/lib/dunlin
`,
		Run: func(ctx context.Context, env *Env, args []string) error {
			var file, state string
			f := flag.NewFlagSet("doctor", flag.ContinueOnError)
			f.StringVar(&file, "f", ".", "")
			f.StringVar(&state, "state", "", "")
			asJSON := f.Bool("json", false, "")
			if rest, err := parse(f, args); err != nil || len(rest) > 0 {
				return errors.Join(err, extra(rest))
			}
			c, err := controlClient(file, state, control)
			if err != nil {
				return err
			}
			defer c.CloseIdleConnections()
			findings, err := askAgent[[]wire.Finding](ctx, local{c}, http.MethodGet, "doctor")
			if err != nil {
				return err
			}
			if *asJSON {
				err = printJSON(env.Stdout, findings)
			} else {
				err = printFindings(env, findings)
			}
			for _, one := range findings {
				if one.Level == wire.LevelFail {
					err = errors.Join(err, errUnwell)
					break
				}
			}
			return err
		},
	}
}

func printFindings(env *Env, findings []wire.Finding) error {
	t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	for _, one := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", one.Level, one.Check, printable(one.Detail))
		if one.Hint != "" {
			fmt.Fprintf(t, "\t\t-> %s\n", printable(one.Hint))
		}
	}
	return t.Flush()
}
