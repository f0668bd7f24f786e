package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

// testNames collects what the tree's tests are called: functions, and stories by their file's name.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, name := range files(t) {
		if filepath.Ext(name) == ".txtar" {
			names[filepath.Base(name)] = true
		}
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, read(t, name), parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

var namesATest = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+|[a-z0-9_-]+\\.txtar)`")

// A guarantee is a list item or a table row of firmware-notes/guarantees.md; it names the tests that hold it, in backticks.
func TestEveryGuaranteeNamesATestThatExists(t *testing.T) {
	const doc = "firmware-notes/guarantees.md"
	known := testNames(t)
	guarantees := 0
	item := ""
	finish := func() {
		if item == "" {
			return
		}
		guarantees++
		tests := namesATest.FindAllStringSubmatch(item, -1)
		if len(tests) == 0 {
			t.Errorf("%s: no test is named: %.100s", doc, item)
		}
		for _, m := range tests {
			if !known[m[1]] {
				t.Errorf("%s: no test is called %s: %.100s", doc, m[1], item)
			}
		}
		item = ""
	}
	inTable := 0
	for _, line := range strings.Split(string(read(t, doc)), "\n") {
		switch {
		case strings.HasPrefix(line, "|"):
			finish()
			if inTable++; inTable > 2 { // after the head and its rule
				item = line
			}
			continue
		case strings.HasPrefix(line, "- "):
			finish()
			item = line
		case strings.HasPrefix(line, "  ") && item != "":
			item += line
		default:
			finish()
		}
		inTable = 0
	}
	finish()
	if guarantees == 0 {
		t.Errorf("%s lists no guarantee", doc)
	}
}

func TestConformanceNamesTestsThatExist(t *testing.T) {
	const doc = "firmware-notes/conformance.md"
	known := testNames(t)
	tests := namesATest.FindAllStringSubmatch(string(read(t, doc)), -1)
	if len(tests) == 0 {
		t.Errorf("%s names no test", doc)
	}
	for _, m := range tests {
		if !known[m[1]] {
			t.Errorf("%s: no test is called %s", doc, m[1])
		}
	}
}

// What is measured under a name stays comparable only while the name means one thing.
func TestEveryBenchNameStandsOnce(t *testing.T) {
	listed, err := os.ReadFile("bench.txt")
	if err != nil {
		t.Fatal(err)
	}
	literals := map[string]int{}
	sources, err := filepath.Glob(filepath.Join(need.Root(), "test", "bench", "*.go"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("found no sources in test/bench (%v)", err)
	}
	for _, name := range sources {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					literals[s]++
				}
			}
			return true
		})
	}
	for _, name := range strings.Fields(string(listed)) {
		if literals[name] != 1 {
			t.Errorf("%s stands %d times in test/bench, want once, written out", name, literals[name])
		}
	}
}
