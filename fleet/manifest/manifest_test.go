package manifest

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

const greenhouse = `dunlin_manifest_version = 1
[application]
name = "greenhouse"
version = "1.4.0"
floor = "1.2.0"

[[trigger.http]]
route = "/climate/..."
component = "climate"
[[trigger.mqtt]]
topic = "tele/+/SENSOR"
component = "climate"
[[trigger.mqtt]]
id = "raw"
topic = "raw/#"
qos = 0
component = "climate"
[[trigger.timer]]
every = "30s"
component = "climate"
[[trigger.timer]]
cron = "0 6 * * *"
timezone = "Europe/Berlin"
missed = "once"
overlap = "queue"
component = "climate"

[component.climate]
source = "climate.wasm"
allowed_outbound_hosts = ["https://api.example.com"]
key_value_stores = ["default"]
publish = ["alerts/#", "uplink:alerts/#"]
variables = { threshold = "28" }
limits = { memory = "32MiB", time = "500ms" }
deferred_outbound_hosts = ["https://*.example.com"]
[[uplink]]
topic = "alerts/#"
priority = "high"
when_full = "reject"
[[uplink]]
topic = "#"
priority = "low"
bytes = "4MiB"
age = "168h"
`

func TestManifestResolvesToRelease(t *testing.T) {
	m, err := Parse("dunlin.toml", []byte(greenhouse))
	if err != nil {
		t.Fatal(err)
	}
	blob := Blob{Digest: wire.Sum([]byte("wasm")), Size: 4}
	r, err := m.Resolve(map[string]Blob{"climate": blob})
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.MarshalRelease(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ParseRelease(b); err != nil {
		t.Fatal(err)
	}
	want := `{"format":1,"application":"greenhouse","version":"1.4.0","floor":"1.2.0","components":{"climate":{"digest":"` + blob.Digest.String() +
		`","size":4,"outbound":["https://api.example.com"],"deferred":["https://*.example.com"],"key_value":["default"],"publish":["alerts/#","uplink:alerts/#"],"variables":{"threshold":"28"},` +
		`"limits":{"memory":33554432,"time":"500ms","payload":1048576,"concurrency":4,"cpu":"5s","queue":256,"log_lines":50,"key_value":16777216,"requests":64,"files":16777216}}},"triggers":{"http":[{"id":"climate.http","route":"/climate/...","component":"climate"}],` +
		`"mqtt":[{"id":"climate.mqtt","topic":"tele/+/SENSOR","qos":1,"component":"climate"},{"id":"raw","topic":"raw/#","qos":0,"component":"climate"}],` +
		`"timer":[{"id":"climate.timer","every":"30s","missed":"skip","overlap":"skip","component":"climate"},` +
		`{"id":"climate.timer.2","cron":"0 6 * * *","timezone":"Europe/Berlin","missed":"once","overlap":"queue","component":"climate"}]},` +
		`"uplinks":[{"topic":"alerts/#","priority":"high","reject":true},{"topic":"#","priority":"low","bytes":4194304,"age":"168h0m0s"}]}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if _, err := m.Resolve(map[string]Blob{"climate": blob, "other": blob}); err == nil {
		t.Error("a blob that no component asks for passes")
	}
	if _, err := m.Resolve(nil); err == nil || !strings.Contains(err.Error(), `"climate"`) {
		t.Errorf("missing blob: %v", err)
	}
}

// Handlers are told these ids, and reports name them.
func TestEveryTriggerHasTheIDThatIsGivenOrOneOfItsOwn(t *testing.T) {
	m, err := Parse("dunlin.toml", []byte(`dunlin_manifest_version = 1
application = { name = "ids", version = "1.0.0" }
component.c = { source = "c.wasm" }
[[trigger.http]]
route = "/a"
component = "c"
[[trigger.http]]
id = "page"
route = "/b"
component = "c"
[[trigger.mqtt]]
topic = "a"
component = "c"
[[trigger.mqtt]]
id = "c.timer"
topic = "b"
component = "c"
[[trigger.timer]]
every = "1s"
component = "c"
[[trigger.timer]]
id = "nightly"
every = "1s"
component = "c"
[[trigger.timer]]
every = "1s"
component = "c"
`))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, h := range m.Triggers.HTTP {
		ids = append(ids, h.ID)
	}
	for _, q := range m.Triggers.MQTT {
		ids = append(ids, q.ID)
	}
	for _, c := range m.Triggers.Timer {
		ids = append(ids, c.ID)
	}
	if got, want := strings.Join(ids, " "), "c.http page c.mqtt c.timer c.timer.2 nightly c.timer.3"; got != want {
		t.Errorf("ids %s, want %s", got, want)
	}
}

// Each case changes one line of the good manifest; the fault must be the only one, and at the place of the change.
func TestFaultsNameTheirPlaceAndTheWayOut(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown key", `topic = "tele/+/SENSOR"`, "topic = \"tele/+/SENSOR\"\ntpoic = \"x\"", `12:1: unknown key "tpoic" in [[trigger.mqtt]]: did you mean "topic"?`},
		{"unknown limit", `time = "500ms"`, `tmie = "500ms"`, `34:30: unknown key "tmie" in [component.climate] limits: did you mean "time"?`},
		{"unknown table", "[application]", "[applications]\n[application]", `2:2: unknown key "applications" in the manifest: did you mean "application"?`},
		{"unknown trigger", "[[trigger.http]]", "[[trigger.redis]]\nchannel = \"x\"\n[[trigger.http]]", `7:11: unknown key "redis" in [trigger]: possible are http, mqtt, timer`},
		{"duplicate route", "[[trigger.mqtt]]\ntopic", "[[trigger.http]]\nroute = \"/climate/...\"\ncomponent = \"climate\"\n[[trigger.mqtt]]\ntopic", `11:9: duplicate route "/climate/...": "/climate/..." matches the same`},
		{"route under other names", "[[trigger.mqtt]]\ntopic", "[[trigger.http]]\nroute = \"/r/:a\"\ncomponent = \"climate\"\n[[trigger.http]]\nroute = \"/r/:b/\"\ncomponent = \"climate\"\n[[trigger.mqtt]]\ntopic", `14:9: duplicate route "/r/:b/": "/r/:a" matches the same`},
		{"route without slash", `"/climate/..."`, `"climate"`, `8:9: route "climate" does not start with /`},
		{"bad filter", `"tele/+/SENSOR"`, `"tele/#/SENSOR"`, `11:9: topic filter "tele/#/SENSOR": # is only possible at the end`},
		{"half wildcard", `"tele/+/SENSOR"`, `"tele/x+/SENSOR"`, `11:9: topic filter "tele/x+/SENSOR": + must be a level by itself, as in "sensors/+/temperature"`},
		{"duplicate topic", `"raw/#"`, `"tele/+/SENSOR"`, `15:9: duplicate topic "tele/+/SENSOR" for component "climate"`},
		{"bad qos", "qos = 0", "qos = 3", `16:7: qos in [[trigger.mqtt]]: want a whole number from 0 to 2`},
		{"bad cron", `"0 6 * * *"`, `"0 25 * * *"`, `22:8: cron line "0 25 * * *": `},
		{"cron that never comes", `"0 6 * * *"`, `"0 6 30 2 *"`, `22:8: cron line "0 6 30 2 *": there is no such date`},
		{"cron descriptor", `"0 6 * * *"`, `"@daily"`, `22:8: cron line "@daily": write the five fields, as in "0 6 * * *", or use every`},
		{"bad zone", `"Europe/Berlin"`, `"Europe/Berln"`, `23:12: time zone "Europe/Berln" is not known: want an IANA name, as in "Europe/Berlin"`},
		{"local zone", `"Europe/Berlin"`, `"Local"`, `23:12: time zone "Local": want an IANA name, as in "Europe/Berlin"`},
		{"zone of an interval", `every = "30s"`, "every = \"30s\"\ntimezone = \"UTC\"", `20:1: timezone in [[trigger.timer]] goes with cron, not with every`},
		{"both schedules", `every = "30s"`, "every = \"30s\"\ncron = \"* * * * *\"", `20:1: [[trigger.timer]] has both every and cron`},
		{"no schedule", `every = "30s"`, "", `18:11: [[trigger.timer]] has neither every nor cron`},
		{"bad duration", `every = "30s"`, `every = "30 seconds"`, `19:9: every in [[trigger.timer]] is "30 seconds", want a duration as in "500ms", "30s" or "1h30m"`},
		{"interval too short", `every = "30s"`, `every = "1ms"`, `19:9: every in [[trigger.timer]] is 1ms, want 100ms to 8784h0m0s`},
		{"bad policy", `"once"`, `"onec"`, `24:10: missed in [[trigger.timer]] is "onec": did you mean "once"?`},
		{"unknown component", "route = \"/climate/...\"\ncomponent = \"climate\"", "route = \"/climate/...\"\ncomponent = \"climte\"", `9:13: component "climte" is not in the manifest: did you mean "climate"?`},
		{"unused component", "[component.climate]", "[component.spare]\nsource = \"s.wasm\"\n[component.climate]", `28:12: no trigger names the component "spare": it would never run`},
		{"no source", `source = "climate.wasm"`, "", `28:12: [component.climate] has no source`},
		{"version", `"1.4.0"`, `"1.4"`, `4:11: version "1.4" is not a semantic version: want MAJOR.MINOR.PATCH, for example 1.4.0 or 2.0.0-rc.1`},
		{"floor above version", `"1.2.0"`, `"1.5.0"`, `5:9: floor 1.5.0 is above version 1.4.0: boards would refuse this very release`},
		{"application name", `"greenhouse"`, `"Green House"`, `3:8: application name "Green House": use lower-case letters, digits, dots, - and _`},
		{"number for a string", `threshold = "28"`, `threshold = 28`, `33:27: threshold in [component.climate] variables is a number, want the string "28"`},
		{"bad size", `"32MiB"`, `"32M"`, `34:21: memory in [component.climate] limits: size "32M": want a whole number and a unit, as in "64KiB", "32MiB" or "1GiB"`},
		{"size out of range", `"32MiB"`, `"5GiB"`, `34:21: memory in [component.climate] limits is 5GiB, want 64KiB to 4GiB`},
		{"bad outbound host", `"https://api.example.com"`, `"api.example.com"`, `30:27: outbound host "api.example.com" has no scheme: want scheme://host[:port], as in "https://api.example.com"`},
		{"second of a list", `"uplink:alerts/#"`, `"uplink:alerts/#/x"`, `32:24: topic filter "alerts/#/x": # is only possible at the end`},
		{"wrong kind in a list", `["default"]`, `[1]`, `31:21: key_value_stores in [component.climate] has a number, want strings`},
		{"duplicate id", `component = "climate"
[[trigger.timer]]
every`, "component = \"climate\"\n[[trigger.timer]]\nid = \"raw\"\nevery", `19:6: two triggers have the id "raw"`},
		{"duplicate id of another kind", "[[trigger.http]]\nroute", "[[trigger.http]]\nid = \"raw\"\nroute", `15:6: two triggers have the id "raw"`},
		{"bad id", `id = "raw"`, `id = "Raw data"`, `14:6: trigger id "Raw data": use lower-case letters, digits, dots, - and _`},
		{"manifest version", "dunlin_manifest_version = 1", "dunlin_manifest_version = 2", `1:27: dunlin_manifest_version: this build reads version 1`},
		{"deferred to itself", `"https://*.example.com"`, `"http://self"`, `35:28: outbound host "http://self" can't be deferred to: the application itself is always there`},
		{"unknown priority", `priority = "high"`, `priority = "hgh"`, `38:12: priority in [[uplink]] is "hgh": did you mean "high"?`},
		{"uplink without a topic", "topic = \"#\"\n", "", `40:3: [[uplink]] has no topic`},
		{"two rules of one topic", `topic = "#"`, `topic = "alerts/#"`, `41:9: duplicate topic "alerts/#": only the first [[uplink]] that matches counts`},
		{"bad filter in a rule", `topic = "#"`, `topic = "#/x"`, `41:9: topic filter "#/x": # is only possible at the end`},
		{"bytes out of range", `"4MiB"`, `"1B"`, `43:9: bytes in [[uplink]] is 1B, want 4KiB to 1GiB`},
		{"table for a list", "[[trigger.http]]", "[trigger.http]", `7:10: http in [[trigger.<kind>]] is a table, want a list of tables: write [[trigger.http]]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(greenhouse, c.old) == 0 {
				t.Fatalf("%q is not in the manifest", c.old)
			}
			_, err := Parse("dunlin.toml", []byte(strings.Replace(greenhouse, c.old, c.new, 1)))
			var all Errors
			if !errors.As(err, &all) {
				t.Fatalf("got %v, want Errors", err)
			}
			if len(all) != 1 || !strings.HasPrefix(all[0].Error(), "dunlin.toml:"+c.want) {
				t.Errorf("got  %v\nwant dunlin.toml:%s", err, c.want)
			}
		})
	}
}

func TestSyntaxErrorHasItsPlace(t *testing.T) {
	_, err := Parse("dunlin.toml", []byte("dunlin_manifest_version = 1\n[application]\nname = greenhouse\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "dunlin.toml:3:8: ") {
		t.Errorf("got %v", err)
	}
	_, err = Parse("dunlin.toml", []byte("dunlin_manifest_version = 1\n[application]\nname = \"a\"\nname = \"b\"\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "dunlin.toml:4:1: ") {
		t.Errorf("got %v", err)
	}
}

func TestAllFaultsComeAtOnceInOrder(t *testing.T) {
	bad := strings.NewReplacer(`"1.4.0"`, `"one"`, `qos = 0`, `qos = 9`, `"30s"`, `"soon"`, `"once"`, `"never"`).Replace(greenhouse)
	_, err := Parse("dunlin.toml", []byte(bad))
	var all Errors
	if !errors.As(err, &all) || len(all) != 4 {
		t.Fatalf("got %v", err)
	}
	if !slices.IsSortedFunc(all, func(a, b *Error) int { return a.Line - b.Line }) {
		t.Errorf("not in order: %v", err)
	}
	var one *Error
	if !errors.As(err, &one) || one.Line != 4 {
		t.Errorf("first fault is %v", one)
	}
}

func TestColumnsCountCharacters(t *testing.T) {
	_, err := Parse("m", []byte("dunlin_manifest_version = 1\n"+`x = { "äöü" = 1, y = 2 }`))
	var all Errors
	if !errors.As(err, &all) {
		t.Fatal(err)
	}
	if last := all[len(all)-1]; last.Line != 2 || last.Column != 1 {
		t.Errorf("got %v", last)
	}
	bad := strings.Replace(greenhouse, `{ threshold = "28" }`, `{ "ä" = "28" }`, 1)
	_, err = Parse("m", []byte(strings.Replace(bad, `limits = {`, `limits = { "ää" = 1, memry = 2,`, 1)))
	if !errors.As(err, &all) || len(all) != 3 || all[2].Column != 22 {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(greenhouse))
	f.Add([]byte("a.b.c = 1\n[a.b]\n[[x]]\n[x.y]\n[[x.y.z]]\nq = {a = [1, {b = 2}]}"))
	f.Add([]byte("[[trigger.http]]\n[trigger.http.x]\n[component.\"\"]\n[component]\nlimits = []"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse("m", b)
		if err != nil {
			var all Errors
			if m != nil || !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("error %v with %v", err, m)
			}
			for _, e := range all {
				if lines := bytes.Count(b, []byte("\n")) + 1; e.Line < 1 || e.Line > lines || e.Column < 1 {
					t.Fatalf("%v is outside of %d lines", e, lines)
				}
			}
			return
		}
		// What Parse passes, a board takes.
		blobs := map[string]Blob{}
		for name := range m.Components {
			blobs[name] = Blob{Digest: wire.Sum(nil), Size: 1}
		}
		if _, err := m.Resolve(blobs); err != nil {
			t.Fatalf("passes, but does not resolve: %v\n%s", err, b)
		}
	})
}

func TestDefaultsAreStated(t *testing.T) {
	m, err := Parse("m", []byte(strings.Replace(greenhouse, `limits = { memory = "32MiB", time = "500ms" }`, "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Components["climate"].Grants.Limits; got != (wire.Limits{Memory: 64 << 20, Time: wire.Duration(5 * time.Second), Payload: 1 << 20, Concurrency: 4,
		CPU: wire.Duration(5 * time.Second), Queue: 256, LogLines: 50, KeyValue: 16 << 20, Requests: 64, Files: 16 << 20}) {
		t.Errorf("limits %+v", got)
	}
}
