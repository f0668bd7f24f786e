package manifest

import (
	"errors"
	"fmt"
	"os"
	slash "path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"dunlin.dev/dunlin/fleet/archive"
	"dunlin.dev/dunlin/fleet/wire"
)

const before = `dunlin_manifest_version = 1
application = { name = "a", version = "1.0.0" }
trigger.http = [{ route = "/", component = "c" }]


[component.c]
source = "c.wasm"
`

// withFiles is a manifest whose component has these lines, the first of which is line 8.
func withFiles(t *testing.T, lines string) Component {
	t.Helper()
	m, err := Parse("dunlin.toml", []byte(before+lines))
	if err != nil {
		t.Fatal(err)
	}
	return m.Components["c"]
}

var site = fstest.MapFS{
	"c.wasm": {Data: []byte("wasm")}, "dunlin.toml": {},
	"assets/index.html": {Data: []byte("index")}, "assets/app.js": {Data: []byte("app")}, "assets/app.js.map": {Data: []byte("map")},
	"assets/img/a.png": {Data: []byte("a")}, "assets/img/deep/b.png": {Data: []byte("b")}, "assets/.hidden": {},
	"notes.txt": {Data: []byte("notes")}, "odd[1].txt": {Data: []byte("odd")}, ".dunlin/store.db": {Data: []byte("state")},
}

// placed lists what a component finds, as "path=content".
func placed(t *testing.T, f *Files) (list []string) {
	t.Helper()
	if f.Archive == nil {
		return nil
	}
	files, err := archive.Unpack(f.Archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range files {
		list = append(list, one.Path+"="+string(one.Data))
	}
	return list
}

func TestFilesAreThoseThatSpinWouldTake(t *testing.T) {
	for lines, want := range map[string]string{
		`files = ["assets/*"]`:              "assets/.hidden= assets/app.js=app assets/app.js.map=map assets/index.html=index",
		`files = ["assets/**/*.png"]`:       "assets/img/a.png=a assets/img/deep/b.png=b",
		`files = ["**/*.png", "notes.txt"]`: "assets/img/a.png=a assets/img/deep/b.png=b notes.txt=notes",
		`files = ["assets/img"]`:            "assets/img/a.png=a assets/img/deep/b.png=b",
		`files = ["./notes.txt"]`:           "notes.txt=notes",
		`files = ["odd[1].txt"]`:            "odd[1].txt=odd",
		`files = ["assets/[!.a]*"]`:         "assets/index.html=index",
		`files = ["assets/app.?s"]`:         "assets/app.js=app",
		`files = [{ source = "assets", destination = "/" }]` + "\n" + `exclude_files = ["**/*.map", "*/img/*", "assets/.*"]`: "app.js=app index.html=index",
		`files = [{ source = "assets/img", destination = "/pictures/all" }]`:                                                 "pictures/all/a.png=a pictures/all/deep/b.png=b",
		`files = [{ source = "notes.txt", destination = "/etc/motd" }]`:                                                      "etc/motd=notes",
		`files = [{ source = "notes.txt", destination = "motd" }]`:                                                           "motd=notes",
		`files = ["notes.txt"]` + "\n" + `exclude_files = ["notes.txt"]`:                                                     "notes.txt=notes", // a file that is named is taken
		`files = ["**/*"]` + "\n" + `exclude_files = ["assets/*", "*.toml", "*.wasm"]`:                                       "notes.txt=notes odd[1].txt=odd",
		`files = ["assets/*.js", "assets/app*"]` + "\n" + `exclude_files = ["*.map"]`:                                        "assets/app.js=app",
		`files = []`: "",
		``:           "",
	} {
		f, err := withFiles(t, lines).Files(site)
		if err != nil {
			t.Errorf("%s: %v", lines, err)
			continue
		}
		if got := strings.Join(placed(t, f), " "); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", lines, got, want)
		}
	}
}

