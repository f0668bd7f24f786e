package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// parses are functions that make something of bytes or text that others wrote.
var parses = regexp.MustCompile(`^(Parse|Decode|Unmarshal|Unpack|Scan|parse|decode|unmarshal|unpack)([A-Z].*)?$`)

// unfuzzed are packages whose parsers need no fuzz test, and why.
var unfuzzed = map[string]string{
	"agent/internal/crash":   "only in programs that make crash builds, from its own arguments",
	"fleet/cmd/dunlin-fleet": "the program's own flags, by package flag",
	"fleet/internal/cli":     "the program's own flags, by package flag",
}

// Whatever decodes has a fuzz test beside it: a package with a parser has a Fuzz function.
func TestEachPackageThatParsesIsFuzzed(t *testing.T) {
	parsers, fuzzed := map[string][]string{}, map[string]bool{}
	for _, name := range files(t) {
		if path.Ext(name) != ".go" || !strings.HasPrefix(name, "agent/") && !strings.HasPrefix(name, "fleet/") && !strings.HasPrefix(name, "wit/") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, read(t, name), parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		dir := path.Dir(name)
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			switch {
			case !ok:
			case strings.HasSuffix(name, "_test.go"):
				fuzzed[dir] = fuzzed[dir] || fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz")
			case parses.MatchString(fn.Name.Name):
				parsers[dir] = append(parsers[dir], fn.Name.Name)
			}
		}
	}
	if len(parsers) < 10 {
		t.Errorf("only %d packages parse: this test looks in the wrong place", len(parsers))
	}
	for dir, names := range parsers {
		if slices.Sort(names); !fuzzed[dir] && unfuzzed[dir] == "" {
			t.Errorf("%s has %s and no fuzz test", dir, strings.Join(names, ", "))
		}
	}
	for dir := range unfuzzed {
		if parsers[dir] == nil {
			t.Errorf("%s has no parser: take it out of unfuzzed", dir)
		}
	}
}
