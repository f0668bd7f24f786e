package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"dunlin.dev/dunlin/agent/internal/codecache"
	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/fleet/wire"
)

// Check compiles the components of a release and holds their imports against their grants, and their exports against the
// triggers, as a board does at an install. components are wasm bytes by name, files are where they came from, for the errors;
// cacheDir keeps the compiled code.
// The error joins one line for each fault.
func Check(_ context.Context, release wire.Release, components map[string][]byte, files map[string]string, cacheDir string, log *slog.Logger) error {
	e, err := engine.New(engine.Config{})
	if err != nil {
		return err
	}
	defer e.Close()
	h, err := host.New(e)
	if err != nil {
		return err
	}
	defer h.Close()
	cache, err := codecache.Open(cacheDir, e, log)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(release.Components)) {
		comp, err := cache.Load(release.Components[name].Digest.String(), func() ([]byte, error) { return components[name], nil })
		if err != nil {
			var bad *engine.CompileError
			if errors.As(err, &bad) {
				err = bad // the digest tells the author nothing
			}
			faults = append(faults, fmt.Errorf("component %q (%s): %w", name, files[name], err))
			continue
		}
		faults = append(faults, checkComponent(h, comp, name, release))
		comp.Close()
	}
	return errors.Join(append(faults, cache.Prune(maxCheckCache))...)
}

// maxCheckCache bounds the folder that Check leaves compiled code in: a dozen large components.
const maxCheckCache = 512 << 20