func TestFaultsOfFilesHavePlacesAndWaysOut(t *testing.T) {
	many := fstest.MapFS{}
	for i := range archive.MaxFiles + 1 {
		many[fmt.Sprintf("many/%d", i)] = &fstest.MapFile{}
	}
	for lines, want := range map[string]string{
		`files = "assets"`:                                  `dunlin.toml:8:9: files in [component.c] is a string, want a list of paths`,
		`files = ["a", 1]`:                                  `dunlin.toml:8:15: files in [component.c]: a number, want a path`,
		`files = ["assets/**.png"]`:                         `dunlin.toml:8:10: files in [component.c]: pattern "assets/**.png": ** stands for whole folders`,
		`files = ["a/[b"]`:                                  `dunlin.toml:8:10: files in [component.c]: pattern "a/[b": a [ that no ] ends`,
		`files = ["../secret"]`:                             `8:10: files in [component.c]: "../secret": want a path without .. below the manifest's folder`,
		`files = ["/etc/passwd"]`:                           `8:10: files in [component.c]: "/etc/passwd": want a path without`,
		`files = ["assets/../../*"]`:                        `8:10: files in [component.c]: "assets/../../*": want a path without`,
		`files = [{ source = "assets" }]`:                   `files in [component.c] has no destination`,
		`files = [{ source = "a", destination = "/../x" }]`: `destination "/../x": want a path as in "/assets"`,
		`files = [{ source = "a", destinatio = "/x" }]`:     `unknown key "destinatio" in files in [component.c]: did you mean "destination"?`,
		`exclude_files = ["***"]`:                           `dunlin.toml:8:18: pattern "***": ** stands for whole folders`,
		`directory = 1`:                                     `dunlin.toml:8:13: directory in [component.c] is a number, want true, or the path`,
		`directory = "data"`:                                `8:13: directory "data": want an absolute path, as in "/data"`,
		`directory = "/a/../b"`:                             `8:13: directory: path "a/../b": want a relative path without`,
		"files = [\"a\"]\ndirectory = \"/\"":                `has files, and its directory at "/", where they are: give the directory a path of its own`,
		`limits.files = "1KiB"`:                             `files in [component.c] limits is 1KiB, want 4KiB to 1GiB`,
	} {
		_, err := Parse("dunlin.toml", []byte(before+lines))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", lines, err, want)
		}
	}
	for lines, want := range map[string]string{
		`files = ["asets"]`: `dunlin.toml:8:10: files in [component.c]: no file or folder "asets" in the manifest's folder`,
		`files = ["notes.txt", { source = "assets/app.js", destination = "/notes.txt" }]`: `dunlin.toml:8:23: files in [component.c]: "notes.txt" and "assets/app.js" would both be at "/notes.txt"`,
		`files = [{ source = "notes.txt", destination = "/" }]`:                           `"notes.txt" is a file: name the one that it is to be, as in "/notes.txt"`,
		`files = ["notes.txt", { source = "assets", destination = "/notes.txt" }]`:        `"notes.txt" is a file and a folder`,
		"directory = \"/assets\"\nfiles = [\"assets/*\"]":                                 `dunlin.toml:9:10: files in [component.c]: "assets/.hidden" would be at "/assets/.hidden", in the component's own directory`,
	} {
		_, err := withFiles(t, lines).Files(site)
		var all Errors
		if !errors.As(err, &all) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", lines, err, want)
		}
	}
	if _, err := withFiles(t, `files = ["many"]`).Files(many); err == nil || !strings.Contains(err.Error(), "more than 10000 files: exclude") {
		t.Errorf("too many files: %v", err)
	}
	f, err := withFiles(t, `files = ["notes.txt", "assets/*.jpg"]`).Files(site)
	if want := []string{`dunlin.toml:8:23: files in [component.c]: "assets/*.jpg" adds no file`}; err != nil || !reflect.DeepEqual(f.Notes, want) {
		t.Errorf("a pattern that nothing matches: %v, %v", f.Notes, err)
	}
}

