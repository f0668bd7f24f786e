package main

import (
	"context"

	"dunlin.dev/dunlin/fleet/internal/cli"
	"dunlin.dev/dunlin/fleet/wire"
)

// commands is the command table: the fleet's, and those that need the engine.
var commands = cli.Commands()

// check looks into components before they are pushed, with the engine that boards have.
var check func(ctx context.Context, release wire.Release, components map[string][]byte) error
