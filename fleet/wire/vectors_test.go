package wire

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Vectors are for other implementations as much as for this one: good/<message>.<name> must decode and encode to the
// same bytes, bad/<message>.<name> must be refused.
const vectors = "../../test/vectors/wire"

var update = flag.Bool("update", false, "write the vectors anew from the values in this file")

// codecs decode and encode again, by the first word of a vector's name.
var codecs = map[string]func([]byte) ([]byte, error){
	"hello":    again(UnmarshalHello, MarshalHello),
	"state":    again(UnmarshalState, MarshalState),
	"reported": again(UnmarshalReported, MarshalReported),
	"desired":  again(UnmarshalDesired, MarshalDesired),
	"get":      again(UnmarshalGet, MarshalGet),
	"log":      again(UnmarshalLog, MarshalLog),
	"do":       again(UnmarshalDo, MarshalDo),
	"done":     again(UnmarshalDone, MarshalDone),
	"events":   again(UnmarshalEvents, MarshalEvents),
	"event":    again(UnmarshalDeadEvent, MarshalDeadEvent),
	"renamed":  again(UnmarshalRenamed, MarshalRenamed),
	"release":  again(ParseRelease, MarshalRelease),
	"frame":    again(UnmarshalFrame, MarshalFrame),
	"offer":    again(UnmarshalOffer, MarshalOffer),
	"data":     again(UnmarshalData, MarshalData),
	"blocks":   again(ParseBlocks, func(b *Blocks) ([]byte, error) { return b.Marshal(), nil }),
	"topic":    again(func(b []byte) (Topic, error) { return ParseTopic(string(b)) }, func(t Topic) ([]byte, error) { return []byte(t.Format()), nil }),
}

func again[T any](decode func([]byte) (T, error), encode func(T) ([]byte, error)) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		m, err := decode(b)
		if err != nil {
			return nil, err
		}
		out, err := encode(m)
		if err != nil {
			panic("decodes, but does not encode: " + err.Error())
		}
		return out, nil
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	seen := map[string]int{}
	for _, kind := range []string{"good", "bad"} {
		files, err := filepath.Glob(filepath.Join(vectors, kind, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s vectors: %v", kind, err)
		}
		for _, file := range files {
			name := filepath.Base(file)
			message, _, _ := strings.Cut(name, ".")
			codec, ok := codecs[message]
			if !ok {
				t.Errorf("%s: no codec of that name", name)
				continue
			}
			seen[kind+" "+message]++
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out, err := codec(b)
			switch {
			case kind == "good" && err != nil:
				t.Errorf("%s: %v", name, err)
			case kind == "good" && !bytes.Equal(b, out):
				t.Errorf("%s: encodes to other bytes", name)
			case kind == "bad" && err == nil:
				t.Errorf("%s: passes", name)
			}
		}
	}
	for message := range codecs {
		if seen["good "+message] == 0 || seen["bad "+message] == 0 {
			t.Errorf("%s has %d good and %d bad vectors", message, seen["good "+message], seen["bad "+message])
		}
	}
}

// FuzzDecode holds every decoder to one law: what decodes, encodes to the same bytes.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(vectors, "*", "*"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		message, _, _ := strings.Cut(filepath.Base(file), ".")
		f.Add(message, b)
	}
	f.Fuzz(func(t *testing.T, message string, b []byte) {
		codec, ok := codecs[message]
		if !ok {
			return
		}
		if out, err := codec(b); err == nil && !bytes.Equal(b, out) {
			t.Fatalf("%s decodes from two forms:\n%q\n%q", message, b, out)
		}
	})
}

