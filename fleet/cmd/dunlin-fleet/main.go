// Command dunlin-fleet is the fleet server: an MQTT broker for the boards, an HTTP API for people, and a database, in one
// process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"dunlin.dev/dunlin/fleet"
)

// version is set by the linker.
var version = "devel"

// shutdown is how long requests in flight may take after the first signal.
const shutdown = 10 * time.Second

func main() {
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "dunlin-fleet: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	cfg, err := parse(args, os.Getenv, os.Stdout, os.Stderr)
	if err != nil || cfg.Log == nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s, err := fleet.New(cfg)
	if err != nil {
		return err
	}
	// A second signal ends the process: the database takes that as it takes a power cut.
	context.AfterFunc(ctx, stop)
	watched, unwatch := context.WithCancel(ctx)
	defer unwatch()
	ready := func() {
		name := s.Fleet()
		if name == "" {
			name = "-"
			cfg.Log.Info("no fleet yet: make its keys with dunlin keys init", "to", "http://"+s.HTTP())
		}
		cfg.Log.Info("admin token", "file", filepath.Join(cfg.Data, fleet.AdminTokenFile))
		cfg.Log.Info("join token, for boards", "file", filepath.Join(cfg.Data, fleet.JoinTokenFile))
		go supervise(watched, s.Health, cfg.Log)
		fmt.Printf("dunlin-fleet: ready http=%s mqtt=%s fleet=%s\n", s.HTTP(), s.MQTT(), name)
	}
	return s.Run(ctx, shutdown, ready)
}

func parse(args []string, getenv func(string) string, stdout, stderr *os.File) (fleet.Config, error) {
	flags := flag.NewFlagSet("dunlin-fleet", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stdout, usage) }
	or := func(name, value string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return value
	}
	cfg := fleet.Config{Version: version}
	flags.StringVar(&cfg.Data, "data", or("DUNLIN_FLEET_DATA", "dunlin-fleet-data"), "")
	flags.StringVar(&cfg.HTTP, "listen", or("DUNLIN_FLEET_LISTEN", "127.0.0.1:8090"), "")
	flags.StringVar(&cfg.MQTT, "mqtt", or("DUNLIN_FLEET_MQTT", ":1883"), "")
	flags.IntVar(&cfg.MaxDevices, "max-devices", 10_000, "")
	level := flags.String("log-level", or("DUNLIN_FLEET_LOG_LEVEL", "info"), "")
	asJSON := flags.Bool("json", false, "")
	showVersion := flags.Bool("version", false, "")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if flags.NArg() > 0 {
		return cfg, fmt.Errorf("unknown argument %q: see dunlin-fleet -h", flags.Arg(0))
	}
	if *showVersion {
		_, err := fmt.Fprintln(stdout, "dunlin-fleet", version)
		return cfg, err
	}
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(*level)); err != nil {
		return cfg, fmt.Errorf("parse --log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: threshold}
	cfg.Log = slog.New(slog.NewTextHandler(stderr, options))
	if *asJSON {
		cfg.Log = slog.New(slog.NewJSONHandler(stderr, options))
	}
	return cfg, nil
}
