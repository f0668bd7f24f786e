package cli

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"dunlin.dev/dunlin/fleet/manifest"
)

// application is the manifest that a command works on.
type application struct {
	file      string
	variables variables
}

const applicationHelp = `  -f FILE              the manifest, or its folder: dunlin.toml there, else spin.toml (default: this folder)
  --variable KEY=VALUE a variable of a Spin application; KEY=@FILE takes a file's content, @FILE.json and @FILE.toml a
                       file's variables (default: SPIN_VARIABLE_KEY in the environment)
`

func (a *application) flags(f *flag.FlagSet) {
	a.variables = variables{}
	f.StringVar(&a.file, "f", ".", "")
	f.Var(a.variables, "variable", "")
}

// read the manifest and its components, and tell what it has that means nothing here.
func (a *application) read(env *Env) (*localRelease, error) {
	if err := a.find(); err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	values := a.values(env)
	r, notes, err := readRelease(a.file, func(name string) (string, bool) {
		asked[name] = true
		return values(name)
	})
	for _, n := range notes {
		fmt.Fprintln(env.Stderr, "dunlin: note:", n)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(a.variables)) {
		if !asked[name] {
			return nil, Usage("--variable %s: %s has no such variable of a Spin application", name, a.file)
		}
	}
	return r, nil
}

// find the manifest of a folder.
func (a *application) find() error {
	fi, err := os.Stat(a.file)
	if err == nil && !fi.IsDir() || errors.Is(err, os.ErrNotExist) {
		return nil // readRelease says that it isn't there, with a hint
	}
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	for _, name := range []string{"dunlin.toml", "spin.toml"} {
		path := filepath.Join(a.file, name)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			a.file = path
			return nil
		}
	}
	return Hint(fmt.Errorf("no manifest dunlin.toml or spin.toml in %s", a.file), "name it with -f, or go to its folder")
}

// values of the variables: a flag's, else the environment's.
func (a *application) values(env *Env) manifest.Lookup {
	return func(name string) (string, bool) {
		if v, ok := a.variables[name]; ok {
			return v, true
		}
		v := env.Getenv(manifest.SpinEnvironment(name))
		return v, v != ""
	}
}

// variables collects KEY=VALUE, KEY=@FILE, @FILE.json and @FILE.toml, as Spin's command does.
type variables map[string]string

func (v variables) String() string { return strings.Join(slices.Sorted(maps.Keys(v)), " ") }

func (v variables) Set(s string) error {
	if file, ok := strings.CutPrefix(s, "@"); ok {
		return v.load(file)
	}
	k, value, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return errors.New("want KEY=VALUE, KEY=@FILE, @FILE.json or @FILE.toml")
	}
	if file, ok := strings.CutPrefix(value, "@"); ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		value = string(b)
	}
	v[k] = value
	return nil
}

// load a file's table of strings.
func (v variables) load(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	all := map[string]string{}
	switch filepath.Ext(file) {
	case ".json":
		err = json.Unmarshal(b, &all)
	case ".toml":
		err = toml.Unmarshal(b, &all)
	default:
		err = errors.New("want a file that ends in .json or .toml")
	}
	if err != nil {
		return fmt.Errorf("read variables from %s: %w", file, err)
	}
	maps.Copy(v, all)
	return nil
}
