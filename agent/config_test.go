package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

func TestFaultsOfAConfigAreNamed(t *testing.T) {
	const fleet = "[fleet]\nname = 'farm'\nurl = 'mqtt://fleet'\nroot = 'root.json'\ntoken_file = 'token'\n"
	for _, c := range []struct{ config, says string }{
		{"state = 'x'\n\n[bus]\n  port = 3\n", "agent.toml:4:3: unknown key \"bus.port\""},
		{"stat = 'x'\nlisten = ':80'\nlabls = {}\n", "agent.toml:3:1: unknown key \"labls\""},
		{"state = [\n", "agent.toml:1:"},
		{"listen = 8080\n", "agent.toml:1:"},
		{"listen = '8080'\n", `listen is "8080", want host:port, :port or "off"`},
		{"[bus]\nlisten = 'here'\n", `bus.listen is "here"`},
		{"[bus]\nlisten = ':1883'\nurl = 'mqtt://there'\n", "bus.listen and bus.url exclude each other"},
		{"[bus]\nurl = 'http://there'\n", `bus.url is "http://there", want mqtt://host[:port]`},
		{"[bus]\nurl = 'ftp://me:secret@there'\n", `bus.url is "ftp://me:xxxxx@there"`},
		{"[labels]\n'Room A' = 'x'\n", `label name "Room A"`},
		{"[labels]\nroom = '" + strings.Repeat("x", wire.MaxLabelBytes+1) + "'\n", "label room is"},
		{strings.Replace(fleet, "'farm'", "'The Farm'", 1), `fleet name "The Farm"`},
		{fleet + "device = 'Hut 1'\n", `device name "Hut 1"`},
		{strings.Replace(fleet, "url = 'mqtt://fleet'\n", "", 1), "fleet.url is not set"},
		{strings.Replace(fleet, "token_file = 'token'\n", "", 1), "fleet.token_file is not set"},
		{strings.Replace(fleet, "mqtt://fleet", "fleet:1883", 1), "fleet.url is"},
		{"keep_removed = '30 days'\n", `keep_removed is "30 days", want a duration as in "720h", or "forever"`},
		{"keep_removed = '-1h'\n", `keep_removed is "-1h"`},
		{fleet + "requests = 'some'\n", `fleet.requests is "some", want "all", "read" or "off"`},
	} {
		path := filepath.Join(t.TempDir(), "agent.toml")
		must(t, os.WriteFile(path, []byte(c.config), 0o600))
		if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v, want %q", c.config, err, c.says)
		}
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "agent.toml")); err == nil || !strings.Contains(err.Error(), "agent.toml: no such file") {
		t.Errorf("of no file: %v", err)
	}
}

func TestAConfigThatSaysNothingHasDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.toml")
	must(t, os.WriteFile(path, []byte("[fleet]\nname = 'farm'\nurl = 'mqtt://fleet'\nroot = 'root.json'\ntoken_file = 'token'\n"), 0o600))
	c, err := LoadConfig(path)
	must(t, err)
	if c.State != "/var/lib/dunlin" || c.Listen != ":8080" || c.Bus.Listen != "127.0.0.1:1883" || c.Fleet.Device == "" {
		t.Errorf("got %+v, %+v", c, *c.Fleet)
	}
}

