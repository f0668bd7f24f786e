package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/test/guests"
)

const localManifest = `dunlin_manifest_version = 1
application = { name = "NAME", version = "VERSION" }
trigger.http = [{ route = "ROUTE", component = "c" }]
component.c = { source = "c.wasm" }
`

func TestWhatChangesOnTheLaptopRunsAnewAndAFaultChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "dunlin.toml")
	manifest := func(name, version, route string) []byte {
		return []byte(strings.NewReplacer("NAME", name, "VERSION", version, "ROUTE", route).Replace(localManifest))
	}
	write := func(name string, b []byte) { must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600)) }
	write("c.wasm", hello1)
	write("dunlin.toml", manifest("trial", "1.0.0", "/..."))

	b := &board{t: t, cfg: Config{State: filepath.Join(dir, "state"), Listen: "127.0.0.1:0", Bus: Bus{Listen: off}}}
	b.seedCode()
	type change struct {
		version string
		err     error
	}
	started, changes := make(chan *Agent, 1), make(chan change, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- RunLocal(ctx, b.cfg, path, slog.New(slog.DiscardHandler), func(a *Agent) { started <- a }, func(v string, err error) { changes <- change{v, err} })
	}()
	select {
	case b.agent = <-started:
	case err := <-done:
		t.Fatalf("it does not start: %v", err)
	}
	b.http, _ = b.agent.Addresses()
	b.serves("trial 1.0.0")
	next := func(version, fault string) {
		t.Helper()
		select {
		case c := <-changes:
			if c.version != version || (c.err == nil) != (fault == "") || c.err != nil && !strings.Contains(c.err.Error(), fault) {
				t.Fatalf("told %q, %v; want %q, %q", c.version, c.err, version, fault)
			}
		case <-time.After(patience):
			t.Fatal("a change is not noticed")
		}
	}
	write("dunlin.toml", manifest("trial", "1.1.0", "/..."))
	next("1.1.0", "")
	b.serves("trial 1.1.0")

	write("dunlin.toml", []byte("dunlin_manifest_version = 1\nhello = 1\n"))
	next("1.1.0", "dunlin.toml:2:1: ")
	write("c.wasm", guests.CoreModule) // not looked at while nothing names it
	write("dunlin.toml", manifest("trial", "1.2.0", "/..."))
	next("1.1.0", "this is a core WebAssembly module, not a component")
	b.serves("trial 1.1.0")
	// Editors and compilers replace files.
	write("c.wasm.new", hello2)
	must(t, os.Rename(filepath.Join(dir, "c.wasm.new"), filepath.Join(dir, "c.wasm")))
	next("1.2.0", "")
	b.serves("trial 1.2.0")
	blobs, err := b.agent.store.Blobs()
	must(t, err)
	if len(blobs) != 1 {
		t.Errorf("%d components are kept, want what runs", len(blobs))
	}

	must(t, os.Remove(filepath.Join(dir, "c.wasm")))
	next("1.2.0", "c.wasm: no such file")
	write("c.wasm", hello1)
	next("1.2.0", "")
	write("dunlin.toml", manifest("renamed", "0.1.0", "/"))
	next("0.1.0", "")
	b.serves("renamed 0.1.0")

	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopping gives %v", err)
	}
}

func TestTheLocalRuntimeRefusesWhatItCantRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "dunlin.toml")
	cfg := Config{State: filepath.Join(dir, "state"), Listen: off, Bus: Bus{Listen: off}}
	run := func(cfg Config) error {
		return RunLocal(t.Context(), cfg, path, slog.New(slog.DiscardHandler), func(*Agent) { t.Error("it starts") }, nil)
	}
	if err := run(cfg); err == nil || !strings.Contains(err.Error(), "read manifest: open "+path) {
		t.Errorf("without a manifest: %v", err)
	}
	withFleet := cfg
	withFleet.Fleet = &Fleet{Name: "farm"}
	if err := run(withFleet); err == nil || !strings.Contains(err.Error(), "the config names a fleet") {
		t.Errorf("with a fleet: %v", err)
	}
	must(t, os.WriteFile(path, []byte(strings.NewReplacer("NAME", "trial", "VERSION", "1.0.0", "ROUTE", "/").Replace(localManifest)+
		"[[trigger.mqtt]]\ntopic = \"a\"\ncomponent = \"c\"\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "c.wasm"), counter, 0o600))
	if err := run(cfg); err == nil || !strings.Contains(err.Error(), "wasi:keyvalue") {
		t.Errorf("without its grants: %v", err)
	}
}

func TestABodyMayBeAsLargeAsItsManifestSays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := &board{t: t, cfg: Config{State: filepath.Join(dir, "state"), Listen: "127.0.0.1:0", Bus: Bus{Listen: off}}}
	b.seedCode()
	path := filepath.Join(dir, "dunlin.toml")
	text := strings.NewReplacer("NAME", "trial", "VERSION", "1.0.0", "ROUTE", "/...").Replace(localManifest)
	must(t, os.WriteFile(path, []byte(strings.Replace(text, `"c.wasm" }`, `"c.wasm", limits = { payload = "20MiB", time = "60s", cpu = "60s" } }`, 1)), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "c.wasm"), hello1, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan *Agent, 1), make(chan error, 1)
	go func() {
		done <- RunLocal(ctx, b.cfg, path, slog.New(slog.DiscardHandler), func(a *Agent) { started <- a }, nil)
	}()
	select {
	case b.agent = <-started:
	case err := <-done:
		t.Fatalf("it does not start: %v", err)
	}
	b.http, _ = b.agent.Addresses()
	b.serves("trial 1.0.0")
	for _, c := range []struct{ bytes, status int }{{17 << 20, http.StatusOK}, {21 << 20, http.StatusRequestEntityTooLarge}} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.http+"/echo", bytes.NewReader(make([]byte, c.bytes)))
		must(t, err)
		req.Header.Set("Expect", "100-continue") // so that a refusal is read, and not the end of a connection that it didn't write whole
		resp, err := (&http.Transport{ExpectContinueTimeout: patience, DisableKeepAlives: true}).RoundTrip(req)
		must(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
		if resp.StatusCode != c.status || c.status == http.StatusOK && n != int64(c.bytes) {
			t.Errorf("%d bytes: %s, %d came back", c.bytes, resp.Status, n)
		}
	}
	cancel()
	must(t, <-done)
}
