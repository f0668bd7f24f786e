package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"

	"dunlin.dev/dunlin/fleet/manifest"
	"dunlin.dev/dunlin/fleet/wire"
)

// UpOptions are what `dunlin up` was told.
type UpOptions struct {
	Manifest string // path
	Listen   string // address of the HTTP trigger
	MQTT     string // mqtt:// URL of an outside broker, or the address of one's own
	State    string // folder of the data and the compiled code
	Verbose  bool

	Variables manifest.Lookup // of a Spin application
}

// Up is the command that runs an application here; run is the local runtime, which needs the engine.
func Up(run func(ctx context.Context, env *Env, o UpOptions) error) Command {
	return Command{
		Name:  "up",
		Short: "run this folder's application here, as a board would",
		Help: `Usage:
  dunlin up [flags]

Runs the application of a manifest on this machine, with the code that boards run and no fleet: its HTTP routes, its MQTT
subscriptions and its timers. When the manifest or a component changes, the new one takes over without dropping an event; one
that has a fault is told, and the one before goes on. Data that handlers keep stays in the state folder.

Flags:
` + applicationHelp + `  --listen ADDR        address for HTTP (default 127.0.0.1:3000), or off
  --mqtt URL           an MQTT broker to use: mqtt://[user:password@]host[:port]; or ADDR, to listen on with a broker of
                       its own (default 127.0.0.1:1883); or off
  --state DIR          where data and compiled code stay (default .dunlin beside the manifest)
  --verbose            log more

Example:
  dunlin up -f greenhouse/dunlin.toml --listen 127.0.0.1:3000
`,
		Run: func(ctx context.Context, env *Env, args []string) error {
			var o UpOptions
			f := flag.NewFlagSet("up", flag.ContinueOnError)
			var app application
			app.flags(f)
			f.StringVar(&o.Listen, "listen", "127.0.0.1:3000", "")
			f.StringVar(&o.MQTT, "mqtt", "127.0.0.1:1883", "")
			f.StringVar(&o.State, "state", "", "")
			f.BoolVar(&o.Verbose, "verbose", false, "")
			if rest, err := parse(f, args); err != nil || len(rest) > 0 {
				return errors.Join(err, extra(rest))
			}
			// Its faults are told with their places before anything starts.
			if _, err := app.read(env); err != nil {
				return err
			}
			o.Manifest, o.Variables = app.file, app.values(env)
			if o.State == "" {
				o.State = stateBeside(o.Manifest)
			}
			return run(ctx, env, o)
		},
	}
}

// stateBeside is the state folder of an application that runs here without one of its own.
func stateBeside(manifest string) string { return filepath.Join(filepath.Dir(manifest), ".dunlin") }

// Check is the command that validates a manifest against its components; it uses Env.Check.
var Check = Command{
	Name:  "check",
	Short: "check a manifest, and its components' imports and exports",
	Help: `Usage:
  dunlin check [flags]

Reads a manifest and its components as a board would: every key, route, topic and cron line; that each component compiles,
exports what its triggers call, and imports nothing that isn't granted. Says that all is good, or every fault.

Flags:
` + applicationHelp + `  --json               print JSON

Example:
  dunlin check -f greenhouse/dunlin.toml
`,
	Run: func(ctx context.Context, env *Env, args []string) error {
		f := flag.NewFlagSet("check", flag.ContinueOnError)
		var app application
		app.flags(f)
		asJSON := f.Bool("json", false, "")
		if rest, err := parse(f, args); err != nil || len(rest) > 0 {
			return errors.Join(err, extra(rest))
		}
		r, err := app.read(env)
		if err != nil {
			return err
		}
		if env.Check != nil {
			if err := env.Check(ctx, r.release, r.components, r.files); err != nil {
				return err
			}
		}
		if *asJSON {
			return printJSON(env.Stdout, struct {
				Digest  wire.Digest  `json:"digest"`
				Release wire.Release `json:"release"`
			}{wire.Sum(r.manifest), r.release})
		}
		t := r.release.Triggers
		_, err = fmt.Fprintf(env.Stdout, "%s: %s %s is good: %s, %s, %s\n", app.file, r.release.Application, r.release.Version,
			plural(len(r.components), "component"), amount(r.size()), plural(len(t.HTTP)+len(t.MQTT)+len(t.Timer), "trigger"))
		return err
	},
}