var when = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func sampleRelease() Release {
	return Release{Format: ReleaseFormat, Application: "greenhouse", Version: "1.4.0", Floor: "1.2.0",
		Components: map[string]Component{"climate": {Digest: Sum([]byte("wasm")), Size: 4, Environment: map[string]string{"TZ": "UTC"}, Outbound: []string{"https://api.example.com"}, Deferred: []string{"https://*.example.com"}, BlobStores: []string{"photos"},
			KeyValue: []string{"default"}, Publish: []string{"alerts/#", "uplink:alerts/#"}, Variables: map[string]string{"threshold": "<28 & \"ü\">"}, Files: &Blob{Sum([]byte("files")), 5}, Directory: "/data", Limits: DefaultLimits()}},
		Uplinks: []UplinkRule{{Topic: "alerts/#", Priority: PriorityHigh, Reject: true}, {Topic: "readings/+", Priority: PriorityLow, Bytes: 1 << 20, Age: Duration(24 * time.Hour)}},
		Triggers: Triggers{
			HTTP:  []HTTPTrigger{{ID: "climate.http", Route: "/climate/...", Component: "climate"}},
			MQTT:  []MQTTTrigger{{ID: "climate.mqtt", Topic: "tele/+/SENSOR", QoS: 1, MessageID: "json:/id", Unordered: true, Component: "climate"}},
			Timer: []TimerTrigger{{ID: "climate.timer", Every: Duration(30 * time.Second), Missed: MissedSkip, Overlap: OverlapSkip, Component: "climate"}, {ID: "morning", Cron: "0 6 * * *", Timezone: "Europe/Berlin", Missed: MissedOnce, Overlap: OverlapQueue, Jitter: Duration(time.Minute), Component: "climate"}},
		}}
}

