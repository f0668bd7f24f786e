package wit

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// file is what one .wit file declares and what it asks of others.
type file struct {
	pkg        string              // "wasi:http@0.2.12"
	interfaces map[string][]string // the names that each declares
	worlds     map[string]bool
	needs      []need
}

// need is one reference, written on a line of a file.
type need struct {
	line  int
	world bool     // an include
	ref   string   // "streams", "wasi:io/streams@0.2.12"
	names []string // of a use
}

var (
	packageLine = regexp.MustCompile(`^package ([a-z:-]+(?:@[0-9a-z.-]+)?);$`)
	blockLine   = regexp.MustCompile(`^(interface|world) ([a-z0-9-]+) \{$`)
	useLine     = regexp.MustCompile(`^use ([a-z0-9:/@.-]+?)\.\{([^}]+)\};$`)
	refLine     = regexp.MustCompile(`^(import|export|include) ([a-z0-9:/@.-]+);$`)
	typeLine    = regexp.MustCompile(`^(?:resource|record|variant|enum|flags|type) %?([A-Za-z0-9-]+)(?:[ ;]|$)`)
	funcLine    = regexp.MustCompile(`^(?:export )?%?[a-z0-9-]+: (?:static )?func\(.*;$`)
)

// parse one file, and refuse any line that isn't understood, so that a slip in a signature can't hide.
func parse(text string) (*file, error) {
	f := &file{interfaces: map[string][]string{}, worlds: map[string]bool{}}
	var stack []string
	for i, line := range strings.Split(text, "\n") {
		s := strings.TrimSpace(line)
		fail := func(why string) error { return fmt.Errorf("line %d: %s: %q", i+1, why, line) }
		if s == "" || strings.HasPrefix(s, "///") || strings.HasPrefix(s, "@unstable(feature = ") {
			continue
		}
		if want := strings.Repeat("  ", len(stack)); s != "}" && line != want+s {
			return nil, fail("not indented by its depth")
		}
		if m := packageLine.FindStringSubmatch(s); m != nil {
			f.pkg = m[1]
			continue
		}
		if m := blockLine.FindStringSubmatch(s); m != nil && len(stack) == 0 {
			if m[1] == "world" {
				f.worlds[m[2]] = true
				stack = append(stack, "")
			} else {
				f.interfaces[m[2]] = []string{}
				stack = append(stack, m[2])
			}
			continue
		}
		if len(stack) == 0 {
			return nil, fail("not in an interface or world")
		}
		declare := func(n string) { f.interfaces[stack[0]] = append(f.interfaces[stack[0]], n) }
		switch m := useLine.FindStringSubmatch(s); {
		case s == "}":
			stack = stack[:len(stack)-1]
		case m != nil:
			n := need{line: i + 1, ref: m[1]}
			for name := range strings.SplitSeq(m[2], ", ") {
				from, as, renamed := strings.Cut(name, " as ")
				if !renamed {
					as = from
				}
				n.names = append(n.names, from)
				if stack[0] != "" {
					declare(as)
				}
			}
			f.needs = append(f.needs, n)
		case refLine.MatchString(s):
			m := refLine.FindStringSubmatch(s)
			f.needs = append(f.needs, need{line: i + 1, world: m[1] == "include", ref: m[2]})
		case typeLine.MatchString(s) && len(stack) == 1:
			declare(typeLine.FindStringSubmatch(s)[1])
			if strings.HasSuffix(s, "{") {
				stack = append(stack, "body")
			} else if !strings.HasSuffix(s, ";") {
				return nil, fail("no semicolon")
			}
		case funcLine.MatchString(s), strings.HasPrefix(s, "constructor(") && strings.HasSuffix(s, ");"):
		case len(stack) == 2 && strings.HasSuffix(s, ",") && !strings.HasSuffix(s, ",,"): // a field or a case
		default:
			return nil, fail("not understood")
		}
	}
	if f.pkg == "" || len(stack) != 0 {
		return nil, fmt.Errorf("no package line, or a block left open")
	}
	return f, nil
}

