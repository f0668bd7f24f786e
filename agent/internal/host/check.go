package host

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/fleet/wire"
)

// grant is the manifest's key that an interface needs.
type grant string

const (
	grantStores    grant = "key_value_stores"
	grantPublish   grant = "publish"
	grantVariables grant = "variables"
	grantBlobs     grant = "blob_stores"
)

// line of the manifest that gives the grant.
func (k grant) line() string {
	switch k {
	case grantStores:
		return `key_value_stores = ["default"]`
	case grantPublish:
		return `publish = ["alerts/#"]`
	case grantBlobs:
		return `blob_stores = ["photos"]`
	}
	return `variables = { name = "value" }`
}

func (g Grants) has(k grant) bool {
	switch k {
	case grantStores:
		return len(g.Stores) > 0
	case grantPublish:
		return len(g.Publish) > 0
	case grantVariables:
		return g.Variables != nil
	case grantBlobs:
		return len(g.BlobStores) > 0
	}
	return true
}

// Check that everything c imports is provided and granted; the error joins one line per import, each naming the import and
// the manifest line that would grant it. component is its name in the manifest. What standard libraries import whether
// or not it is used (io, clocks, cli, filesystem, sockets, http) needs no grant: it is refused when it is called, and finds no directory.
func (h *Host) Check(c *engine.Component, component string, g Grants) error {
	return checkImports(h.provided, c.Imports(), component, g)
}

func checkImports(provided map[string]*iface, imports []engine.Extern, component string, g Grants) error {
	var errs []error
	for _, im := range imports {
		if err := checkImport(provided, im, component, g); err != nil {
			errs = append(errs, err)
		}
	}
	for _, s := range g.DeferredHosts {
		if err := wire.CheckDeferred(s); err != nil {
			errs = append(errs, fmt.Errorf("deferred_outbound_hosts of [component.%s]: %w", component, err))
		}
	}
	for _, s := range g.OutboundHosts {
		if _, err := wire.ParseOutbound(s); err != nil {
			errs = append(errs, fmt.Errorf("allowed_outbound_hosts of [component.%s]: %w", component, err))
		}
	}
	return errors.Join(errs...)
}

func checkImport(provided map[string]*iface, im engine.Extern, component string, g Grants) error {
	switch im.Kind {
	case engine.ExternType:
		return nil
	case engine.ExternInstance:
	default:
		return fmt.Errorf("import %s of [component.%s] is not provided: a component can import interfaces only", im.Name, component)
	}
	i, ok := find(provided, im.Name)
	if !ok {
		if !callable(im) { // types alone need nobody behind them
			return nil
		}
		return notProvided(provided, im.Name, component)
	}
	if missing := i.missing(im); len(missing) > 0 {
		return fmt.Errorf("import %s of [component.%s] is not provided in full: %s has no %s; build it against that version",
			im.Name, component, i.name, strings.Join(missing, ", "))
	}
	if i.grant != "" && !g.has(i.grant) && callable(im) {
		return fmt.Errorf("import %s is not granted: add %s under [component.%s]", im.Name, i.grant.line(), component)
	}
	return nil
}

// find the interface that name links to.
func find(provided map[string]*iface, name string) (*iface, bool) {
	if i, ok := provided[name]; ok {
		return i, true
	}
	i, ok := provided[engine.Track(name)]
	return i, ok
}

// callable says whether an import has more than types.
func callable(im engine.Extern) bool {
	return slices.ContainsFunc(im.Items, func(x engine.Extern) bool { return x.Kind != engine.ExternType })
}

// missing are the functions and resources that the import wants and i does not have.
func (i *iface) missing(im engine.Extern) []string {
	var names []string
	for _, x := range im.Items {
		ok := true
		switch x.Kind {
		case engine.ExternType:
		case engine.ExternFunc:
			_, ok = i.funcs[x.Name]
		case engine.ExternResource:
			_, ok = i.resources[x.Name]
		default:
			ok = false
		}
		if !ok {
			names = append(names, x.Name)
		}
	}
	return names
}

// notProvided says what is there instead: other versions of the interface, else its package's interfaces, else the packages.
func notProvided(provided map[string]*iface, name, component string) error {
	base, version, _ := strings.Cut(name, "@")
	pkg, _, _ := strings.Cut(base, "/")
	if strings.HasPrefix(pkg, "wasi:") && strings.HasPrefix(version, "0.3.") {
		return fmt.Errorf("import %s of [component.%s] needs WASI 0.3, which this runtime does not have: build the component for WASI 0.2", name, component)
	}
	var versions, siblings, packages []string
	for _, i := range provided {
		b, v, _ := strings.Cut(i.name, "@")
		p, _, _ := strings.Cut(b, "/")
		packages = append(packages, p)
		switch {
		case b == base:
			versions = append(versions, "@"+v)
		case p == pkg:
			siblings = append(siblings, i.name)
		}
	}
	hint := "no board has " + pkg + "; a component can import from " + list(packages) + ", as they are in wit/"
	switch {
	case len(versions) > 0:
		hint = "it is provided as " + list(versions) + ": build it against one of these"
	case len(siblings) > 0:
		hint = fmt.Sprintf("of %s, this is: %s", pkg, list(siblings))
	}
	return fmt.Errorf("import %s of [component.%s] is not provided: %s", name, component, hint)
}

// list of names, each once.
func list(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
