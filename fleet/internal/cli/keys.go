package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// Files of a keys folder. The private keys never leave it.
const (
	rootKeyFile    = "root.pem"    // signs the next root: keep it offline
	releaseKeyFile = "release.pem" // signs releases
	rootFile       = "root.json"   // what boards trust; public
	targetsFile    = "targets.json.first"
	memoryFile     = "fleet.json"
)

// How long signatures of people are good for. After the targets' end boards install nothing until somebody pushes; what
// runs goes on.
const (
	rootLife    = 5 * 365 * 24 * time.Hour
	targetsLife = 365 * 24 * time.Hour
)

var keysInit = Command{
	Name:  "keys init",
	Short: "make the keys of a new fleet; they stay on this machine",
	Help: `Usage:
  dunlin keys init --to URL [flags]

Makes the keys that say what the fleet's boards may run, and tells the fleet server and the boards whom to believe:
  keys/root.pem        signs the next root.json: move it to a safe place, you need it only to change keys
  keys/release.pem     signs releases (dunlin push)
  keys/root.json       public: every board gets it when it is set up
It never overwrites keys. If it was interrupted, run it again.

Flags:
  --fleet NAME         the fleet's name, part of its MQTT topics (default main)
  --dir DIR            where the keys go (default keys)
` + serverHelp + `
Example:
  dunlin keys init --to https://fleet.example --fleet greenhouse --token-file admin.token
`,
	Run: runKeysInit,
}

// memory is what a keys folder remembers of its fleet between commands.
type memory struct {
	Fleet   string      `json:"fleet"`
	URL     string      `json:"url"`
	Targets int64       `json:"targets"` // newest version seen: a server that shows an older one hides something
	Digest  wire.Digest `json:"digest"`  // of those targets
}

func readMemory(dir string) (m memory, err error) {
	b, err := os.ReadFile(filepath.Join(dir, memoryFile))
	if err != nil {
		return m, fmt.Errorf("read keys folder: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read %s: %w", filepath.Join(dir, memoryFile), err)
	}
	return m, nil
}

func (m memory) write(dir string) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write keys folder: %w", err)
	}
	return writeFile(filepath.Join(dir, memoryFile), append(b, '\n'))
}

// writeFile replaces a file as a whole, readable by its owner.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func runKeysInit(ctx context.Context, env *Env, args []string) error {
	f := flag.NewFlagSet("keys init", flag.ContinueOnError)
	var s server
	s.flags(f)
	fleet := f.String("fleet", "main", "")
	f.StringVar(&s.keys, "dir", "keys", "")
	if rest, err := parse(f, args); err != nil || len(rest) > 0 {
		return errors.Join(err, extra(rest))
	}
	if err := wire.CheckName("fleet", *fleet); err != nil {
		return Usage("%v", err)
	}
	dir := s.keys
	if _, err := os.Stat(filepath.Join(dir, memoryFile)); err == nil {
		return Hint(fmt.Errorf("make keys: %s holds a fleet's keys already", dir), "name another folder with --dir; keys are never overwritten")
	}
	c, err := s.connect(env)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		now, err := c.Fleet(ctx)
		if err != nil {
			return err
		}
		if now.Fleet != "" {
			return Hint(fmt.Errorf("make keys: the server has the fleet %s already, signed by other keys", now.Fleet), "use the folder of those keys: dunlin push --keys DIR")
		}
		if err := makeKeys(ctx, c, dir, *fleet, env.Now()); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(env.Stderr, "going on with the keys in", dir, "that an earlier run made")
	}
	root, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	info, err := trust.InspectRoot(root)
	if err != nil {
		return fmt.Errorf("make keys: read %s: %w", filepath.Join(dir, rootFile), err)
	}
	targets, err := os.ReadFile(filepath.Join(dir, targetsFile))
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	if err := c.SetRoot(ctx, root, targets); err != nil {
		return fmt.Errorf("tell the fleet server: %w", err)
	}
	if err := (memory{Fleet: info.Fleet, URL: s.to, Targets: 1, Digest: wire.Sum(targets)}).write(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, targetsFile)); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	_, err = fmt.Fprintf(env.Stdout, `fleet %s has its keys in %s
  %-12s signs the next root: move it to a safe place, offline
  %-12s signs releases
  %-12s public: put it on every board, with the server's join.token
next: dunlin push --to %s --keys %s --all
`, info.Fleet, dir, rootKeyFile, releaseKeyFile, rootFile, s.to, dir)
	return err
}

func extra(rest []string) error {
	if len(rest) == 0 {
		return nil
	}
	return Usage("unknown argument %q", rest[0])
}

// publicKeys is the part of the server's API that makeKeys needs.
type publicKeys interface {
	Keys(ctx context.Context) (model.Keys, error)
}

// makeKeys writes a whole keys folder at once: a folder of another name gets this one when all files are in it.
func makeKeys(ctx context.Context, c publicKeys, dir, fleet string, now time.Time) error {
	online, err := c.Keys(ctx)
	if err != nil {
		return err
	}
	spec := trust.RootSpec{Fleet: fleet, Expires: now.Add(rootLife)}
	for _, k := range []struct {
		json []byte
		to   *trust.Signers
	}{{online.Snapshot, &spec.Snapshot}, {online.Timestamp, &spec.Timestamp}, {online.Director, &spec.Director}} {
		p, err := trust.ParsePublicKey(k.json)
		if err != nil {
			return fmt.Errorf("read the server's keys: %w", err)
		}
		k.to.Keys = []trust.PublicKey{p}
	}
	rootKey, err := trust.GenerateKey()
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	releaseKey, err := trust.GenerateKey()
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	spec.Root.Keys, spec.Release.Keys = []trust.PublicKey{rootKey.Public()}, []trust.PublicKey{releaseKey.Public()}
	root, err := trust.NewRoot(spec, rootKey)
	if err != nil {
		return err
	}
	targets, err := trust.RemoveReleases(nil, nil, now.Add(targetsLife), releaseKey)
	if err != nil {
		return err
	}
	rootPEM, err1 := rootKey.PEM()
	releasePEM, err2 := releaseKey.PEM()
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o755); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".keys-")
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	defer os.RemoveAll(tmp)
	for name, b := range map[string][]byte{rootKeyFile: rootPEM, releaseKeyFile: releasePEM, rootFile: root, targetsFile: targets} {
		if err := writeFile(filepath.Join(tmp, name), b); err != nil {
			return err
		}
	}
	// Rename takes the place of an empty folder only.
	if err := os.Rename(tmp, dir); err != nil {
		return Hint(fmt.Errorf("make keys: %w", err), "name a folder that is empty or not there with --dir")
	}
	return nil
}
