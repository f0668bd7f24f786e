package host

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// witFunc is one function of a WIT text: its name as components import it, and how many parameters it has with its self.
type witFunc struct {
	name   string
	params []string
}

var (
	witComment   = regexp.MustCompile(`//[^\n]*|@\w+\([^)]*\)`)
	witPackage   = regexp.MustCompile(`package\s+([\w:-]+)(@[\w.-]+)?;`)
	witInterface = regexp.MustCompile(`(?s)interface\s+%?([\w-]+)\s*\{`)
	witResource  = regexp.MustCompile(`(?s)^resource\s+%?([\w-]+)\s*(\{|;)`)
	witFuncText  = regexp.MustCompile(`(?s)^(?:%?([\w-]+)\s*:\s*(static\s+)?func|(constructor))\s*\(`)
)

// block is the text up to the brace that closes it, without it.
func block(text string, open, close byte) string {
	depth := 1
	for i := range len(text) {
		switch text[i] {
		case open:
			depth++
		case close:
			if depth--; depth == 0 {
				return text[:i]
			}
		}
	}
	return text
}

// witFuncs of an interface's or a resource's body. WIT's grammar in so far as these texts use it.
func witFuncs(body, resource string) (funcs []witFunc, resources []string) {
	for i := 0; i < len(body); {
		rest := strings.TrimLeft(body[i:], " \t\n")
		i = len(body) - len(rest)
		if m := witResource.FindStringSubmatch(rest); m != nil && resource == "" {
			resources = append(resources, m[1])
			i += len(m[0])
			if m[2] == "{" {
				inner := block(body[i:], '{', '}')
				f, _ := witFuncs(inner, m[1])
				funcs = append(funcs, f...)
				i += len(inner) + 1
			}
			continue
		}
		if m := witFuncText.FindStringSubmatch(rest); m != nil {
			i += len(m[0])
			params := block(body[i:], '(', ')')
			i += len(params) + 1
			var types []string
			for _, p := range regexp.MustCompile(`%?[\w-]+\s*:\s*([\w-]+)`).FindAllStringSubmatch(params, -1) {
				types = append(types, p[1])
			}
			name := m[1]
			switch {
			case m[3] != "":
				name = "[constructor]" + resource
			case resource != "" && m[2] != "":
				name = "[static]" + resource + "." + name
			case resource != "":
				name = "[method]" + resource + "." + name
				types = append([]string{"borrow"}, types...)
			}
			funcs = append(funcs, witFunc{name, types})
		} else if j := strings.IndexAny(rest, ";{},"); j >= 0 {
			i += j + 1
			continue
		} else {
			break
		}
	}
	return funcs, resources
}

// kinds that a WIT type may be; names that are not here are records, variants and so on, which may be any of those.
var witKinds = map[string]engine.Kind{
	"borrow": kHandle, "string": kString, "u64": kU64, "u32": kU32, "u16": kU16, "u8": kU8, "s64": kS64, "bool": kBool,
	"option": kOption, "result": kResult, "filesize": kU64, "duration": kU64, "instant": kU64, "field-name": kString, "topic": kString,
	"container-name": kString, "object-name": kString, "object-id": kRecord,
}

// Every function and resource of every standard interface is there, with the parameters of its text.
func TestInterfacesHaveAllOfTheirTexts(t *testing.T) {
	have := provided(interfaces())
	files, err := filepath.Glob("../../../wit/deps/*/*.wit")
	if err != nil || len(files) == 0 {
		t.Fatal("no WIT texts found", err)
	}
	checked := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := witComment.ReplaceAllString(string(b), "")
		pkg := witPackage.FindStringSubmatch(text)
		for _, at := range witInterface.FindAllStringSubmatchIndex(text, -1) {
			name := pkg[1] + "/" + text[at[2]:at[3]] + pkg[2]
			funcs, resources := witFuncs(block(text[at[1]:], '{', '}'), "")
			switch text[at[2]:at[3]] {
			case "incoming-handler", "handler", "run", "watcher": // a component's, not the host's
				continue
			}
			i, ok := have[name]
			if !ok {
				t.Errorf("%s is not provided", name)
				continue
			}
			for _, r := range resources {
				if _, ok := i.resources[r]; !ok {
					t.Errorf("%s has no resource %s", name, r)
				}
			}
			if len(i.funcs) != len(funcs) {
				t.Errorf("%s has %d functions, its text %d", name, len(i.funcs), len(funcs))
			}
			for _, want := range funcs {
				checked++
				got, ok := i.funcs[want.name]
				if !ok {
					t.Errorf("%s has no %s", name, want.name)
					continue
				}
				if len(got.params) != len(want.params) {
					t.Errorf("%s %s has %d parameters, its text %v", name, want.name, len(got.params), want.params)
					continue
				}
				for n, p := range want.params {
					if k, ok := witKinds[p]; ok && k != got.params[n] {
						t.Errorf("%s %s: parameter %d has kind %d, its text says %s", name, want.name, n+1, got.params[n], p)
					}
					if p == "list" && got.params[n] != kList && got.params[n] != kBytes {
						t.Errorf("%s %s: parameter %d has kind %d, its text says list", name, want.name, n+1, got.params[n])
					}
				}
			}
		}
	}
	if checked < 200 {
		t.Errorf("only %d functions were compared", checked)
	}
}
