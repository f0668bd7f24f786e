package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"

	"dunlin.dev/dunlin/fleet/manifest"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// RunLocal is the local runtime: an agent without a fleet that runs the application of one manifest, and runs it anew when the
// manifest or a component changes. A change that has a fault is told to onChange, and the version before goes on.
func RunLocal(ctx context.Context, cfg Config, path string, log *slog.Logger, onStart func(*Agent), onChange func(version string, err error)) error {
	if cfg.Fleet != nil {
		return errors.New("run locally: the config names a fleet")
	}
	cfg.local = true
	a, err := New(cfg, log)
	if err != nil {
		return err
	}
	defer a.Close()
	files, err := a.runManifest(ctx, path)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error {
		if err := a.Ready(ctx); err != nil {
			return err
		}
		onStart(a)
		return follow(ctx, files, func() []string {
			next, err := a.runManifest(ctx, path)
			version := ""
			if running := a.apps.list(); len(running) > 0 {
				version = running[0].manifest.Version
			}
			onChange(version, err)
			return next
		})
	})
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// runManifest makes the application of a manifest serve. It returns the files that it is made of, also with an error.
func (a *Agent) runManifest(ctx context.Context, path string) (files []string, err error) {
	files = []string{path}
	m, err := readManifest(path, a.cfg.Variables)
	if err != nil {
		return files, err
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return files, fmt.Errorf("read manifest: %w", err)
	}
	defer root.Close()
	blobs, bodies := map[string]manifest.Blob{}, map[wire.Digest][]byte{}
	for name, c := range m.Components {
		source := filepath.Join(filepath.Dir(path), c.Source)
		files = append(files, source)
		b, err := os.ReadFile(source)
		if err != nil {
			return files, fmt.Errorf("read component %q: %w", name, err)
		}
		blob := manifest.Blob{Digest: wire.Sum(b), Size: int64(len(b))}
		bodies[blob.Digest] = b
		packed, err := c.Files(root.FS())
		if packed != nil {
			for _, p := range packed.Watch {
				files = append(files, filepath.Join(filepath.Dir(path), p))
			}
		}
		if err != nil {
			return files, err
		}
		if packed.Archive != nil {
			blob.Files = &wire.Blob{Digest: wire.Sum(packed.Archive), Size: int64(len(packed.Archive))}
			bodies[blob.Files.Digest] = packed.Archive
		}
		blobs[name] = blob
	}
	release, err := m.Resolve(blobs)
	if err != nil {
		return files, err
	}
	canonical, err := wire.MarshalRelease(release)
	if err != nil {
		return files, err
	}
	rel, err := trust.Unverified(canonical)
	if err != nil {
		return files, err
	}
	for digest, b := range bodies {
		if err := a.store.PutBlob(digest.String(), int64(len(b)), bytes.NewReader(b)); err != nil {
			return files, err
		}
	}
	// Another application than the last time gives way first: this runtime runs one.
	records, err := a.store.List(installArea)
	if err != nil {
		return files, err
	}
	for key := range records {
		if app := key[len(installArea):]; app != release.Application {
			if err := a.retire(ctx, app); err != nil {
				return files, err
			}
		}
	}
	d, err := a.deploy(ctx, rel, true)
	if err != nil {
		return files, err
	}
	if err := a.serve(ctx, d); err != nil {
		return files, err
	}
	return files, errors.Join(a.dropOthers(release), a.purgeExpired())
}

// dropOthers deletes the components and files of versions that were run before: each rebuild makes new ones.
func (a *Agent) dropOthers(release wire.Release) error {
	digests, err := a.store.Blobs()
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, c := range release.Components {
		for _, d := range contents(c) {
			keep[d.String()] = true
		}
	}
	for _, d := range digests {
		if !keep[d] {
			if err := a.drop(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func readManifest(path string, values manifest.Lookup) (*manifest.Manifest, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return manifest.Read(path, b, values)
}

// follow calls changed after files were written, or anything in a directory among them, once a burst of writes is over, and follows the files that it returns.
// Directories are watched, not files: compilers and editors replace files. A directory that is gone (a build that cleans up
// first) is waited for in the nearest one that is there.
func follow(ctx context.Context, files []string, changed func() []string) error {
	const quiet = 50 * time.Millisecond
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer w.Close()
	watched := watch(w, files)
	var settle <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.Errors:
			return fmt.Errorf("watch files: %w", err)
		case e := <-w.Events:
			for _, f := range watched {
				if !e.Has(fsnotify.Chmod) && (f == e.Name || f == filepath.Dir(e.Name) || strings.HasPrefix(f, e.Name+string(filepath.Separator))) {
					settle = time.After(quiet)
				}
			}
		case <-settle:
			settle = nil
			watched = watch(w, changed())
		}
	}
}

// watch the directories of files, and those among them; it returns their absolute paths. What can't be watched is not there yet.
func watch(w *fsnotify.Watcher, files []string) (paths []string) {
	for _, f := range files {
		abs, err := filepath.Abs(f)
		if err != nil {
			continue
		}
		paths = append(paths, abs)
		if info, err := os.Stat(abs); err == nil && info.IsDir() {
			_ = w.Add(abs) // a folder of files: one may be added
		}
		for dir := filepath.Dir(abs); w.Add(dir) != nil && dir != filepath.Dir(dir); {
			dir = filepath.Dir(dir)
		}
	}
	return paths
}
