package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"dunlin.dev/dunlin/agent/internal/files"
	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/fleet/wire"
)

// directories are the private ones of components, each opened once: versions that overlap count together.
type directories struct {
	mu   sync.Mutex
	open map[string]*files.Directory // by path
}

// private opens a component's own directory. It stays over versions, as keyvalue data does.
func (a *Agent) private(application, component string) (*files.Directory, error) {
	path := filepath.Join(a.cfg.State, "data", application, component)
	a.directories.mu.Lock()
	defer a.directories.mu.Unlock()
	if d := a.directories.open[path]; d != nil {
		return d, nil
	}
	d, err := files.OpenPrivate(path)
	if err != nil {
		return nil, err
	}
	if a.directories.open == nil {
		a.directories.open = map[string]*files.Directory{}
	}
	a.directories.open[path] = d
	return d, nil
}

// close them all; nothing runs any more.
func (d *directories) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, one := range d.open {
		errs = append(errs, one.Close())
	}
	d.open = nil
	return errors.Join(errs...)
}

// mounts opens what a component of d may reach of the disk: the files of its release, held against their digest, and its own
// directory.
func (a *Agent) mounts(d *deployment, name string) (list []host.Mount, err error) {
	c := d.manifest.Components[name]
	if c.Files != nil {
		digest := c.Files.Digest.String()
		release, err := a.unpacked.Load(digest, func() ([]byte, error) { return a.blob("files", digest) })
		if err != nil {
			return nil, fmt.Errorf("component %q: %w", name, err)
		}
		d.files = append(d.files, release)
		list = append(list, host.Mount{Path: "/", Directory: release})
	}
	if c.Directory != "" {
		own, err := a.private(d.manifest.Application, name)
		if err != nil {
			return nil, fmt.Errorf("component %q: %w", name, err)
		}
		list = append(list, host.Mount{Path: c.Directory, Directory: own.Within(c.Limits.Complete().Files)})
	}
	return list, nil
}

// contents are the digests that a component is made of.
func contents(c wire.Component) []wire.Digest {
	if c.Files == nil {
		return []wire.Digest{c.Digest}
	}
	return []wire.Digest{c.Digest, c.Files.Digest}
}
