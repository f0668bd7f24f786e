package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/manifest"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

var push = Command{
	Name:  "push",
	Short: "sign this folder's release and bring it to boards",
	Help: `Usage:
  dunlin push [flags] --device NAME | --label KEY=VALUE | --all

Reads the manifest and its components, uploads what the server doesn't have, signs the release here, assigns it to boards
and waits until they run it. Boards that are offline get it when they are back; boards that join later and match the
label (or --all) get it too. Run it again at any time: what is done is not done again. The bytes of a version never
change: raise the version for other ones.

Flags:
` + applicationHelp + `  --device NAME        one board
  --label KEY=VALUE    boards with that label; several times: all of them
  --all                every board
  --keys DIR           folder with release.pem and root.json (default keys)
  --wait=false         don't wait for the boards (--no-wait does the same)
  --timeout TIME       wait at most that long (default 5m)
  --json               print the final table as JSON
` + serverHelp + `
Example:
  dunlin push -f greenhouse/dunlin.toml --label site=north --to https://fleet.example

Exit codes: 3 when a board failed or refused it, 4 when boards were still at it when the time was over.
`,
	Run: runPush,
}

type pushFlags struct {
	server
	application
	boardFlags
	waitFlags
	json bool
}

func runPush(ctx context.Context, env *Env, args []string) error {
	var p pushFlags
	f := flag.NewFlagSet("push", flag.ContinueOnError)
	p.server.flags(f)
	p.application.flags(f)
	p.boardFlags.flags(f)
	p.waitFlags.flags(f)
	f.BoolVar(&p.json, "json", false, "")
	if rest, err := parse(f, args); err != nil || len(rest) > 0 {
		return errors.Join(err, extra(rest))
	}
	selector, err := p.selector()
	if err != nil {
		return err
	}
	r, err := p.read(env)
	if err != nil {
		return err
	}
	if env.Check != nil {
		if err := env.Check(ctx, r.release, r.components, r.files); err != nil {
			return err
		}
	}
	keys, err := openKeys(p.keys)
	if err != nil {
		return err
	}
	c, err := p.connect(env)
	if err != nil {
		return err
	}
	out := newProgress(env.Stderr, env.Terminal)
	out.line("release", "%s %s, %s, %s", r.release.Application, r.release.Version, plural(len(r.components), "component"), amount(r.size()))
	// A version whose bytes differ is told before megabytes are sent.
	if _, _, err := keys.targets(ctx, c, r, env.Now()); err != nil {
		return err
	}
	if err := upload(ctx, c, r, out); err != nil {
		return err
	}
	if err := keys.release(ctx, c, r, env.Now(), out); err != nil {
		return err
	}
	assigned, err := c.Assign(ctx, model.NewDesired{Application: r.release.Application, Version: r.release.Version, Selector: selector})
	if err != nil {
		return err
	}
	later := ""
	if len(assigned.Devices) == 0 {
		later = "; a board that says hello and matches gets it then"
	}
	out.line("assign", "%s: %s now%s", selector, plural(len(assigned.Devices), "board"), later)
	return p.finish(ctx, env, c, out, r.release.Application, r.release.Version, assigned, func(rows []row) error {
		if !p.json {
			return printSome(env.Stdout, rows)
		}
		return printJSON(env.Stdout, struct {
			Application string      `json:"application"`
			Version     string      `json:"version"`
			Release     wire.Digest `json:"release"`
			Devices     []row       `json:"devices"`
		}{r.release.Application, r.release.Version, wire.Sum(r.manifest), rows})
	})
}

// localRelease is a manifest and its components, read and resolved.
type localRelease struct {
	release    wire.Release
	manifest   []byte // canonical
	components map[string][]byte
	files      map[string]string // where the components came from
	archives   map[string][]byte // of the components' own files
}

func (r *localRelease) size() (n int64) {
	for _, of := range []map[string][]byte{r.components, r.archives} {
		for _, b := range of {
			n += int64(len(b))
		}
	}
	return n
}

func readRelease(path string, values manifest.Lookup) (r *localRelease, notes []string, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, Hint(fmt.Errorf("no manifest %s", path), "name it with -f, or go to its folder")
	}
	if err != nil {
		return nil, notes, fmt.Errorf("read manifest: %w", err)
	}
	m, err := manifest.Read(path, b, values)
	if err != nil {
		return nil, notes, err
	}
	notes = m.Notes
	r = &localRelease{components: map[string][]byte{}, files: map[string]string{}, archives: map[string][]byte{}}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, notes, fmt.Errorf("read manifest: %w", err)
	}
	defer root.Close()
	blobs := map[string]manifest.Blob{}
	for _, name := range slices.Sorted(maps.Keys(m.Components)) {
		source := m.Components[name].Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(filepath.Dir(path), source)
		}
		if fi, err := os.Stat(source); err == nil && fi.Size() > wire.MaxBlobBytes {
			return nil, notes, fmt.Errorf("read component %s: %s is larger than %s", name, source, amount(wire.MaxBlobBytes))
		}
		c, err := os.ReadFile(source)
		if errors.Is(err, os.ErrNotExist) {
			return nil, notes, Hint(fmt.Errorf("read component %s: no file %s", name, source), "build it first, or change its source in %s", path)
		}
		if err != nil {
			return nil, notes, fmt.Errorf("read component %s: %w", name, err)
		}
		if len(c) == 0 {
			return nil, notes, fmt.Errorf("read component %s: %s is empty", name, source)
		}
		r.components[name], r.files[name] = c, source
		blob := manifest.Blob{Digest: wire.Sum(c), Size: int64(len(c))}
		packed, err := m.Components[name].Files(root.FS())
		if err != nil {
			return nil, notes, err
		}
		if notes = append(notes, packed.Notes...); packed.Archive != nil {
			r.archives[name] = packed.Archive
			blob.Files = &wire.Blob{Digest: wire.Sum(packed.Archive), Size: int64(len(packed.Archive))}
		}
		blobs[name] = blob
	}
	if r.release, err = m.Resolve(blobs); err != nil {
		return nil, notes, err
	}
	if r.manifest, err = wire.MarshalRelease(r.release); err != nil {
		return nil, notes, err
	}
	return r, notes, nil
}

