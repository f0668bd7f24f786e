package cli

import (
	"context"
	"flag"

	"dunlin.dev/dunlin/fleet/internal/model"
)

var remove = Command{
	Name:  "remove",
	Short: "take an application off boards",
	Help: `Usage:
  dunlin remove APPLICATION [flags] --device NAME | --label KEY=VALUE | --all

Has boards stop an application and remove it, and waits until they did. Boards that are offline do so when they are back; boards
that join later and match the label (or --all) don't get it. Pushed again, it comes back.

What it has kept (records, its directories, messages that it has accepted, dead letters) stays on a board for 30 days, or as long as
keep_removed in the board's agent.toml says: an application that comes back until then finds it. Then it is deleted.

Flags:
  --device NAME        one board
  --label KEY=VALUE    boards with that label; several times: all of them
  --all                every board
  --wait=false         don't wait for the boards (--no-wait does the same)
  --timeout TIME       wait at most that long (default 5m)
  --json               print the final table as JSON
` + serverHelp + `  --keys DIR           keys folder that knows the server (default keys)

Example:
  dunlin remove greenhouse --device coldroom-1 --to https://fleet.example
`,
	Run: runRemove,
}

func runRemove(ctx context.Context, env *Env, args []string) error {
	var s server
	var b boardFlags
	var w waitFlags
	f := flag.NewFlagSet("remove", flag.ContinueOnError)
	s.flags(f)
	b.flags(f)
	w.flags(f)
	asJSON := f.Bool("json", false, "")
	rest, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return Hint(Usage("remove wants one application"), "dunlin devices lists them")
	}
	selector, err := b.selector()
	if err != nil {
		return err
	}
	c, err := s.connect(env)
	if err != nil {
		return err
	}
	assigned, err := c.Assign(ctx, model.NewDesired{Application: rest[0], Remove: true, Selector: selector})
	if err != nil {
		return err
	}
	out := newProgress(env.Stderr, env.Terminal)
	out.line("remove", "%s from %s: %s now", rest[0], selector, plural(len(assigned.Devices), "board"))
	return w.finish(ctx, env, c, out, rest[0], "", assigned, func(rows []row) error {
		if *asJSON {
			return printJSON(env.Stdout, rows)
		}
		return printSome(env.Stdout, rows)
	})
}
