// Package scaffold makes the project that a handler begins as: source, manifest, build recipe and WIT, for each language and
// each trigger.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"dunlin.dev/dunlin/fleet/wire"
	"dunlin.dev/dunlin/wit"
)

// A file that ends in .tmpl is filled in, and loses the ending; all others are copied.
//
//go:embed all:templates
var templates embed.FS

// Triggers are the triggers that every template exists for.
var Triggers = []string{"http", "mqtt", "timer"}

// Template is what a project in one language begins with.
type Template struct {
	Language string   `json:"language"`
	Engine   string   `json:"engine,omitempty"` // where a language has more than one; the first in All is its usual one
	Triggers []string `json:"triggers"`
	Needs    string   `json:"needs"`  // tools that must be installed
	Build    []string `json:"build"`  // shell commands that build it, run in the project's folder
	Source   string   `json:"source"` // the component that they make
	WASI     string   `json:"-"`      // the patch version of WASI 0.2 in its WIT
	Imports  []string `json:"-"`      // what its glue imports besides
	layers   []string // folders in templates, later ones over earlier ones; those with "-<trigger>" appended as well
}

// All lists the templates.
func All() []Template {
	js := func(language, engine string) Template {
		t := Template{
			Language: language, Engine: engine, Needs: "Node.js 20 or newer",
			Build: []string{"npm install", "npm run build"}, Source: "handler.wasm",
			// componentize-js knows this version alone; componentize-qjs brings 0.2.12 of its own along.
			WASI:   "0.2.10",
			layers: []string{"script", "script-" + engine, language},
		}
		if engine == "quickjs" {
			t.Imports = []string{"wasi:cli/stdout@0.2.10", "wasi:cli/stderr@0.2.10"}
		}
		return t
	}
	all := []Template{
		{
			Language: "rust", Needs: "Rust with the target wasm32-wasip2 (rustup target add wasm32-wasip2)",
			Build: []string{"cargo build --release"}, Source: "target/wasm32-wasip2/release/handler.wasm", layers: []string{"rust"},
		},
		js("js", "starlingmonkey"), js("js", "quickjs"), js("ts", "starlingmonkey"), js("ts", "quickjs"),
		{
			Language: "go", Needs: "Go 1.26, make, wit-bindgen 0.63 (cargo install wit-bindgen-cli@0.63.0), jco 1.16 (npm install -g @bytecodealliance/jco@1.16.1)",
			Build: []string{"make"}, Source: "handler.wasm", layers: []string{"go"},
		},
		{
			Language: "python", Needs: "Python 3.10 or newer",
			Build: []string{
				"python3 -m venv .venv", ".venv/bin/pip install -r requirements.txt",
				".venv/bin/componentize-py -d wit -w handler componentize app -o handler.wasm",
			},
			Source: "handler.wasm", layers: []string{"python"},
		},
		{
			Language: "c", Needs: "wasi-sdk 24 or newer in /opt/wasi-sdk, make, wit-bindgen 0.63 (cargo install wit-bindgen-cli@0.63.0)",
			Build: []string{"make"}, Source: "handler.wasm", layers: []string{"c"},
		},
	}
	for i := range all {
		all[i].Triggers = Triggers
		if all[i].WASI == "" {
			all[i].WASI = newest
		}
		all[i].layers = append([]string{"any"}, all[i].layers...)
	}
	return all
}

// newest is the version of WASI in package wit.
const newest = "0.2.12"

// ErrUnknown is in the error of a language, engine or trigger that there is no template for.
var ErrUnknown = errors.New("no such template")

// Find returns the template of a language; an empty engine is the language's usual one.
func Find(language, engine string) (Template, error) {
	var languages, engines []string
	for _, t := range All() {
		if !slices.Contains(languages, t.Language) {
			languages = append(languages, t.Language)
		}
		if t.Language != language {
			continue
		}
		if t.Engine == engine || engine == "" {
			return t, nil
		}
		if t.Engine != "" {
			engines = append(engines, t.Engine)
		}
	}
	switch {
	case !slices.Contains(languages, language):
		return Template{}, fmt.Errorf("%w: language %q; there are %s", ErrUnknown, language, strings.Join(languages, ", "))
	case len(engines) == 0:
		return Template{}, fmt.Errorf("%w: %s has no engine to choose", ErrUnknown, language)
	}
	return Template{}, fmt.Errorf("%w: engine %q; %s has %s", ErrUnknown, engine, language, strings.Join(engines, ", "))
}

// ErrNotEmpty is in the error of a folder that holds something already.
var ErrNotEmpty = errors.New("the folder is not empty")

// Create writes the project of an application into dir, which may exist if it is empty. It overwrites nothing, and what it
// could not finish it takes back.
func (t Template) Create(dir, name, trigger string) (err error) {
	files, err := t.Files(name, trigger)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make project: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("make project: %s: %w", dir, ErrNotEmpty)
	}
	made := err != nil
	defer func() {
		if err == nil {
			return
		}
		left, _ := os.ReadDir(dir)
		for _, e := range left {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
		if made {
			os.Remove(dir)
		}
	}()
	for file, content := range files {
		file = filepath.Join(dir, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			return fmt.Errorf("make project: %w", err)
		}
		if err := os.WriteFile(file, content, 0o666); err != nil {
			return fmt.Errorf("make project: %w", err)
		}
	}
	return nil
}

// Files are the project's files by their slash-separated paths.
func (t Template) Files(name, trigger string) (map[string][]byte, error) {
	if err := wire.CheckName("application", name); err != nil {
		return nil, err
	}
	if !slices.Contains(Triggers, trigger) {
		return nil, fmt.Errorf("%w: trigger %q; there are %s", ErrUnknown, trigger, strings.Join(Triggers, ", "))
	}
	files := map[string][]byte{}
	fill := struct {
		Template
		Name, Trigger string
	}{t, name, trigger}
	for _, layer := range t.layers {
		for _, folder := range []string{layer, layer + "-" + trigger} {
			if err := t.add(files, path.Join("templates", folder), fill); err != nil {
				return nil, fmt.Errorf("fill in template %s: %w", folder, err)
			}
		}
	}
	return files, t.addWIT(files)
}

func (t Template) add(files map[string][]byte, root string, fill any) error {
	return fs.WalkDir(templates, root, func(name string, d fs.DirEntry, err error) error {
		if name == root && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		content, err := templates.ReadFile(name)
		if err != nil {
			return err
		}
		to, filled := strings.CutSuffix(strings.TrimPrefix(name, root+"/"), ".tmpl")
		if filled {
			parsed, err := template.New(name).Option("missingkey=error").Parse(string(content))
			if err != nil {
				return err
			}
			var b bytes.Buffer
			if err := parsed.Execute(&b, fill); err != nil {
				return err
			}
			content = b.Bytes()
		}
		files[to] = content
		return nil
	})
}

// others are the packages for components from elsewhere: older drafts, and Spin's. With two versions of a package at hand,
// bindings get the version into their names.
var others = []string{
	"config@0.2.0-draft", "config@0.2.0-draft-2024-09-27", "keyvalue@0.2.0-draft", "mqtt-trigger", "spin-cron@2.0.0", "spin@2.0.0",
}

// addWIT adds the packages that a world may name, with WASI at the template's version.
func (t Template) addWIT(files map[string][]byte) error {
	contract := wit.FS()
	return fs.WalkDir(contract, "deps", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains(others, d.Name()) {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(contract, name)
		files["wit/"+strings.ReplaceAll(name, newest, t.WASI)] = bytes.ReplaceAll(content, []byte("@"+newest), []byte("@"+t.WASI))
		return err
	})
}
