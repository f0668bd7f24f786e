package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"dunlin.dev/dunlin/agent"
	"dunlin.dev/dunlin/fleet/internal/cli"
	"dunlin.dev/dunlin/fleet/wire"
)

// commands is the command table: the fleet's, and those that need the engine.
var commands = append([]cli.Command{cli.Up(up), cli.Send(agent.ControlSocket), cli.Events(agent.ControlSocket), cli.Doctor(board), cli.Check}, cli.Commands()...)

// board is how the doctor sees agents.
var board = cli.Board{Control: agent.ControlSocket, Stopped: agent.ExamineStopped, State: func(config string) (string, error) {
	cfg, err := agent.LoadConfig(config)
	return cfg.State, err
}}

// check looks into components with the engine that boards have. Compiled code is kept: a check is followed by others.
func check(ctx context.Context, release wire.Release, components map[string][]byte, files map[string]string) error {
	dir, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find a folder for compiled code: %w", err)
	}
	return agent.Check(ctx, release, components, files, filepath.Join(dir, "dunlin", "code"), slog.New(slog.DiscardHandler))
}

// up is the local runtime.
func up(ctx context.Context, env *cli.Env, o cli.UpOptions) error {
	level := slog.LevelInfo
	if o.Verbose {
		level = slog.LevelDebug
	}
	log := slog.New(cli.NewLog(env.Stderr, level))
	cfg := agent.Config{State: o.State, Listen: o.Listen, Version: env.Version, Variables: o.Variables}
	if strings.Contains(o.MQTT, "://") {
		cfg.Bus.URL = o.MQTT
	} else {
		cfg.Bus.Listen = o.MQTT
	}
	return agent.RunLocal(ctx, cfg, o.Manifest, log,
		func(a *agent.Agent) {
			http, broker := a.Addresses()
			fmt.Fprintf(env.Stderr, "dunlin: up: http=%s mqtt=%s; ctrl-c ends it\n", cmp.Or(http, o.Listen), cmp.Or(broker, withoutPassword(o.MQTT)))
		},
		func(version string, err error) {
			if err != nil {
				fmt.Fprintf(env.Stderr, "dunlin: error: %v\ndunlin: hint: version %s goes on; save a good one to replace it\n", err, version)
				return
			}
			fmt.Fprintf(env.Stderr, "dunlin: reloaded: version %s\n", version)
		})
}

// withoutPassword is an MQTT URL as it may be shown; what is none stays as it is.
func withoutPassword(broker string) string {
	if u, err := url.Parse(broker); err == nil && u.User != nil {
		return u.Redacted()
	}
	return broker
}