func upload(ctx context.Context, c *client.Client, r *localRelease, out *progress) error {
	for _, name := range slices.Sorted(maps.Keys(r.components)) {
		if err := uploadOne(ctx, c, name, r.components[name], out); err != nil {
			return err
		}
		if b := r.archives[name]; b != nil {
			if err := uploadOne(ctx, c, name+"'s files", b, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func uploadOne(ctx context.Context, c *client.Client, name string, b []byte, out *progress) error {
	bar := out.bar("upload", name, int64(len(b)))
	sent, err := c.Upload(ctx, wire.Sum(b), int64(len(b)), strings.NewReader(string(b)), bar.set)
	switch {
	case err != nil:
		bar.abort()
		return err
	case sent:
		bar.done(amount(int64(len(b))))
	default:
		bar.skip("the server has it")
	}
	return nil
}

// folder is an opened keys folder.
type folder struct {
	dir    string
	root   []byte
	key    trust.Key
	memory memory
}

func openKeys(dir string) (*folder, error) {
	memory, err := readMemory(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, Hint(fmt.Errorf("no keys in %s", dir), "make them once with dunlin keys init, or name their folder with --keys")
	}
	if err != nil {
		return nil, err
	}
	k := &folder{dir: dir, memory: memory}
	if k.root, err = os.ReadFile(filepath.Join(dir, rootFile)); err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	path := filepath.Join(dir, releaseKeyFile)
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read release key: %w", err)
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return nil, Hint(fmt.Errorf("read release key: others may read %s (mode %#o)", path, fi.Mode().Perm()), "chmod 600 %s", path)
	}
	if k.key, err = trust.ParseKey(pem); err != nil {
		return nil, fmt.Errorf("read release key %s: %w", path, err)
	}
	return k, nil
}

// targets fetches the newest targets, believes them only if our root's release keys signed them and they are not older
// than what we saw before, and reports whether the release is among them.
func (k *folder) targets(ctx context.Context, c *client.Client, r *localRelease, now time.Time) (b []byte, there bool, err error) {
	if b, err = c.Metadata(ctx, string(trust.Targets)); err != nil {
		return nil, false, err
	}
	// Expired ones are renewed by what we are about to sign.
	if err := trust.CheckTargets(k.root, nil, b, now); err != nil && !errors.Is(err, trust.Expired) {
		return nil, false, fmt.Errorf("check the server's targets: %w", err)
	}
	version, expires, list, err := trust.ListTargets(b)
	if err != nil {
		return nil, false, fmt.Errorf("check the server's targets: %w", err)
	}
	if version < k.memory.Targets || version == k.memory.Targets && wire.Sum(b) != k.memory.Digest {
		return nil, false, Hint(fmt.Errorf("check the server's targets: version %d (%s), this folder saw version %d (%s)", version, wire.Sum(b).Short(), k.memory.Targets, k.memory.Digest.Short()),
			"the server hides releases, or its database was restored from a backup; don't push before you know which")
	}
	if err := k.remember(version, b); err != nil {
		return nil, false, err
	}
	for _, t := range list {
		if t.Path != trust.TargetPath(r.release.Application, r.release.Version) {
			continue
		}
		if wire.Digest(t.Digest) != wire.Sum(r.manifest) {
			return nil, false, Hint(fmt.Errorf("%s %s was released before with other content", t.Application, t.Version), "raise version in the manifest: what a version holds never changes")
		}
		there = expires.Sub(now) > targetsLife/4
	}
	return b, there, nil
}

func (k *folder) remember(version int64, targets []byte) error {
	if k.memory.Targets == version {
		return nil
	}
	k.memory.Targets, k.memory.Digest = version, wire.Sum(targets)
	return k.memory.write(k.dir)
}

// pushTries is how often a release is signed anew because somebody else's came first.
const pushTries = 3

// release signs and uploads the release, unless it is there.
func (k *folder) release(ctx context.Context, c *client.Client, r *localRelease, now time.Time, out *progress) error {
	for try := 1; ; try++ {
		old, there, err := k.targets(ctx, c, r, now)
		if err != nil {
			return err
		}
		if there {
			out.line("sign", "%s %s is released already", r.release.Application, r.release.Version)
			return nil
		}
		next, err := trust.AddRelease(old, r.manifest, now.Add(targetsLife), k.key)
		if err != nil {
			return err
		}
		err = c.AddRelease(ctx, r.manifest, next)
		var answer *client.Error
		if errors.As(err, &answer) && answer.Code == http.StatusConflict && try < pushTries {
			continue
		}
		if err != nil {
			return fmt.Errorf("release %s %s: %w", r.release.Application, r.release.Version, err)
		}
		version, expires, _, err := trust.ListTargets(next)
		if err != nil {
			return err
		}
		out.line("sign", "%s, good until %s", wire.Sum(r.manifest).Short(), expires.UTC().Format(time.DateOnly))
		return k.remember(version, next)
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
