package need

import (
	"os"
	"path/filepath"
	"syscall"
)

// seeds maps the JS handlers of test/guests/seed-js to the variables that name their components where those are built already.
var seeds = map[string]string{
	"seed":         "DUNLIN_SEED_JS",
	"seed-changed": "DUNLIN_SEED_JS_CHANGED",
}

// SeedJS returns the path of the component of a JS handler: of "seed", or of "seed-changed", the same with its one line
// changed. Unless a variable names it, it is built into .tools, once: the first time takes about a minute and what npm
// fetches. A test for which that fails is skipped with a line, as by Tool.
func SeedJS(t Skipper, name, untested string) string {
	variable, ok := seeds[name]
	if !ok {
		t.Fatal("need the JS handler " + name + ": test/guests has none of that name")
	}
	if path := os.Getenv(variable); path != "" {
		return path
	}
	if Tool(t, "node", untested) == "" || Tool(t, "npm", untested) == "" {
		return ""
	}
	dir := filepath.Join(Root(), ".tools", "seed-js")
	if err := locked(dir, func() error { return Make("seed-js") }); err != nil {
		Absent(t, "JS handler (make seed-js says why): "+untested)
		return ""
	}
	return filepath.Join(dir, name+".wasm")
}

// locked runs do while no other process does so in dir: the tests of two packages may want the same at one time.
func locked(dir string, do func() error) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	return do()
}
