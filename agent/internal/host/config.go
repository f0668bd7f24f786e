package host

import (
	"maps"
	"slices"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// configInterfaces are wasi:config under every name that toolchains have given it; the body has always been the same.
func configInterfaces() []*iface {
	funcs := map[string]fn{
		"get": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			if v, ok := g.env.Grants.Variables[a[0].Text()]; ok {
				return engine.OK(engine.Some(engine.String(v))), nil
			}
			return engine.OK(absent), nil
		}, kString),
		"get-all": f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
			vars := g.env.Grants.Variables
			vals := make([]engine.Val, 0, len(vars))
			for _, k := range slices.Sorted(maps.Keys(vars)) {
				vals = append(vals, engine.Tuple(engine.String(k), engine.String(vars[k])))
			}
			return engine.OK(engine.List(vals...)), nil
		}),
	}
	var all []*iface
	for _, name := range []string{
		"wasi:config/store@0.2.0-draft",
		"wasi:config/store@0.2.0-rc.1",
		"wasi:config/store@0.2.0-draft-2024-09-27",
		"wasi:config/runtime@0.2.0-draft",
	} {
		all = append(all, &iface{name: name, funcs: funcs, grant: grantVariables})
	}
	return all
}
