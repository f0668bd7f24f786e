package scripts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dunlin.dev/dunlin/test/need"
	"github.com/rogpeppe/go-internal/testscript"
)

// toolchainsFolder names the folder of what `test/guests/build.sh toolchains` made.
const toolchainsFolder = "DUNLIN_TOOLCHAINS"

// Each template of `dunlin new` is built with the commands that it prints, and does what the README in it says, for each
// trigger: the stories in templates/, told with $LANGUAGE and $ENGINE.
func TestEachTemplateBuildsAndRuns(t *testing.T) {
	tools := os.Getenv(toolchainsFolder)
	if tools == "" {
		t.Skip("make templates builds each template with its language's tools, and runs it")
	}
	dir, err := need.Programs()
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command(filepath.Join(dir, "dunlin"), "new", "--json").Output()
	if err != nil {
		t.Fatalf("list templates: %v", err)
	}
	var templates []struct {
		Language, Engine string
		Triggers         []string
		Build            []string
		Source           string
	}
	if err := json.Unmarshal(list, &templates); err != nil {
		t.Fatal(err)
	}
	if len(templates) < 3 {
		t.Fatalf("dunlin new lists %d templates", len(templates))
	}
	for _, tm := range templates {
		name := strings.TrimSuffix(tm.Language+"-"+tm.Engine, "-")
		t.Run(name, func(t *testing.T) {
			var stories []string
			for _, trigger := range tm.Triggers {
				stories = append(stories, filepath.Join("templates", trigger+".txtar"))
			}
			p := params(t, dir, "")
			p.Files = stories
			set := p.Setup
			p.Setup = func(env *testscript.Env) error {
				env.Setenv("LANGUAGE", tm.Language)
				env.Setenv("ENGINE", tm.Engine)
				err := set(env)
				env.Values[storyKey{}].(*story).folder = "templates"
				return err
			}
			p.Cmds["build"] = func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: build DIR")
				}
				ts.Check(buildProject(ts.MkAbs(args[0]), tools, name+"-"+ts.Name(), tm.Source, tm.Build))
			}
			testscript.Run(t, p)
		})
	}
}

// buildProject runs a project's own commands, and keeps the component in tools/built, where the bench takes it from. A project
// whose every byte was built before, with these tools, is not built again: StarlingMonkey takes twenty seconds for each.
func buildProject(dir, tools, name, source string, commands []string) error {
	key, err := digest(dir, filepath.Join(need.Root(), "test", "guests", "build.sh"), commands)
	if err != nil {
		return err
	}
	kept := filepath.Join(tools, "built", name)
	if was, err := os.ReadFile(kept + ".key"); err == nil && string(was) == key {
		wasm, err := os.ReadFile(kept + ".wasm")
		if err != nil {
			return err
		}
		to := filepath.Join(dir, source)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		return os.WriteFile(to, wasm, 0o666)
	}
	for _, command := range commands {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(tools, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, out)
		}
	}
	wasm, err := os.ReadFile(filepath.Join(dir, source))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(kept+".wasm", wasm, 0o666); err != nil {
		return err
	}
	return os.WriteFile(kept+".key", []byte(key), 0o666)
}

// digest of a project, its commands, and the recipe of the tools.
func digest(dir, recipe string, commands []string) (string, error) {
	h := sha256.New()
	add := func(name, path string) error {
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%q %x\n", name, sha256.Sum256(b))
		return err
	}
	if err := add("recipe", recipe); err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%q\n", commands)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return add(name, path)
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
