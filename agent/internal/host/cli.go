package host

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// exitError ends a guest that called wasi:cli/exit.
type exitError struct{ code uint8 }

func (e exitError) Error() string { return fmt.Sprintf("the component exited with code %d", e.code) }

func cliInterfaces() []*iface {
	output := func(name string, level slog.Level) *iface {
		return &iface{name: "wasi:cli/" + name + wasi, resources: resources{"output-stream": typOutputStream}, funcs: map[string]fn{
			"get-" + name: f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
				return own(g, typOutputStream, &outputStream{to: g.log.stream(name, level)})
			}),
		}}
	}
	noTerminal := func(name, resource string, typ engine.ResourceType) *iface {
		return &iface{name: "wasi:cli/terminal-" + name + wasi, resources: resources{resource: typ}, funcs: map[string]fn{
			"get-terminal-" + name: f(func(*Guest, []engine.Val) (engine.Val, error) { return absent, nil }),
		}}
	}
	return []*iface{
		{name: "wasi:cli/environment" + wasi, funcs: map[string]fn{
			"get-environment": f(environment),
			"get-arguments":   f(arguments),
			"initial-cwd":     f(func(*Guest, []engine.Val) (engine.Val, error) { return absent, nil }),
		}},
		{name: "wasi:cli/exit" + wasi, funcs: map[string]fn{
			"exit": f(func(_ *Guest, a []engine.Val) (engine.Val, error) {
				if a[0].IsSet() {
					return none, exitError{0}
				}
				return none, exitError{1}
			}, kResult),
			"exit-with-code": f(func(_ *Guest, a []engine.Val) (engine.Val, error) {
				return none, exitError{uint8(a[0].Uint())}
			}, kU8),
		}},
		{name: "wasi:cli/stdin" + wasi, resources: resources{"input-stream": typInputStream}, funcs: map[string]fn{
			"get-stdin": f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
				if g.stdin == nil && g.env.Stdin != nil {
					g.stdin = newSource(readOnly{g.env.Stdin}, -1, g.notify)
				}
				return own(g, typInputStream, &inputStream{src: g.stdin})
			}),
		}},
		output("stdout", slog.LevelInfo),
		output("stderr", slog.LevelWarn),
		{name: "wasi:cli/terminal-input" + wasi, resources: resources{"terminal-input": typTerminalInput}},
		{name: "wasi:cli/terminal-output" + wasi, resources: resources{"terminal-output": typTerminalOutput}},
		noTerminal("stdin", "terminal-input", typTerminalInput),
		noTerminal("stdout", "terminal-output", typTerminalOutput),
		noTerminal("stderr", "terminal-output", typTerminalOutput),
	}
}

func environment(g *Guest, _ []engine.Val) (engine.Val, error) {
	all := g.environ()
	vals := make([]engine.Val, 0, len(all))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		vals = append(vals, engine.Tuple(engine.String(k), engine.String(all[k])))
	}
	return engine.List(vals...), nil
}

func arguments(g *Guest, _ []engine.Val) (engine.Val, error) {
	vals := make([]engine.Val, len(g.env.Args))
	for i, a := range g.env.Args {
		vals[i] = engine.String(a)
	}
	return engine.List(vals...), nil
}
