package cross

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// output runs a command that must succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// want is what a package holds, and no more: path to mode.
var want = map[string]map[string]fs.FileMode{
	"dunlin": {
		"usr/bin/dunlin":                 0o755,
		"usr/share/doc/dunlin/copyright": 0o644,
	},
	"dunlin-agent": {
		"usr/bin/dunlin-agent":                        0o755,
		"usr/lib/systemd/system/dunlin-agent.service": 0o644,
		"usr/lib/sysusers.d/dunlin-agent.conf":        0o644,
		"etc/dunlin/agent.toml":                       0o644,
		"usr/share/doc/dunlin-agent/copyright":        0o644,
	},
	"dunlin-fleet": {
		"usr/bin/dunlin-fleet":                        0o755,
		"usr/lib/systemd/system/dunlin-fleet.service": 0o644,
		"usr/lib/sysusers.d/dunlin-fleet.conf":        0o644,
		"etc/dunlin/fleet.env":                        0o644,
		"usr/share/doc/dunlin-fleet/copyright":        0o644,
	},
}

// settings are the conffiles: what the user wrote there survives every upgrade.
var settings = map[string]string{"dunlin": "", "dunlin-agent": "/etc/dunlin/agent.toml\n", "dunlin-fleet": "/etc/dunlin/fleet.env\n"}

func TestDebianPackagesHoldWhatBoardsNeed(t *testing.T) {
	dist := os.Getenv("DUNLIN_DIST")
	if dist == "" {
		t.Skip("make packages builds the packages and runs this test on them")
	}
	for name, files := range want {
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(name+"_"+arch, func(t *testing.T) {
				found, err := filepath.Glob(filepath.Join(dist, name+"_*_"+arch+".deb"))
				if err != nil || len(found) != 1 {
					t.Fatalf("found %v (%v), want one package", found, err)
				}
				checkPackage(t, found[0], name, arch, files)
			})
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		found, err := filepath.Glob(filepath.Join(dist, "dunlin_*_linux_"+arch+".tar.gz"))
		if err != nil || len(found) != 1 {
			t.Errorf("found archives %v (%v) for %s, want one", found, err, arch)
		}
	}
}

func checkPackage(t *testing.T, path, name, arch string, files map[string]fs.FileMode) {
	members := readAr(t, path)
	control := readTar(t, members["control.tar.gz"])
	data := readTar(t, members["data.tar.gz"])

	fields := string(control["control"].data)
	for _, line := range []string{"Package: " + name, "Architecture: " + arch} {
		if !strings.Contains("\n"+fields, "\n"+line+"\n") {
			t.Errorf("control lacks %q:\n%s", line, fields)
		}
	}
	depends := regexp.MustCompile(`(?m)^Depends: .*libc6 \(>= (\d+)\.(\d+)\)`).FindStringSubmatch(fields)
	switch {
	case name == "dunlin-fleet" && depends != nil:
		t.Errorf("dunlin-fleet needs no C library, yet its control says so:\n%s", fields)
	case name != "dunlin-fleet" && (depends == nil || depends[1] != strconv.Itoa(floor[0]) || depends[2] != strconv.Itoa(floor[1])):
		t.Errorf("control should depend on libc6 (>= %d.%d):\n%s", floor[0], floor[1], fields)
	}
	if got := string(control["conffiles"].data); got != settings[name] {
		t.Errorf("conffiles are %q, want %q", got, settings[name])
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		got := string(control[script].data)
		source := "deb/" + name + "." + script
		ours, err := os.ReadFile(source)
		if name != "dunlin" && (err != nil || got != string(ours)) {
			t.Errorf("%s is not %s (%v):\n%s", script, source, err, got)
		}
		if name == "dunlin" && got != "" {
			t.Errorf("%s should not be there:\n%s", script, got)
		}
	}
	for file, mode := range files {
		switch f, ok := data[file]; {
		case !ok:
			t.Errorf("the package lacks /%s", file)
		case f.mode != mode:
			t.Errorf("/%s has mode %v, want %v", file, f.mode, mode)
		}
	}
	for file := range data {
		if _, ok := files[file]; !ok {
			t.Errorf("the package holds /%s, which nobody asked for", file)
		}
	}
	program := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(program, data["usr/bin/"+name].data, 0o755); err != nil {
		t.Fatal(err)
	}
	checkProgram(t, program, arch)
}

type member struct {
	mode fs.FileMode
	data []byte
}

// readTar returns a gzipped tar's files by path.
func readTar(t *testing.T, b []byte) map[string]member {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]member{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(filepath.Clean(h.Name), "/")] = member{h.FileInfo().Mode().Perm(), data}
	}
}

// readAr returns the members of an ar archive, the outer form of a Debian package (deb(5)).
func readAr(t *testing.T, path string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, ok := bytes.CutPrefix(b, []byte("!<arch>\n"))
	if !ok {
		t.Fatalf("%s is no ar archive", path)
	}
	members := map[string][]byte{}
	for len(b) > 0 {
		if len(b) < 60 {
			t.Fatalf("%s ends inside a header", path)
		}
		var size int
		if _, err := fmt.Sscanf(string(b[48:58]), "%d", &size); err != nil || size > len(b)-60 {
			t.Fatalf("%s has a member of size %q", path, b[48:58])
		}
		name := strings.TrimRight(string(b[:16]), " /")
		members[name] = b[60 : 60+size]
		b = b[min(len(b), 60+size+size%2):]
	}
	return members
}

// Maintainer scripts run again after an interruption, and while an image is built without a running systemd.
func TestMaintainerScriptsMayRunTwice(t *testing.T) {
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	for _, tool := range []string{"systemctl", "systemd-sysusers", "rm"} {
		script := "#!/bin/sh\necho " + tool + " \"$@\" >>" + calls + "\n"
		if err := os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, tc := range []struct{ script, action, old, says, never string }{
		{"dunlin-agent.postinst", "configure", "", "systemctl enable dunlin-agent.service", "disable"},
		{"dunlin-agent.postinst", "configure", "1.0", "systemd-sysusers dunlin-agent.conf", "systemctl enable"},
		{"dunlin-agent.postinst", "abort-upgrade", "1.0", "", "systemd"},
		{"dunlin-agent.prerm", "remove", "", "", "disable"},
		{"dunlin-agent.prerm", "upgrade", "1.0", "", "systemctl"},
		{"dunlin-agent.postrm", "remove", "", "", "rm "},
		{"dunlin-agent.postrm", "purge", "", "rm -rf /var/lib/dunlin\n", "dunlin-fleet"},
		{"dunlin-fleet.postinst", "configure", "", "systemctl enable dunlin-fleet.service", "dunlin-agent"},
		{"dunlin-fleet.postinst", "configure", "1.0", "systemd-sysusers dunlin-fleet.conf", "systemctl enable"},
		{"dunlin-fleet.prerm", "remove", "", "", "dunlin-agent"},
		{"dunlin-fleet.postrm", "purge", "", "rm -rf /var/lib/dunlin-fleet\n", "lib/dunlin\n"},
	} {
		t.Run(tc.script+" "+tc.action+" "+tc.old, func(t *testing.T) {
			for range 2 {
				if err := os.RemoveAll(calls); err != nil {
					t.Fatal(err)
				}
				output(t, "sh", "deb/"+tc.script, tc.action, tc.old)
				got, err := os.ReadFile(calls)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				if !strings.Contains(string(got), tc.says) || strings.Contains(string(got), tc.never) {
					t.Errorf("called:\n%swant %q and never %q", got, tc.says, tc.never)
				}
			}
		})
	}
}
