// Package guests holds components for tests: small ones, committed with their source, their recipe (build.sh) and their
// digests (SHA256SUMS). Test code only.
package guests

import _ "embed"

// HelloHTTP answers HTTP: GET / is "Hello World!", POST /echo streams the body back, GET /headers lists the request's
// headers as "name: value" lines. "The small handler" of all benchmarks.
//
//go:embed hello-http/hello-http.wasm
var HelloHTTP []byte

// HelloCLI is a wasi:cli/run command: it prints "hello from a command", "arg <argument>" and "env <name>=<value>" lines, and
// fails, with a line on stderr, when an argument is "fail".
//
//go:embed hello-cli/hello-cli.wasm
var HelloCLI []byte

// Counter serves http, mqtt and timer: each message, tick or POST adds one in the keyvalue store "default"; messages and ticks
// publish the new value as text on "count/mqtt" or "count/timer/<timer>"; HTTP answers {"http":n,"mqtt":n,"timer":n}. The payload
// "fail" is counted, published, and then fails, so that none of it may be seen.
//
//go:embed counter/counter.wasm
var Counter []byte

// Coldroom1 and Coldroom2 are two versions of the demo's guard of a cold room, over the same records. MQTT
// (tele/<sensor>/SENSOR, as Tasmota sends), timer (silent sensors) and HTTP (/coldroom, /coldroom/api); variables threshold,
// hysteresis and silent_after; alarms on "alarms/coldroom/<sensor>". The API says which version answers.
//
//go:embed coldroom/coldroom-v1.wasm
var Coldroom1 []byte

// Coldroom2 adds a rolling average and a trend.
//
//go:embed coldroom/coldroom-v2.wasm
var Coldroom2 []byte

// Hostile does wrong what a handler can, as told by the last part of a request's path or by a message's payload: panic, loop,
// sleep, stack, memory, stderr (10 MiB), half (effects, then a trap), flood (64 MiB of effects), and ok; by HTTP alone never
// (no response), leak, twice, open, drop, late and endless; by message alone fail (an error result).
//
//go:embed hostile/hostile.wasm
var Hostile []byte

// Photos keeps what it is sent as objects of the wasi:blobstore container "photos": PUT, GET and DELETE /NAME, GET / for all
// names and sizes, POST /NAME?to=OTHER, and POST /trap and /huge, which fail with an object half written.
//
//go:embed photos/photos.wasm
var Photos []byte

// Shelf serves and keeps files with wasi:filesystem: GET, PUT and DELETE /PATH, GET /PATH/ for what is in a folder, POST /tour (every
// function on the directory at /data), /grow (fills it) and /open?PATH (how opening that path below each directory ends).
//
//go:embed shelf/shelf.wasm
var Shelf []byte

// Courier takes messages on: "send/<topic>" to "uplink:<topic>", "post/..." by HTTP POST to the URL at its start, with what came of it on
// "posted", and "when/..." is answered on "moment" with all that the board says of the time; so is every HTTP request.
//
//go:embed courier/courier.wasm
var Courier []byte

// Spin is made for Spin's synchronous triggers: it keeps a message under "message/<topic>", a cron event's seconds under
// "cron" and the variable "greeting", if any, under that name, in the store "default". The payload "fail" is kept, and fails;
// "forward" is published on "spin/<topic>" too. HTTP: .../keys lists what is kept, all else the headers that Spin adds.
//
//go:embed spin/spin.wasm
var Spin []byte

// Ledger sums readings: a message's number (text, or the member "n" of JSON) is added to "sum" and one to "count", and "n count
// sum" published on "ledger/<topic>", and for a topic "up/..." to the fleet as well. A multiple of 97 fails after that. What comes
// on "ledger/..." is entered under "audit-count" and "audit-sum" alone. HTTP answers all four.
//
//go:embed ledger/ledger.wasm
var Ledger []byte

// Conformance tries what WASI 0.2.12 asks of a host, case by case, by HTTP or as a command: see its lib.rs. Its cases call servers that
// the test names, and its other paths answer in every way that a handler can.
//
//go:embed conformance/conformance.wasm
var Conformance []byte

// Smallest is a command of 186 bytes that imports nothing and succeeds.
//
//go:embed vectors/smallest.wasm
var Smallest []byte

// SelfEvent is a command in a memory of its own that imports nothing and succeeds: the agent carries a copy.
//
//go:embed vectors/self-event.wasm
var SelfEvent []byte

// UnknownImport is a command that imports "acme:rocket/engine@1.0.0", which nobody provides.
//
//go:embed vectors/unknown-import.wasm
var UnknownImport []byte

// NoHandler is a component whose one export, "hello", no trigger can use.
//
//go:embed vectors/no-handler.wasm
var NoHandler []byte

// WASI03 is a component for WASI 0.3: it has an async export and a stream.
//
//go:embed vectors/wasi-0.3.wasm
var WASI03 []byte

// CoreModule is no component.
//
//go:embed vectors/core-module.wasm
var CoreModule []byte

// Sums is the digest list, in sha256sum's form.
//
//go:embed SHA256SUMS
var Sums string