// What no config file tells: the files and the state that it names.
func TestAnAgentThatCantBeginSaysWhy(t *testing.T) {
	f := newFleet(t)
	good := func(t *testing.T) Config {
		dir := t.TempDir()
		f.write(dir)
		return Config{State: filepath.Join(dir, "state"), Listen: off, Bus: Bus{Listen: off},
			Fleet: &Fleet{Name: f.name, Device: f.device, URL: f.url(), Root: filepath.Join(dir, "root.json"), TokenFile: filepath.Join(dir, "token")}}
	}
	for _, c := range []struct {
		name, says string
		spoil      func(*testing.T, *Config)
	}{
		{"no token", "read join token: open ", func(t *testing.T, c *Config) { must(t, os.Remove(c.Fleet.TokenFile)) }},
		{"empty token", "is empty", func(t *testing.T, c *Config) { must(t, os.WriteFile(c.Fleet.TokenFile, []byte(" \n"), 0o600)) }},
		{"no root", "dunlin keys init", func(t *testing.T, c *Config) { must(t, os.Remove(c.Fleet.Root)) }},
		{"garbage for a root", "root.json: verify root: malformed", func(t *testing.T, c *Config) { must(t, os.WriteFile(c.Fleet.Root, []byte("{}"), 0o600)) }},
		{"root of another fleet", `is of fleet "farm", the config says "ranch"`, func(_ *testing.T, c *Config) { c.Fleet.Name = "ranch" }},
		{"state of another fleet", "for another fleet", func(t *testing.T, c *Config) {
			a, err := New(*c, slog.New(slog.DiscardHandler))
			must(t, err)
			v, err := a.manager.guard.verifier(time.Now())
			must(t, err)
			must(t, a.manager.guard.save(v.State(), nil))
			a.Close()
			other := newFleet(t)
			other.name = "ranch"
			other.reroot()
			c.Fleet.Name = "ranch"
			other.write(filepath.Dir(c.Fleet.Root))
		}},
		{"state in use", "in use by process", func(t *testing.T, c *Config) {
			a, err := New(*c, slog.New(slog.DiscardHandler))
			must(t, err)
			t.Cleanup(a.Close)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good(t)
			c.spoil(t, &cfg)
			a, err := New(cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				a.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestAReportAlwaysFitsAMessage(t *testing.T) {
	r := wire.Reported{Session: "s1", Sequence: 1, At: time.Now().UTC(), Clock: wire.ClockSynced, Refused: &wire.Refusal{Generation: 3, Reason: "no"}}
	small := r
	small.Triggers = []wire.TriggerReport{{Application: "a", ID: "b", Status: wire.TriggerServing}}
	if got := fit(small); len(got.Triggers) != 1 {
		t.Errorf("a report that fits is cut: %+v", got)
	}
	for i := range wire.MaxReleases {
		app := fmt.Sprintf("application-%d", i)
		r.Apps = append(r.Apps, wire.AppReport{Application: app, Version: "1.0.0", Phase: wire.PhaseFailed, Error: strings.Repeat("\x01", wire.MaxErrorBytes)})
		for k := range wire.MaxTriggers {
			r.Triggers = append(r.Triggers, wire.TriggerReport{Application: app, ID: fmt.Sprint("t", k), Status: wire.TriggerServing})
		}
		r.Triggers = append(r.Triggers, wire.TriggerReport{Application: app, ID: "away", Status: wire.TriggerDegraded, Detail: "away"})
	}
	r.Triggers = r.Triggers[:wire.MaxReleases*wire.MaxTriggers]
	got := fit(r)
	if _, err := wire.MarshalReported(got); err != nil {
		t.Fatal(err)
	}
	if len(got.Apps) != wire.MaxReleases || got.Refused == nil {
		t.Errorf("%d applications are left, refused %v", len(got.Apps), got.Refused)
	}
	if got.Apps[0].Error == "" || len(r.Apps[0].Error) != wire.MaxErrorBytes {
		t.Error("the errors are gone, or those of the caller were cut")
	}
	for i := range r.Apps {
		r.Apps[i].Error = ""
	}
	degraded := 0
	for _, tr := range fit(r).Triggers {
		if tr.Status == wire.TriggerDegraded {
			degraded++
		}
	}
	if degraded < wire.MaxReleases-1 {
		t.Errorf("%d of the triggers that don't serve are left", degraded)
	}
}

// Whatever a file holds, it is a config or an error that names the file or the key.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("state = 'x'\nlisten = ':80'\n[bus]\nurl = 'mqtt://there'\n[labels]\nroom = 'a'\n"))
	f.Add([]byte("[fleet]\nname = 'farm'\nurl = 'mqtt://fleet'\nroot = 'root.json'\ntoken_file = 'token'\n"))
	f.Add([]byte("a = [[[[[["))
	path := filepath.Join(f.TempDir(), "agent.toml")
	f.Fuzz(func(t *testing.T, b []byte) {
		must(t, os.WriteFile(path, b, 0o600))
		cfg, err := LoadConfig(path)
		if err != nil && !strings.Contains(err.Error(), "config: ") {
			t.Errorf("%q: %v", b, err)
		}
		if err == nil && (cfg.State == "" || cfg.Listen == "") {
			t.Errorf("%q: %+v lacks what has a default", b, cfg)
		}
	})
}
