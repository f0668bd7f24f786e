package arch

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

var update = flag.Bool("update", false, "write the dependency lists anew")

var programs = map[string]string{
	"dunlin":       "./fleet/cmd/dunlin",
	"dunlin-agent": "./agent/cmd/dunlin-agent",
	"dunlin-fleet": "./fleet/cmd/dunlin-fleet",
}

// What each program is made of is in a file, so that a new dependency is seen in a review, and weighed.
func TestDependenciesAreThoseOnTheList(t *testing.T) {
	for program, path := range programs {
		t.Run(program, func(t *testing.T) {
			cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", path)
			cmd.Dir = need.Root()
			cgo := "1"
			if program == "dunlin-fleet" {
				cgo = "0"
			}
			cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED="+cgo)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got := slices.DeleteFunc(strings.Fields(string(out)), func(p string) bool { return strings.HasPrefix(p, module) })
			slices.Sort(got)
			list := filepath.Join("deps", program+".txt")
			if *update {
				if err := os.WriteFile(list, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Fields(string(b))
			for _, p := range got {
				if !slices.Contains(want, p) {
					t.Errorf("%s now holds %s: if it is worth its weight, go test ./test/arch -run Dependencies -update", program, p)
				}
			}
			for _, p := range want {
				if !slices.Contains(got, p) {
					t.Errorf("%s no longer holds %s: go test ./test/arch -run Dependencies -update", program, p)
				}
			}
		})
	}
}

// budgets are the stripped programs' sizes in bytes: what was measured when the figure was set, and a tenth more. Raise one
// in the commit that needs it, to the new size and a tenth, and say there what the bytes buy; lower it when it is more than
// a fifth above the size.
var budgets = map[string]map[string]int64{
	"amd64": {"dunlin": 41_100_000, "dunlin-agent": 40_700_000, "dunlin-fleet": 14_400_000},
	"arm64": {"dunlin": 35_300_000, "dunlin-agent": 34_900_000, "dunlin-fleet": 13_400_000},
}

func TestProgramsKeepToTheirSize(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			need.CrossCompiler(t, arch, "the sizes of the programs for linux/"+arch)
			if err := need.Make("cross-" + arch); err != nil {
				t.Fatal(err)
			}
			for program := range programs {
				info, err := os.Stat(filepath.Join(need.Root(), "bin", "linux-"+arch, program))
				if err != nil {
					t.Fatal(err)
				}
				size, budget := info.Size(), budgets[arch][program]
				t.Logf("%s: %d bytes of %d", program, size, budget)
				if size > budget {
					t.Errorf("%s for %s has %d bytes, its budget is %d", program, arch, size, budget)
				}
				if runtime.GOARCH == arch && budget > size+size/5 {
					t.Errorf("%s for %s has %d bytes: lower its budget of %d", program, arch, size, budget)
				}
			}
		})
	}
}