// A symbolic link is followed within the manifest's folder, and an error where it leads out.
func TestLinksOutOfTheFolderAreRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("secret", "key")
	write("app/real.txt", "real")
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, "app", name)); err != nil {
			t.Fatal(err)
		}
	}
	write("app/a/x.txt", "x")
	link("../real.txt", "a/inside.txt")
	link(".", "a/loop")
	root, err := os.OpenRoot(filepath.Join(dir, "app"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := withFiles(t, `files = ["a/**/*"]`).Files(root.FS())
	if err != nil || strings.Join(placed(t, f), " ") != "a/inside.txt=real a/x.txt=x" {
		t.Errorf("got %v, %v", placed(t, f), err)
	}
	link("../../secret", "a/outside.txt")
	for _, files := range []string{`["a/*"]`, `["a"]`, `["a/outside.txt"]`, `[{ source = "a/outside.txt", destination = "/x" }]`} {
		if f, err := withFiles(t, "files = "+files).Files(root.FS()); err == nil || f.Archive != nil || !strings.Contains(err.Error(), "dunlin.toml:8:10: files in [component.c]: ") {
			t.Errorf("%s: %v", files, err)
		}
	}
}

func TestDirectoryIsGrantedByName(t *testing.T) {
	for line, want := range map[string]string{"": "", "directory = true": "/data", "directory = false": "", `directory = "/var/state"`: "/var/state"} {
		if got := withFiles(t, line).Grants.Directory; got != want {
			t.Errorf("%q gives %q, want %q", line, got, want)
		}
	}
	if got := withFiles(t, `limits.files = "1MiB"`).Grants.Limits.Files; got != 1<<20 {
		t.Errorf("limit %d", got)
	}
	if wire.DefaultLimits().Files != wire.DefaultFiles {
		t.Error("no default")
	}
}

func TestGlobs(t *testing.T) {
	for _, test := range []struct {
		pattern, path   string
		plain, crossing bool
	}{
		{"*", "a", true, true}, {"*", "a/b", false, true}, {"**/*", "a", true, true}, {"**/*", "a/b/c", true, true}, {"**", "a/b", true, true},
		{"a/**", "a/b/c", true, true}, {"a/**", "b/c", false, false}, {"a/**/b", "a/b", true, true}, {"a/**/b", "a/x/y/b", true, true},
		{"a/**/b", "a/xb", false, false}, {"**/b", "ab", false, false}, {"**/b", "a/b", true, true}, {"a?c", "a/c", false, true}, {"a[!b]c", "a/c", false, true},
		{"[]]", "]", true, true}, {"[a-c]", "b", true, true}, {"[!a-c]", "b", false, false}, {"[a-]", "-", true, true}, {"ü*", "üb", true, true},
		{"*a*a*a*a*a*b", strings.Repeat("a", 1000), false, false}, {"**/**/x", "a/x", true, true}, {".*", ".git", true, true},
	} {
		g, err := parseGlob(test.pattern)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		if plain, crossing := g.match(test.path, false), g.match(test.path, true); plain != test.plain || crossing != test.crossing {
			t.Errorf("%s on %.20s: %t, %t", test.pattern, test.path, plain, crossing)
		}
	}
}

// Where both have the same syntax, they agree with the standard library.
func FuzzGlob(f *testing.F) {
	f.Add("a*/[b-c]?", "ab/cd")
	f.Add("**/*.png", "a/b.png")
	f.Add("[!a]**", "x")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		g, err := parseGlob(pattern)
		if err != nil || !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			return // neither comes out of a manifest or into an archive
		}
		got := g.match(name, false)
		if got && !g.match(name, true) {
			t.Errorf("%q matches %q only where * stops at slashes", pattern, name)
		}
		if strings.ContainsAny(pattern, "[\\") || strings.Contains(pattern, "**") {
			return
		}
		if want, err := slash.Match(pattern, name); err == nil && got != want {
			t.Errorf("%q on %q: %t", pattern, name, got)
		}
	})
}
