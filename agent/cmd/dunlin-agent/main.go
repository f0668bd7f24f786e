// dunlin-agent is the daemon on the board.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"dunlin.dev/dunlin/agent"
)

// The build sets these.
var version, built = "devel", ""

const usage = `dunlin-agent runs signed WebAssembly components as event handlers, and keeps them as the fleet desires.

usage: dunlin-agent [--config FILE] [--log-level LEVEL]

  --config FILE       the configuration (default /etc/dunlin/agent.toml)
  --log-level LEVEL   debug, info, warn or error (default info)
  --version           print the version

Logs go to standard error. SIGTERM lets events in flight end; a second one doesn't wait.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dunlin-agent: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("dunlin-agent", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	config := flags.String("config", "/etc/dunlin/agent.toml", "")
	level := flags.String("log-level", "info", "")
	showVersion := flags.Bool("version", false, "")
	_ = flags.Parse(args) // ExitOnError
	if *showVersion {
		fmt.Println("dunlin-agent", version)
		return nil
	}
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(*level)); err != nil {
		return fmt.Errorf("parse --log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: threshold}))
	cfg, err := agent.LoadConfig(*config)
	if err != nil {
		return err
	}
	cfg.Version = version
	cfg.Built, _ = time.Parse(time.RFC3339, built) // a build without it has no such bound
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	a, err := agent.New(cfg, log)
	if err != nil {
		return err
	}
	defer a.Close()
	context.AfterFunc(ctx, func() {
		stop() // the next signal ends the program at once; the store's commits are safe against that
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	})
	go func() {
		if a.Ready(ctx) == nil {
			http, broker := a.Addresses()
			log.Info("ready", "http", http, "bus", broker)
		}
	}()
	// Everything installed is restored by now. A port that is taken makes a source degraded, not the start a failure.
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	return a.Run(ctx)
}