func sampleOffer(t testing.TB) Offer {
	o, err := NewOffer(EncodingZstdPatch, Sum([]byte("target")), 5000, Sum([]byte("base")), bytes.Repeat([]byte("x"), 2500), MinBlockBytes)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func writeVectors(t *testing.T) {
	write := func(kind, name string, b []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := filepath.Join(vectors, kind, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// damage makes the bad ones of a JSON message out of a good one.
	damage := func(message string, good []byte) {
		var any map[string]json.RawMessage
		if err := json.Unmarshal(good, &any); err != nil {
			t.Fatal(err)
		}
		any["zz_unknown"] = []byte("1")
		unknown, err := json.Marshal(any)
		write("bad", message+".unknown-field.json", unknown, err)
		write("bad", message+".trailing-newline.json", append(bytes.Clone(good), '\n'), nil)
		write("bad", message+".space.json", bytes.Replace(good, []byte(":"), []byte(": "), 1), nil)
		write("bad", message+".cut.json", good[:len(good)-1], nil)
		i := bytes.IndexByte(good, '"') + 1
		write("bad", message+".key-case.json", append(append(bytes.Clone(good[:i]), bytes.ToUpper(good[i:i+1])...), good[i+1:]...), nil)
	}
	hello := Hello{Version: Version, Session: "b1c2", Agent: "0.1.0", Arch: "arm64", Boot: "1f0e", Labels: map[string]string{"site": "north", "model": "pi 4"},
		Installed: []Installed{{"greenhouse", "1.4.0", Sum([]byte("m"))}}, Operations: Operations()}
	b, err := MarshalHello(hello)
	write("good", "hello.json", b, err)
	damage("hello", b)
	write("bad", "hello.other-version.json", bytes.Replace(b, []byte(`"version":1`), []byte(`"version":2`), 1), nil)
	b, err = MarshalHello(Hello{Version: Version, Session: "s", Agent: "a", Arch: "amd64", Boot: "b"})
	write("good", "hello.least.json", b, err)
	b, err = MarshalState(State{Session: "b1c2"})
	write("good", "state.offline.json", b, err)
	damage("state", b)
	p := &Progress{Done: 10, Total: 20}
	b, err = MarshalReported(Reported{Session: "b1c2", Sequence: 3, At: when, Clock: ClockEstimated, Generation: 7,
		Apps:     []AppReport{{Application: "greenhouse", Version: "1.4.0", Release: Sum([]byte("m")), Phase: PhaseFetching, Progress: p, Error: "x\u2028<y>"}},
		Refused:  &Refusal{Generation: 6, Reason: "verify director 6: for another device"},
		Triggers: []TriggerReport{{Application: "greenhouse", ID: "climate.mqtt", Status: TriggerDegraded, Detail: "no broker"}},
		Counters: Counters{Handled: 5, Failed: 1}, Frozen: true, Trust: TrustReport{Root: 1, Timestamp: 9}, Outbox: &OutboxReport{Messages: 3, Bytes: 512, Dropped: map[string]uint64{"age": 2}},
		Removed: []RemovedReport{{"meter", "0.2.0", pointer(Duration(90 * time.Minute))}, {Application: "old"}}})
	write("good", "reported.json", b, err)
	damage("reported", b)
	write("bad", "reported.local-time.json", bytes.Replace(b, []byte(`12:00:00Z`), []byte(`13:00:00+01:00`), 1), nil)
	b, err = MarshalDesired(Desired{Fleet: "green", Device: "pi-1", Generation: 7, Issued: when, Releases: []Pointer{{"greenhouse", "1.4.0", Sum([]byte("m")), "greenhouse/1.4.0.json"}, {"meter", "0.2.0-rc.1", Sum([]byte("n")), "meter/0.2.0-rc.1.json"}}})
	write("good", "desired.json", b, err)
	damage("desired", b)
	write("bad", "desired.generation-0.json", bytes.Replace(b, []byte(`"generation":7`), []byte(`"generation":0`), 1), nil)
	b, err = MarshalDesired(Desired{Fleet: "green", Device: "pi-1", Generation: 1, Issued: when})
	write("good", "desired.nothing.json", b, err)
	d := Sum([]byte("m"))
	for name, g := range map[string]Get{
		"root":    {Request: 1, Meta: &MetaRequest{Role: RoleRoot, Version: 2}},
		"release": {Request: 2, Meta: &MetaRequest{Role: RoleRelease, Digest: &d}},
		"offer":   {Request: 3, Offer: &OfferRequest{Target: d, Size: 5000, Have: []Digest{Sum(nil)}, BlockBytes: DefaultBlockBytes}},
		"blocks":  {Request: 4, Blocks: &BlockRequest{Encoding: d, Ranges: []Range{{0, 3}, {20, 2}, {43, 1}}}},
	} {
		b, err = MarshalGet(g)
		write("good", "get."+name+".json", b, err)
	}
	damage("get", b)
	write("bad", "get.two.json", []byte(`{"request":1,"meta":{"role":"root"},"blocks":{"encoding":"`+d.String()+`","ranges":[{"first":0,"count":1}]}}`), nil)
	write("bad", "get.touching.json", []byte(`{"request":1,"blocks":{"encoding":"`+d.String()+`","ranges":[{"first":0,"count":1},{"first":1,"count":1}]}}`), nil)
	write("bad", "get.window.json", []byte(`{"request":1,"blocks":{"encoding":"`+d.String()+`","ranges":[{"first":0,"count":65}]}}`), nil)
	b, err = MarshalLog(Log{Session: "b1c2", Dropped: 2, Lines: []LogLine{{Sequence: 1, At: when, Level: "info", Application: "greenhouse", Component: "climate", Text: "28.5 °C\n"}}})
	write("good", "log.json", b, err)
	damage("log", b)
	writeRequests(write, damage)
	b, err = MarshalRelease(sampleRelease())
	write("good", "release.json", b, err)
	damage("release", b)
	write("bad", "release.format.json", bytes.Replace(b, []byte(`"format":1`), []byte(`"format":2`), 1), nil)
	write("bad", "release.no-component.json", bytes.ReplaceAll(b, []byte(`"component":"climate"`), []byte(`"component":"clima"`)), nil)
	write("bad", "release.no-files.json", bytes.Replace(b, []byte(`"size":5`), []byte(`"size":0`), 1), nil)
	write("bad", "release.directory.json", bytes.Replace(b, []byte(`"directory":"/data"`), []byte(`"directory":"/../data"`), 1), nil)
	write("bad", "release.files-limit.json", bytes.Replace(b, []byte(`"files":16777216`), []byte(`"files":1`), 1), nil)
	write("bad", "release.priority.json", bytes.Replace(b, []byte(`"priority":"low"`), []byte(`"priority":"normal"`), 1), nil)
	write("bad", "release.deferred.json", bytes.Replace(b, []byte(`https://*.example.com`), []byte(`https://self`), 1), nil)
	write("bad", "release.invalid-utf8.json", bytes.Replace(b, []byte("ü"), []byte("\xff"), 1), nil)

	o := sampleOffer(t)
	b, err = MarshalOffer(o)
	write("good", "offer.bin", b, err)
	write("bad", "offer.cut.bin", b[:len(b)-1], nil)
	write("bad", "offer.block-missing.bin", b[:len(b)-32], nil)
	for name, fr := range map[string]Frame{
		"block": {Kind: FrameBlock, Request: 4, Index: 2, Total: 3, Encoding: o.ID(), Body: []byte("block")},
		"meta":  {Kind: FrameMeta, Request: 1, Total: 1, Body: []byte("{}")},
		"error": ErrorFrame(9, CodeUnknownEncoding, "ask for a new offer"),
	} {
		b, err = MarshalFrame(fr)
		write("good", "frame."+name+".bin", b, err)
		write("bad", "frame."+name+"-cut.bin", b[:40], nil)
		b[2] = 2
		write("bad", "frame."+name+"-version.bin", b, nil)
	}
	boot := BootID(d[:16])
	hot := Uplink{ID: 7, Sequence: 2, At: when.UnixMilli(), Clock: ClockSynced, Boot: boot, Up: 61_000, Application: "greenhouse", Topic: "alerts/hot", Payload: []byte{0, 1, 2}}
	b, err = MarshalData(Data{Outbox: 1 << 60, Messages: []Uplink{hot}})
	write("good", "data.bin", b, err)
	write("bad", "data.cut.bin", b[:25], nil)
	write("bad", "data.empty.bin", b[:dataHeaderBytes], nil)
	write("bad", "data.version.bin", append([]byte{b[0], b[1], 1}, b[3:]...), nil)
	write("bad", "data.clock.bin", append(append(bytes.Clone(b[:dataHeaderBytes]), b[dataHeaderBytes]|3), b[dataHeaderBytes+1:]...), nil)
	write("bad", "data.long-number.bin", append(append(bytes.Clone(b[:dataHeaderBytes+1]), 0x87, 0), b[dataHeaderBytes+2:]...), nil)
	next, other, old := hot, hot, hot
	next.ID, next.Sequence, next.Payload = 9, 3, nil
	other.ID, other.Sequence, other.Topic, other.Clock, other.Historical = 4, 1, "readings", ClockEstimated, true
	old.ID, old.Sequence, old.Boot, old.Historical, old.Clock, old.At = 3, 1, BootID{}, true, ClockUnsynced, -1
	batch, err := MarshalData(Data{Outbox: 5, Messages: []Uplink{hot, next, other, old}})
	write("good", "data.batch.bin", batch, err)
	twice := append(bytes.Clone(b), b[dataHeaderBytes:]...) // says again what it need not
	write("bad", "data.repeated-names.bin", twice, nil)
	write("bad", "data.wildcard.bin", bytes.Replace(b, []byte("hot"), []byte("h/#"), 1), nil)
	k := NewBlocks(11)
	k.Add(0)
	k.Add(10)
	write("good", "blocks.bin", k.Marshal(), nil)
	b = k.Marshal()
	b[len(b)-1] |= 0x80
	write("bad", "blocks.beyond.bin", b, nil)
	write("good", "topic.txt", []byte("dunlin/v1/green/pi-1/desired"), nil)
	write("bad", "topic.channel.txt", []byte("dunlin/v1/green/pi-1/other"), nil)
	write("bad", "topic.wildcard.txt", []byte("dunlin/v1/green/+/desired"), nil)
	write("bad", "topic.version.txt", []byte("dunlin/v2/green/pi-1/desired"), nil)
}

func writeRequests(write func(kind, name string, b []byte, err error), damage func(message string, good []byte)) {
	b, err := MarshalDo(Do{Fleet: "green", Device: "pi-1", Session: "b1c2", ID: "r1", Operation: EventsDrop, Deadline: when, Arguments: map[string]string{"event": "e17"}})
	write("good", "do.json", b, err)
	damage("do", b)
	write("bad", "do.no-device.json", bytes.Replace(b, []byte(`"pi-1"`), []byte(`""`), 1), nil)
	write("bad", "do.local-time.json", bytes.Replace(b, []byte(`12:00:00Z`), []byte(`13:00:00+01:00`), 1), nil)
	write("bad", "do.large.json", bytes.Replace(b, []byte(`"e17"`), []byte(`"`+strings.Repeat("x", MaxDoBytes)+`"`), 1), nil)
	b, err = MarshalDo(Do{Fleet: "green", Device: "pi-1", Session: "b1c2", ID: "r1", Operation: "of.the-future", Deadline: when})
	write("good", "do.unknown.json", b, err)
	b, err = MarshalDone(Done{ID: "r1", Result: []byte(`{"event":"e17"}`)})
	write("good", "done.json", b, err)
	damage("done", b)
	b, err = MarshalDone(Done{ID: "r1", Code: CodeNotFound, Error: "no such event"})
	write("good", "done.error.json", b, err)
	write("bad", "done.no-code.json", bytes.Replace(b, []byte(`"code":2,`), nil, 1), nil)
	write("bad", "done.both.json", bytes.Replace(b, []byte(`such event"`), []byte(`such event","result":{}`), 1), nil)
	write("bad", "done.nothing.json", []byte(`{"id":"r1"}`), nil)
	b, err = MarshalRenamed(Renamed{"e18446744073709551615"})
	write("good", "renamed.json", b, err)
	damage("renamed", b)
	write("bad", "renamed.beyond.json", []byte(`{"event":"e18446744073709551616"}`), nil)
	write("bad", "renamed.zero.json", []byte(`{"event":"e017"}`), nil)
	letter := DeadEvent{Event: "e17", Trigger: "greenhouse/in", Topic: "in/a", QoS: 1, At: when, Attempts: 4, Reason: "error", Cause: "failing over 97", Bytes: 2, Text: "97"}
	b, err = MarshalDeadEvent(letter)
	write("good", "event.json", b, err)
	damage("event", b)
	write("bad", "event.more-than-it-has.json", bytes.Replace(b, []byte(`"97"`), []byte(`"978"`), 1), nil)
	raw := letter
	raw.Text, raw.Payload, raw.Bytes, raw.Cut = "", []byte{0xff, 0, 1}, MaxShownBytes+1, true
	b, err = MarshalDeadEvent(raw)
	write("good", "event.cut.json", b, err)
	next := letter
	letter.Text, next.Event, next.Text = "", "e18", ""
	b, err = MarshalEvents(Events{Waiting: 1, WaitingBytes: 40, Dead: []DeadEvent{letter, next}, More: true})
	write("good", "events.json", b, err)
	damage("events", b)
	write("bad", "events.order.json", bytes.Replace(b, []byte(`"e18"`), []byte(`"e17"`), 1), nil)
	write("bad", "events.more-of-nothing.json", []byte(`{"waiting":0,"waiting_bytes":0,"outbox_bytes":0,"dead_dropped":0,"dead":[],"more":true}`), nil)
	write("bad", "events.negative.json", bytes.Replace(b, []byte(`"waiting":1`), []byte(`"waiting":-1`), 1), nil)
}

func pointer[T any](v T) *T { return &v }
