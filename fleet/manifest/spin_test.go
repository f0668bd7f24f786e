package manifest

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"dunlin.dev/dunlin/fleet/archive"
	"dunlin.dev/dunlin/fleet/wire"
)

// house has every key of Spin's schema that a component, or its three triggers, may have.
const house = `spin_manifest_version = 2
[application]
name = "My House"
version = "1.2.0"
description = "lights and doors"
authors = ["a@example.com"]
targets = ["spin-up:3.3"]
[application.trigger.mqtt]
address = "mqtt://{{ broker }}:1883"
username = "user"
password = "{{ password }}"
keep_alive_interval = "30"
[application.tool.lint]
level = "savage"
[variables]
broker = { default = "localhost" }
password = { required = true, secret = true }
room = { default = "hall", description = "which one" }
token = { required = true, secret = true }
api = { default = "" }

[[trigger.http]]
id = "trigger-Door"
route = "/doors/:door/..."
component = "door"
[[trigger.http]]
route = "lights/*"
component = { source = "light.wasm", key_value_stores = ["default"] }
executor = { type = "http" }
[[trigger.http]]
route = "/old"
static_response = { status_code = 302, headers = { location = "/doors" }, body = "moved" }
[[trigger.http]]
route = { private = true }
component = "inner"
[[trigger.mqtt]]
component = "door"
topic = "house/{{ room }}/+"
qos = "1"
[[trigger.cron]]
component = "door"
cron_expression = "1/2 * * * * * *"

[component.door]
source = "target/door.wasm"
description = "opens"
variables = { where = "in the {{ room }}", token = "{{token}}" }
environment = { TZ = "UTC" }
files = ["assets/*"]
exclude_files = ["assets/secret"]
allowed_outbound_hosts = ["https://*.example.com", "http://{{ api }}", "mqtt://localhost:1883", "redis://localhost:6379", "http://inner.spin.internal"]
key_value_stores = ["default", "my_store"]
sqlite_databases = ["default"]
ai_models = ["llama2-chat"]
dependencies_inherit_configuration = true
[component.door.build]
command = "cargo build"
[component.door.dependencies]
"a:b/c" = "1.2.3"
[component.door.profile.debug]
source = "debug.wasm"
[component.door.tool.clean]
command = "rm -r target"
[component.door.tool.dunlin]
limits = { memory = "32MiB" }
blob_stores = ["photos"]
directory = true
[component.inner]
source = "inner.wasm"
`

