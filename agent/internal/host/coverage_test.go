package host

import (
	"os"
	"slices"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/test/guests"
)

// Each function of WASI 0.2 is called by a guest of the tests, or firmware-notes/conformance.md says why not. (A guest's
// imports are what it calls: the linker leaves out the others.)
func TestEveryFunctionOfWASIIsCalledOrNamed(t *testing.T) {
	note, err := os.ReadFile("../../../firmware-notes/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]bool{}
	for _, wasm := range [][]byte{guests.Conformance, guests.Shelf} {
		for _, im := range compile(t, wasm).Imports() {
			name := engine.Track(im.Name)
			for _, x := range im.Items {
				if x.Kind == engine.ExternFunc {
					called[name+" "+x.Name] = true
				}
			}
		}
	}
	checked := 0
	for _, i := range interfaces() {
		if !strings.HasSuffix(i.name, wasi) {
			continue
		}
		name := engine.Track(i.name)
		interfaceName := strings.TrimSuffix(i.name, wasi)
		if !strings.Contains(string(note), "`"+interfaceName+"`") {
			t.Errorf("conformance.md has no row for `%s`", interfaceName)
		}
		var missing []string
		for f := range i.funcs {
			checked++
			named := strings.Contains(string(note), "`"+interfaceName+" "+f+"`") || strings.Contains(string(note), "`"+interfaceName+" *`")
			if called[name+" "+f] == named {
				missing = append(missing, f)
			}
		}
		if slices.Sort(missing); len(missing) > 0 {
			t.Errorf("%s: these are called and named in conformance.md, or neither: %q", interfaceName, missing)
		}
	}
	if checked < 170 {
		t.Errorf("only %d functions", checked)
	}
}
