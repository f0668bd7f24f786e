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

// Board is what the doctor has to do with.
type Board struct {
	Control string                                             // the name of an agent's socket in its state folder
	State   func(config string) (string, error)                // the state folder that an agent.toml names
	Stopped func(state, config string) ([]wire.Finding, error) // of an agent that doesn't run
}

// Doctor is the command that looks at the agent on this machine.
func Doctor(b Board) Command {
	return Command{
		Name:  "doctor",
		Short: "look at the agent on this machine, and say what is wrong and what helps",
		Help: `Usage:
  dunlin doctor [flags]

Looks at what a board depends on: the agent itself, its HTTP, MQTT and timers, the broker and what that may drop by limits of its
own, the database, the disk, the clock, the fleet link, the watchdog, each application, events that were given up and messages
that were dropped. Where no agent runs it looks at what is there: whether the database is sound, and what a start would meet. "warn" works today and may cost something one day, or is outside what the agent can promise; "fail" doesn't
work, and makes the exit status 1.

Flags:
  -f FILE              the manifest that dunlin up runs, or its folder (default: this folder)
  --config FILE        a board's agent.toml, as /etc/dunlin/agent.toml: its state folder, and the config itself where no agent runs
  --state DIR          state folder of the agent (default .dunlin beside the manifest; a board's is /var/lib/dunlin)
  --json               print JSON

Example:
  sudo dunlin doctor --config /etc/dunlin/agent.toml
`,
		Run: func(ctx context.Context, env *Env, args []string) error {
			var file, state, config string
			f := flag.NewFlagSet("doctor", flag.ContinueOnError)
			f.StringVar(&file, "f", ".", "")
			f.StringVar(&state, "state", "", "")
			f.StringVar(&config, "config", "", "")
			asJSON := f.Bool("json", false, "")
			if rest, err := parse(f, args); err != nil || len(rest) > 0 {
				return errors.Join(err, extra(rest))
			}
			findings, err := b.examine(ctx, file, state, config)
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

func (b Board) examine(ctx context.Context, file, state, config string) ([]wire.Finding, error) {
	var broken error // of the config
	switch {
	case config == "":
		var err error
		if state, err = stateOf(file, state); err != nil {
			return nil, err
		}
	case state != "":
		return nil, Usage("--config says which folder it is: leave --state out")
	default:
		if state, broken = b.State(config); state == "" {
			return b.Stopped("", config)
		}
	}
	c, err := controlClient(file, state, b.Control)
	if err != nil {
		return nil, err
	}
	defer c.CloseIdleConnections()
	findings, err := askAgent[[]wire.Finding](ctx, local{c}, http.MethodGet, "doctor")
	if err == nil && broken != nil {
		findings = append(findings, wire.Finding{Check: "config", Level: wire.LevelFail, Detail: broken.Error(), Hint: "correct it: the agent runs with an older one, and would not start again"})
	}
	if !errors.Is(err, errNoAgent) {
		return findings, err
	}
	stopped, e := b.Stopped(state, config)
	if e != nil {
		return nil, err
	}
	return stopped, nil
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