func values(pairs ...string) Lookup {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestSpinApplicationIsTakenAsItIs(t *testing.T) {
	m, err := Read("spin.toml", []byte(house), values("token", "s3cret", "room", "attic"))
	if err != nil {
		t.Fatal(err)
	}
	limits := wire.DefaultLimits()
	limits.Memory = 32 << 20
	want := &Manifest{
		Application: "my-house", Version: "1.2.0",
		Components: map[string]Component{
			"door": {Source: "target/door.wasm", Grants: wire.Component{
				Outbound: []string{"https://*.example.com"}, KeyValue: []string{"default", "my_store"}, BlobStores: []string{"photos"}, Directory: "/data", Publish: []string{"#"},
				Variables: map[string]string{"where": "in the attic", "token": "s3cret"}, Environment: map[string]string{"TZ": "UTC"}, Limits: limits,
			}},
			"inline-http": {Source: "light.wasm", Grants: wire.Component{KeyValue: []string{"default"}, Limits: wire.DefaultLimits()}},
		},
		Triggers: wire.Triggers{
			HTTP: []wire.HTTPTrigger{
				{ID: "trigger-door", Route: "/doors/:door/...", Component: "door", Spin: true},
				{ID: "inline-http.http", Route: "/lights/...", Component: "inline-http", Spin: true},
				{ID: "static.http", Route: "/old", Spin: true, Static: &wire.Static{Status: 302, Headers: map[string]string{"location": "/doors"}, Body: "moved"}},
			},
			MQTT:  []wire.MQTTTrigger{{ID: "door.mqtt", Topic: "house/attic/+", QoS: 1, Component: "door"}},
			Timer: []wire.TimerTrigger{{ID: "door.timer", Cron: "1/2 * * * * *", Timezone: "UTC", Missed: wire.MissedSkip, Overlap: wire.OverlapSkip, Component: "door"}},
		},
	}
	notes := m.Notes
	m.Notes = nil
	files, err := m.Components["door"].Files(fstest.MapFS{"assets/open.wav": {Data: []byte("creak")}, "assets/secret": {}, "assets/old/x": {}})
	if b, _ := archive.Pack([]archive.File{{Path: "assets/open.wav", Data: []byte("creak")}}); err != nil || !bytes.Equal(files.Archive, b) {
		t.Errorf("its files are %q, %v", files.Archive, err)
	}
	door := m.Components["door"]
	door.files = nil
	m.Components["door"] = door
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
	blob := Blob{Digest: wire.Sum([]byte("wasm")), Size: 4}
	r, err := m.Resolve(map[string]Blob{"door": blob, "inline-http": blob})
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.MarshalRelease(r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := wire.ParseRelease(b); err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("the release comes back as %+v, %v", again, err)
	}
	wantNotes := []string{
		`spin.toml:3:8: the application "My House" is "my-house" here`,
		`spin.toml:7:1: targets in [application] has no meaning here`,
		`spin.toml:8:22: [application.trigger.mqtt] has no meaning here: messages come from the board's bus`,
		`spin.toml:13:19: [application.tool.lint] has no meaning here`,
		`spin.toml:19:1: variable "token" is secret: the release has its value`,
		`spin.toml:23:6: the trigger "trigger-Door" is "trigger-door" here`,
		`spin.toml:34:9: a private route has no meaning here`,
		`spin.toml:51:72: "mqtt://localhost:1883": what [component.door] publishes goes to the board's bus`,
		`spin.toml:51:97: "redis://localhost:6379" has no meaning here`,
		`spin.toml:51:123: "http://inner.spin.internal" has no meaning here`,
		`spin.toml:53:1: sqlite_databases in [component.door] has no meaning here`,
		`spin.toml:54:1: ai_models in [component.door] has no meaning here`,
		`spin.toml:55:1: dependencies_inherit_configuration in [component.door] has no meaning here`,
		`spin.toml:56:17: [component.door.build] has no meaning here: build first`,
		`spin.toml:58:17: [component.door.dependencies] has no meaning here: compose the component first`,
		`spin.toml:60:17: [component.door.profile] has no meaning here`,
		`spin.toml:62:22: [component.door.tool.clean] has no meaning here`,
		`spin.toml:68:12: the component "inner" does not run: no trigger here leads to it`,
	}
	for i := range max(len(notes), len(wantNotes)) {
		if i >= len(notes) || i >= len(wantNotes) || !strings.HasPrefix(notes[i], wantNotes[i]) {
			t.Fatalf("notes are\n%s\nwant\n%s", strings.Join(notes, "\n"), strings.Join(wantNotes, "\n"))
		}
	}
}

func TestFaultsOfSpinManifestHavePlacesAndWaysOut(t *testing.T) {
	const head = "spin_manifest_version = 2\n[application]\nname = \"a\"\nversion = \"1.0.0\"\n"
	const component = "[component.c]\nsource = \"c.wasm\"\n"
	const route = "[[trigger.http]]\nroute = \"/\"\ncomponent = \"c\"\n"
	for name, test := range map[string]struct{ text, want string }{
		"version 1, as it was":  {"spin_version = \"1\"\nname = \"a\"\n", `spin.toml:1:1: Spin manifest of version 1: this build reads version 2; "spin doctor"`},
		"version 1, later":      {"spin_manifest_version = 1\n", `spin.toml:1:1: Spin manifest of version 1`},
		"version 1, a string":   {"spin_manifest_version = \"1\"\n", `spin.toml:1:1: Spin manifest of version 1`},
		"version 3":             {"spin_manifest_version = 3\n", `spin.toml:1:25: spin_manifest_version: this build reads version 2`},
		"unknown key":           {head + "[component.c]\nsuorce = \"c.wasm\"\n" + route, `spin.toml:6:1: unknown key "suorce" in [component.c]: did you mean "source"?`},
		"unknown trigger key":   {head + component + "[[trigger.mqtt]]\ncomponent = \"c\"\ntpoic = \"a\"\nqos = \"1\"\n", `spin.toml:9:1: unknown key "tpoic" in [[trigger.mqtt]]: did you mean "topic"?`},
		"unknown top key":       {head + component + route + "[compnent]\n", `spin.toml:10:2: unknown key "compnent"`},
		"other trigger":         {head + component + "[[trigger.redis]]\ncomponent = \"c\"\nchannel = \"x\"\n", `spin.toml:7:11: [[trigger.redis]] has no equal here: http, mqtt and cron have`},
		"no such component":     {head + component + "[[trigger.http]]\nroute = \"/\"\ncomponent = \"d\"\n" + route, `spin.toml:9:13: component "d" is not in the manifest`},
		"no component":          {head + component + "[[trigger.http]]\nroute = \"/x\"\n" + route, `spin.toml:7:11: [[trigger.http]] has neither component nor static_response`},
		"bad status":            {head + component + route + "[[trigger.http]]\nroute = \"/x\"\nstatic_response = { status_code = 99 }\n", `spin.toml:12:35: status_code in [[trigger.http]] static_response`},
		"bad header":            {head + component + route + "[[trigger.http]]\nroute = \"/x\"\nstatic_response = { headers = { \"a b\" = \"c\" } }\n", `spin.toml:12:19: [[trigger.http]] static_response: header "a b"`},
		"wagi":                  {head + component + route + "executor = { type = \"wagi\" }\n", `spin.toml:10:1: executor in [[trigger.http]]: only components with an HTTP interface run here`},
		"middleware":            {head + component + route + "dependencies = { middleware = [] }\n", `spin.toml:10:1: dependencies in [[trigger.http]]: middleware is not run here`},
		"source as URL":         {head + "[component.c]\nsource = { url = \"https://a.example/c.wasm\", digest = \"sha256:00\" }\n" + route, `spin.toml:6:10: source of [component.c] is a URL: download it`},
		"source in registry":    {head + "[component.c]\nsource = { registry = \"a.example\", package = \"a:c\", version = \"1.0.0\" }\n" + route, `spin.toml:6:10: source of [component.c] is in a registry: get it`},
		"variable without one":  {head + "[variables]\nx = { required = true }\n" + component + "variables = { y = \"{{ x }}{{ x }}\" }\n" + route, `spin.toml:6:1: variable "x" has no value: set SPIN_VARIABLE_X, or say --variable x=VALUE`},
		"unknown variable":      {head + "[variables]\nroom = { default = \"a\" }\n" + component + "variables = { y = \"{{ rom }}\" }\n" + route, `spin.toml:9:19: variable "rom" is not in [variables]: did you mean "room"?`},
		"open template":         {head + component + "variables = { y = \"{{ x\" }\n" + route, `spin.toml:7:19: "{{ x" has {{ without }}`},
		"neither of both":       {head + "[variables]\nx = { secret = true }\n" + component + route, `spin.toml:6:1: variable "x" has neither default nor required = true`},
		"qos as word":           {head + component + "[[trigger.mqtt]]\ncomponent = \"c\"\ntopic = \"a\"\nqos = \"one\"\n", `spin.toml:10:7: qos in [[trigger.mqtt]]: want a whole number from 0 to 2`},
		"cron with a year":      {head + component + "[[trigger.cron]]\ncomponent = \"c\"\ncron_expression = \"0 0 0 1 1 * 2027\"\n", `spin.toml:9:19: cron_expression "0 0 0 1 1 * 2027" restricts the year`},
		"cron of five fields":   {head + component + "[[trigger.cron]]\ncomponent = \"c\"\ncron_expression = \"0 0 1 1 *\"\n", `spin.toml:9:19: cron_expression "0 0 1 1 *" has 5 fields`},
		"cron with both days":   {head + component + "[[trigger.cron]]\ncomponent = \"c\"\ncron_expression = \"0 0 0 13 * 5\"\n", `spin.toml:9:19: cron_expression "0 0 0 13 * 5" restricts both the day of the month and the day of the week`},
		"cron that can't be":    {head + component + "[[trigger.cron]]\ncomponent = \"c\"\ncron_expression = \"0 0 25 * * *\"\n", `spin.toml:9:19: cron_expression "0 0 25 * * *" can't be read`},
		"two routes as one":     {head + component + route + "[[trigger.http]]\nroute = \"\"\ncomponent = \"c\"\n", `spin.toml:11:9: duplicate route "/"`},
		"two names as one":      {head + component + "[component.C]\nsource = \"c.wasm\"\n" + route, `spin.toml:7:12: [component.C]: its name "c" here is another component's too`},
		"outbound host is none": {head + component + "allowed_outbound_hosts = [\"example.com\"]\n" + route, `spin.toml:7:27: outbound host "example.com" has no scheme`},
		"no trigger":            {head + component, `spin.toml:1:1: the manifest has no trigger`},
		"no application":        {"spin_manifest_version = 2\n" + component + route, `spin.toml:1:1: the manifest has no application`},
		"version is none":       {"spin_manifest_version = 2\n[application]\nname = \"a\"\nversion = \"1\"\n" + component + route, `spin.toml:4:11: version "1"`},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Read("spin.toml", []byte(test.text), nil)
			if err == nil {
				t.Fatalf("it passes: %+v", m)
			}
			if !strings.Contains("\n"+err.Error(), "\n"+test.want) {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
		})
	}
}

func TestSpinVersionIsOptional(t *testing.T) {
	m, err := Read("spin.toml", []byte("spin_manifest_version = 2\n[application]\nname = \"a\"\n[[trigger.cron]]\ncron_expression = \"0 0 0 ? * 1-5\"\ncomponent = { source = \"a.wasm\" }\n"), nil)
	if err != nil || m.Version != noVersion || len(m.Notes) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzSpinManifest(f *testing.F) {
	f.Add([]byte(house))
	f.Add([]byte("spin_manifest_version = 2\n[application]\nname = 1\n[[trigger.http]]\ncomponent = {}\nroute = { private = 1 }\n"))
	f.Add([]byte("spin_manifest_version = 2\napplication = 1\ntrigger = 1\ncomponent = []\nvariables = { a = 1 }\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Read("spin.toml", append([]byte("spin_manifest_version = 2\n"), b...), values("token", "{{ room }}"))
		if err != nil {
			return
		}
		blobs := map[string]Blob{}
		for name := range m.Components {
			blobs[name] = Blob{Digest: wire.Sum(nil), Size: 1}
		}
		if _, err := m.Resolve(blobs); err != nil && len(b) < wire.MaxMessageBytes {
			t.Errorf("what was read makes no release: %v", err)
		}
	})
}
