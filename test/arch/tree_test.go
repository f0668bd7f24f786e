package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

// files lists the tree's files, without what git ignores.
func files(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = need.Root()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		// A file that is deleted but not yet committed is still listed.
		if info, err := os.Stat(filepath.Join(need.Root(), name)); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	if len(names) < 10 {
		t.Fatalf("git lists %d files: this test looks in the wrong place", len(names))
	}
	return names
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(need.Root(), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// selectors finds uses of an imported package's name in the package's Go files, as file:line.
func selectors(t *testing.T, p pkg, importPath, name string) []string {
	t.Helper()
	var uses []string
	fset := token.NewFileSet()
	for _, file := range append(slices.Clone(p.GoFiles), p.CgoFiles...) {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		local := ""
		for _, spec := range f.Imports {
			if path, err := strconv.Unquote(spec.Path.Value); err == nil && path == importPath {
				local = path[strings.LastIndex(path, "/")+1:]
				if spec.Name != nil {
					local = spec.Name.Name
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != name {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == local {
				at := fset.Position(sel.Pos())
				rel, err := filepath.Rel(need.Root(), at.Filename)
				if err != nil {
					t.Fatal(err)
				}
				uses = append(uses, fmt.Sprintf("%s:%d", rel, at.Line))
			}
			return true
		})
	}
	return uses
}

// A file that needs more than this holds two ideas.
const (
	longFile    = 400
	tooLongFile = 500
)

func TestFilesAreShort(t *testing.T) {
	for _, name := range files(t) {
		switch filepath.Ext(name) {
		case ".go", ".c", ".h", ".rs", ".js", ".sh":
		default:
			continue
		}
		switch n := bytes.Count(read(t, name), []byte("\n")); {
		case n > tooLongFile:
			t.Errorf("%s has %d lines, at most %d: find the second idea in it", name, n, tooLongFile)
		case n > longFile:
			t.Logf("%s has %d lines, more than %d: look for a second idea", name, n, longFile)
		}
	}
}

// A name that says nothing collects everything.
var emptyNames = []string{"base", "common", "core", "helper", "helpers", "lib", "misc", "shared", "types", "util", "utils"}

func TestPackagesHaveAMeaningfulNameAndADoc(t *testing.T) {
	docs := map[string]bool{} // package folder to whether one of its files has a package comment
	for _, name := range files(t) {
		if filepath.Ext(name) != ".go" || strings.Contains(name, "/testdata/") {
			continue
		}
		dir := filepath.Dir(name)
		f, err := parser.ParseFile(token.NewFileSet(), name, read(t, name), parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		if slices.Contains(emptyNames, f.Name.Name) {
			t.Errorf("%s: the package name %s says nothing", name, f.Name.Name)
		}
		docs[dir] = docs[dir] || f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != ""
	}
	for dir, documented := range docs {
		if !documented {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

func TestGoModReplacesNothing(t *testing.T) {
	for _, line := range strings.Split(string(read(t, "go.mod")), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "replace") {
			t.Errorf("go.mod: %s: others could not build against this module", line)
		}
	}
}

func TestNoFileNamesAMachineOrARegistry(t *testing.T) {
	// In halves, so that this file passes its own test.
	forbidden := map[string]string{
		"/wo" + "rk/": "a path of one machine", "/ro" + "ot/": "a path of one machine", "/ho" + "me/": "a path of one machine",
		"proxy.go" + "lang.org": "a registry's host", "registry.npm" + "js.org": "a registry's host",
		"static.cra" + "tes.io": "a registry's host", "files.python" + "hosted.org": "a registry's host",
	}
	out, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, proxy := range strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(",|\n", r) }) {
		if u, err := url.Parse(proxy); err == nil && u.Hostname() != "" {
			forbidden[u.Hostname()] = "the module proxy of this machine"
		}
	}
	for _, name := range files(t) {
		b := read(t, name)
		if bytes.IndexByte(b, 0) >= 0 {
			continue
		}
		for text, what := range forbidden {
			if i := bytes.Index(b, []byte(text)); i >= 0 && !partOfLongerPath(b, i) {
				t.Errorf("%s:%d: %q is %s", name, 1+bytes.Count(b[:i], []byte("\n")), text, what)
			}
		}
	}
}

// partOfLongerPath says whether the slash at i goes on a name: a folder of the tree may be called like one.
func partOfLongerPath(b []byte, i int) bool {
	return i > 0 && b[i] == '/' && (b[i-1] == '_' || b[i-1] == '}' || b[i-1] == '.' || '0' <= b[i-1] && b[i-1] <= '9' || 'a' <= b[i-1]|0x20 && b[i-1]|0x20 <= 'z')
}