// resolve every reference of every file within the tree.
func resolve(tree fs.FS) (map[string]*file, error) {
	packages := map[string]*file{}
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(p) != ".wit" {
			return err
		}
		b, err := fs.ReadFile(tree, p)
		if err != nil {
			return err
		}
		f, err := parse(string(b))
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if dir := path.Base(path.Dir(p)); dir != "." && !strings.HasSuffix(f.pkg, ":"+dir) {
			return fmt.Errorf("%s: holds package %s", p, f.pkg)
		}
		if packages[f.pkg] != nil {
			return fmt.Errorf("%s: package %s again", p, f.pkg)
		}
		packages[f.pkg] = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		for _, n := range packages[name].needs {
			in, item := packages[name], n.ref
			if ns, rest, ok := strings.Cut(n.ref, "/"); ok {
				it, version, _ := strings.Cut(rest, "@")
				item = it
				if in = packages[ns+"@"+version]; in == nil {
					return nil, fmt.Errorf("%s: line %d: no package for %s", name, n.line, n.ref)
				}
			}
			names, isInterface := in.interfaces[item]
			if n.world && !in.worlds[item] || !n.world && !isInterface {
				return nil, fmt.Errorf("%s: line %d: nothing is called %s", name, n.line, n.ref)
			}
			for _, want := range n.names {
				if !slices.Contains(names, want) {
					return nil, fmt.Errorf("%s: line %d: %s has no type %s", name, n.line, n.ref, want)
				}
			}
		}
	}
	return packages, nil
}

func TestEveryReferenceResolvesWithinTheTree(t *testing.T) {
	packages, err := resolve(FS())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{
		"dunlin:handler@0.1.0", "dunlin:timer@0.1.0",
		"wasi:io@0.2.12", "wasi:clocks@0.2.12", "wasi:random@0.2.12", "wasi:cli@0.2.12", "wasi:filesystem@0.2.12",
		"wasi:sockets@0.2.12", "wasi:http@0.2.12",
		"wasi:keyvalue@0.2.0-draft", "wasi:keyvalue@0.2.0-draft2", "wasi:messaging@0.2.0-draft",
		"wasi:config@0.2.0-draft", "wasi:config@0.2.0-draft-2024-09-27", "wasi:config@0.2.0-rc.1",
		"wasi:logging@0.1.0-draft", "spin:mqtt-trigger", "fermyon:spin-cron@2.0.0", "fermyon:spin@2.0.0", "wasi:blobstore@0.2.0-draft",
	} {
		if packages[p] == nil {
			t.Errorf("package %s is missing", p)
		}
	}
}

// The three names of wasi:config, and both of keyvalue's batch, have one body each; a difference would be a slip.
func TestVersionsOfOneInterfaceAgree(t *testing.T) {
	body := func(dir string) string {
		b, err := fs.ReadFile(FS(), "deps/"+dir+"/config.wit")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "package ")
		_, rest, _ = strings.Cut(rest, "\n")
		return rest
	}
	want := body("config@0.2.0-rc.1")
	for _, dir := range []string{"config@0.2.0-draft", "config@0.2.0-draft-2024-09-27"} {
		if body(dir) != want {
			t.Errorf("%s differs from config@0.2.0-rc.1", dir)
		}
	}
}

func TestABrokenTreeIsRefused(t *testing.T) {
	const pkg = "package a:b@1.0.0;\n"
	for name, tt := range map[string]struct{ text, want string }{
		"unknown interface":  {pkg + "world w {\n  import nothing;\n}\n", "nothing is called nothing"},
		"unknown package":    {pkg + "world w {\n  import c:d/e@1.0.0;\n}\n", "no package for c:d/e@1.0.0"},
		"unknown type":       {pkg + "interface i {\n  type t = u8;\n}\ninterface j {\n  use i.{u};\n}\n", "has no type u"},
		"world as interface": {pkg + "world v {\n}\nworld w {\n  import v;\n}\n", "nothing is called v"},
		"no semicolon":       {pkg + "interface i {\n  f: func()\n}\n", "not understood"},
		"double comma":       {pkg + "interface i {\n  enum e {\n    a,,\n  }\n}\n", "not understood"},
		"left open":          {pkg + "interface i {\n", "left open"},
		"no package":         {"interface i {\n}\n", "no package line"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := resolve(treeOf(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func treeOf(text string) fs.FS { return fstest.MapFS{"x.wit": {Data: []byte(text)}} }
