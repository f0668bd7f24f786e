package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

const bootHandlers, boots = 20, 6

// boot measures a board that starts from the disk with twenty handlers and no network: from its start to the first answer, which is
// asked for when it says that it listens.
func (b *bench) boot(ctx context.Context) error {
	o, err := b.another(ctx, "boot", "")
	if err != nil {
		return err
	}
	defer o.end()
	var routes, components strings.Builder
	files := map[string][]byte{}
	for i := range bootHandlers {
		name := fmt.Sprintf("hello%d", i)
		files[name+".wasm"] = distinct(guests.HelloHTTP, byte(i))
		fmt.Fprintf(&routes, "{ route = \"/%d\", component = %q },\n", i, name)
		fmt.Fprintf(&components, "component.%s = { source = \"%s.wasm\" }\n", name, name)
	}
	if err := o.push(ctx, "twenty", "1.0.0", "trigger.http = [\n"+routes.String()+"]\n"+components.String(), files); err != nil {
		return err
	}
	o.fleet.Stop() // and it stays away
	var times []time.Duration
	for range boots {
		o.board.Stop()
		for _, path := range []string{o.path("board"), o.path("dunlin-agent")} {
			if err := eachFile(path, evict); err != nil {
				return err
			}
		}
		began := time.Now()
		if o.board, err = process.Start(o.path("board.log"), o.path("dunlin-agent"), "--config", o.path("agent.toml")); err != nil {
			return err
		}
		m, err := o.board.Line(ctx, `msg=ready http=(\S+)`)
		if err != nil {
			return err
		}
		c, err := dial(m[1])
		if err != nil {
			return err
		}
		_, _, err = c.get(request(fmt.Sprintf("/%d", bootHandlers-1)), 404, "not found\n") // the handler's own answer to a path of its own
		c.close()
		if err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	b.figure("boot_first_event_20_handlers", micros(times, 0.5)/1000, "ms")
	return nil
}
