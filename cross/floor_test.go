// Package cross holds what turns the module into programs for boards and servers: compilers, packages, units. Its tests look
// at what was built.
package cross

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin.dev/dunlin/test/need"
)

// floor is the C library of Debian 12, the oldest system that the programs run on. The packages' Depends name it too.
var floor = [2]int{2, 36}

// provided lists the shared libraries that a program may need: those of libc6 and libgcc-s1.
var provided = map[string]bool{
	"libc.so.6": true, "libm.so.6": true, "libgcc_s.so.1": true, "libpthread.so.0": true, "libdl.so.2": true,
	"libresolv.so.2": true, "ld-linux-x86-64.so.2": true, "ld-linux-aarch64.so.1": true,
}

func TestProgramsRunOnDebian12(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			need.CrossCompiler(t, arch, "the programs for linux/"+arch)
			if err := need.Make("cross-" + arch); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"dunlin", "dunlin-agent", "dunlin-fleet"} {
				checkProgram(t, filepath.Join(need.Root(), "bin", "linux-"+arch, name), arch)
			}
		})
	}
}

// checkProgram reads what a program asks of the system that it starts on.
func checkProgram(t *testing.T, path, arch string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name := filepath.Base(path)
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; f.Machine != want {
		t.Errorf("%s is for %v, want %v", name, f.Machine, want)
	}
	if f.Section(".debug_info") != nil || f.Section(".zdebug_info") != nil || f.Section(".symtab") != nil {
		t.Errorf("%s is not stripped", name)
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	if static := len(libraries) == 0; static != (name == "dunlin-fleet") {
		t.Errorf("%s needs the libraries %v; only dunlin-fleet needs none", name, libraries)
	}
	for _, lib := range libraries {
		if !provided[lib] {
			t.Errorf("%s needs %s, which no package in Depends brings", name, lib)
		}
	}
	if len(libraries) == 0 {
		return
	}
	needs, err := f.DynamicVersionNeeds()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, lib := range needs {
		for _, v := range lib.Needs {
			version, ok := strings.CutPrefix(v.Dep, "GLIBC_")
			if !ok {
				continue
			}
			seen++
			var major, minor int
			if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
				t.Errorf("%s needs %s of %s, which is no version", name, v.Dep, lib.Name)
			}
			if major > floor[0] || major == floor[0] && minor > floor[1] {
				t.Errorf("%s needs %s of %s; the floor is %d.%d: build on Debian 12", name, v.Dep, lib.Name, floor[0], floor[1])
			}
		}
	}
	if seen == 0 {
		t.Errorf("%s names no version of the C library: this test reads the wrong table", name)
	}
}

// The unit files are read as systemd reads them: unknown keys, and how much a service could do if it were taken over.
func TestUnitsAreSoundAndHardened(t *testing.T) {
	analyze := need.Tool(t, "systemd-analyze", "the systemd units")
	for _, service := range []string{"dunlin-agent", "dunlin-fleet"} {
		unit, err := os.ReadFile("deb/" + service + ".service")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), service+".service")
		// The program isn't installed where the test runs.
		text := strings.Replace(string(unit), "ExecStart=/usr/bin/"+service, "ExecStart=/bin/true", 1)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := output(t, analyze, "verify", "--man=no", path); out != "" {
			t.Errorf("%s.service: %s", service, out)
		}
		// 15 of 100: what remains is network access, and for the agent executable mappings.
		output(t, analyze, "security", "--offline=true", "--threshold=16", path)
	}
}
