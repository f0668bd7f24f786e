package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func moduleDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/bytecodealliance/wasmtime-go/v44").Output()
	if err != nil {
		t.Fatalf("find wasmtime-go: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// compileABI compiles abi.c, or a changed copy of our header in its place.
func compileABI(t *testing.T, dir string) (string, error) {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	out, err := exec.Command(cc, "-std=c11", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused",
		"-I", filepath.Join(moduleDir(t), "build", "include"), filepath.Join(dir, "testdata", "abi.c")).CombinedOutput()
	return string(out), err
}

func TestDeclarationsMatchTheRealHeaders(t *testing.T) {
	if out, err := compileABI(t, "."); err != nil {
		t.Fatalf("our header and wasmtime's differ: %v\n%s", err, out)
	}
}

func TestAChangedDeclarationIsNoticed(t *testing.T) {
	header, err := os.ReadFile("wasmtime.h")
	if err != nil {
		t.Fatal(err)
	}
	abi, err := os.ReadFile("testdata/abi.c")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"constant":  {"#define WASMTIME_COMPONENT_LIST 13", "#define WASMTIME_COMPONENT_LIST 14"},
		"layout":    {"struct dw_val { uint8_t kind;", "struct dw_val { uint8_t kind; uint64_t extra;"},
		"prototype": {"wasmtime_store_limiter(wasmtime_store_t *, int64_t,", "wasmtime_store_limiter(wasmtime_store_t *, int32_t,"},
		"field":     {"uint64_t store_id; uint32_t private1; };", "uint32_t private1; uint64_t store_id; };"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(header), change[0], change[1], 1)
			if changed == string(header) {
				t.Fatal("the change found nothing to change")
			}
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "testdata"), 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range map[string]string{"wasmtime.h": changed, "testdata/abi.c": string(abi)} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := compileABI(t, dir); err == nil {
				t.Fatalf("it compiled:\n%s", out)
			}
		})
	}
}

func TestVersionIsTheLinkedLibrarys(t *testing.T) {
	header, err := os.ReadFile(filepath.Join(moduleDir(t), "build", "include", "wasmtime.h"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(header), "#define WASMTIME_VERSION \"")
	real, _, _ := strings.Cut(rest, "\"")
	source, err := os.ReadFile("engine.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(source), "const version = \""+real+"\"\n") {
		t.Fatalf("the library is %q, which engine.go doesn't say", real)
	}
}
