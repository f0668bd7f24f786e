package host

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"dunlin.dev/dunlin/agent/internal/engine"
)

func TestFields(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{})
	f := d.call(types + "[constructor]fields")
	d.ok(types+"[method]fields.append", f, str("X-A"), bin("1"))
	d.ok(types+"[method]fields.append", f, str("x-b"), bin("\xff"))
	d.ok(types+"[method]fields.append", f, str("x-a"), bin("2"))
	show := func(f engine.Val) string {
		var s []string
		for _, e := range d.call(types+"[method]fields.entries", f).Elems() {
			s = append(s, fmt.Sprintf("%s=%q", e.Elems()[0].Text(), e.Elems()[1].Raw()))
		}
		return strings.Join(s, " ")
	}
	if got := show(f); got != `X-A="1" x-b="\xff" x-a="2"` {
		t.Errorf("entries %s", got)
	}
	if got := d.call(types+"[method]fields.get", f, str("X-a")).Elems(); len(got) != 2 {
		t.Errorf("get gives %d values", len(got))
	}
	copied := d.call(types+"[method]fields.clone", f)
	d.ok(types+"[method]fields.set", f, str("x-A"), engine.List(bin("3")))
	d.ok(types+"[method]fields.delete", f, str("X-B"))
	if got, old := show(f), show(copied); got != `x-A="3"` || old != `X-A="1" x-b="\xff" x-a="2"` {
		t.Errorf("changed to %s, its clone to %s", got, old)
	}
	for _, bad := range []string{"", "a b", "a:b", "é", "a\n", "a\x00"} {
		d.fails("invalid-syntax", types+"[method]fields.append", f, str(bad), bin("x"))
		d.fails("invalid-syntax", types+"[method]fields.delete", f, str(bad))
		if d.call(types+"[method]fields.has", f, str(bad)).IsSet() || len(d.call(types+"[method]fields.get", f, str(bad)).Elems()) > 0 {
			t.Errorf("%q is there", bad)
		}
	}
	for _, bad := range []string{"a\r\nb: c", "\n", "\x00", "\x7f"} {
		d.fails("invalid-syntax", types+"[method]fields.append", f, str("a"), bin(bad))
		d.fails("invalid-syntax", types+"[static]fields.from-list", engine.List(engine.Tuple(str("a"), bin(bad))))
	}
	for name := range forbidden {
		d.fails("forbidden", types+"[method]fields.set", f, str(strings.ToUpper(name)), engine.List(bin("x")))
		d.fails("forbidden", types+"[static]fields.from-list", engine.List(engine.Tuple(str(name), bin("x"))))
	}
	d.call(types+"[constructor]outgoing-response", f)
	d.traps("no host.fields", types+"[method]fields.entries", f) // given away

	resp := d.call(types+"[constructor]outgoing-response", copied)
	same := d.call(types+"[method]outgoing-response.headers", resp)
	d.fails("immutable", types+"[method]fields.append", same, str("x"), bin("y"))
	d.fails("immutable", types+"[method]fields.delete", same, str("x"))
	d.fails("immutable", types+"[method]fields.set", same, str("x"), engine.List())

	big := d.call(types + "[constructor]fields")
	d.traps("larger than 128 KiB", types+"[method]fields.append", big, str("x"), engine.Bytes([]byte(strings.Repeat("x", maxFields))))
}

func TestContentLengthIsKept(t *testing.T) {
	for _, test := range []struct {
		body, want string
	}{{"12345", ""}, {"1234", "HTTP-response-body-size"}, {"123456", "HTTP-response-body-size"}} {
		d := newDirect(t, t.Context(), &Env{})
		headers := d.ok(types+"[static]fields.from-list", engine.List(engine.Tuple(str("Content-Length"), bin("5"))))
		body := d.ok(types+"[method]outgoing-response.body", d.call(types+"[constructor]outgoing-response", headers))
		stream := d.ok(types+"[method]outgoing-body.write", body)
		d.call(streams+"[method]output-stream.blocking-write-and-flush", stream, bin(test.body))
		d.drop(stream)
		v := d.call(types+"[static]outgoing-body.finish", body, absent)
		if v.Payload().Text() != test.want {
			t.Errorf("%q: finish gives %v", test.body, v)
		}
	}
}

func TestRequestPartsAreChecked(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{})
	r := d.call(types+"[constructor]outgoing-request", d.call(types+"[constructor]fields"))
	for _, test := range []struct {
		part string
		val  engine.Val
		ok   bool
	}{
		{"method", engine.Variant("patch"), true},
		{"method", engine.Variant("other", str("PROPFIND")), true},
		{"method", engine.Variant("other", str("A B")), false},
		{"path-with-query", some(str("/a?b=c")), true},
		{"path-with-query", absent, true},
		{"path-with-query", some(str("/a b")), false},
		{"path-with-query", some(str("a")), false},
		{"path-with-query", some(str("/a\r\nX: y")), false},
		{"scheme", some(schemeHTTP), true},
		{"scheme", some(engine.Variant("other", str("coap+tcp"))), true},
		{"scheme", some(engine.Variant("other", str("1a"))), false},
		{"authority", some(str("example.com:8080")), true},
		{"authority", some(str("[::1]:80")), true},
		{"authority", absent, true},
		{"authority", some(str("")), false},
		{"authority", some(str("user@example.com")), false},
		{"authority", some(str("example.com/path")), false},
		{"authority", some(str("a\r\nb")), false},
	} {
		if v := d.call(types+"[method]outgoing-request.set-"+test.part, r, test.val); v.IsSet() != test.ok {
			t.Errorf("set-%s %v: %v", test.part, test.val, v.IsSet())
		}
	}
}

func TestErrorCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{syscall.ECONNREFUSED, "connection-refused"},
		{&net.OpError{Err: syscall.EHOSTUNREACH}, "destination-IP-unroutable"},
		{&net.DNSError{IsNotFound: true}, "DNS-error"},
		{&net.DNSError{IsTimeout: true}, "DNS-timeout"},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), "connection-terminated"},
		{syscall.ECONNRESET, "connection-terminated"},
		{x509.UnknownAuthorityError{}, "TLS-certificate-error"},
		{context.DeadlineExceeded, "connection-timeout"},
		{errFirstByteTimeout, "connection-read-timeout"},
		{errTest, "internal-error"},
	} {
		if got := errorCode(fmt.Errorf("get: %w", test.err)).Text(); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

func TestPublishGrants(t *testing.T) {
	filters := []string{"alerts/#", "uplink:state", "$SYS/x"}
	for topic, ok := range map[string]bool{
		"alerts/a/b": true, "alerts": true, "uplink:state": true,
		"$SYS/x": false, "state": false, "uplink:alerts/a": false, "alert": false, "alerts/+": false, "": false, "uplink:": false, "alerts/\x00": false,
	} {
		if err := mayPublish(filters, topic); (err == nil) != ok {
			t.Errorf("%q: %v", topic, err)
		}
	}
	err := mayPublish(filters, "doors/open")
	if want := `publish to "doors/open" denied: no filter of publish = ["alerts/#", "uplink:state", "$SYS/x"] matches it`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestKeyvalueDrafts(t *testing.T) {
	b := &bus{}
	d := newDirect(t, t.Context(), &Env{KV: b, Grants: Grants{Stores: []string{"default"}}})
	for n, draft := range []string{"@0.2.0-draft ", "@0.2.0-draft2 "} {
		d.fails("access-denied", "wasi:keyvalue/store"+draft+"open", str("secrets"))
		bucket := d.ok("wasi:keyvalue/store"+draft+"open", str(""))
		for i := range keysPage + 1 {
			d.ok("wasi:keyvalue/store"+draft+"[method]bucket.set", bucket, str(fmt.Sprintf("%d/%05d", n, i)), bin("v"))
		}
		cursor, seen := absent, 0
		for {
			page := d.ok("wasi:keyvalue/store"+draft+"[method]bucket.list-keys", bucket, cursor)
			seen += len(page.Field("keys").Elems())
			if cursor = page.Field("cursor"); !cursor.IsSet() {
				break
			}
		}
		if want := (n+1)*(keysPage+1) + 2*n; seen != want { // the first round leaves "b" and "n"
			t.Errorf("%s: %d keys, want %d", draft, seen, want)
		}
		delta := engine.U64(2)
		if n == 1 {
			delta = engine.S64(-3)
		}
		if v := d.ok("wasi:keyvalue/atomics"+draft+"increment", bucket, str("n"), delta); v.Int() != []int64{2, -1}[n] {
			t.Errorf("%s: incremented to %d", draft, v.Int())
		}
		d.ok("wasi:keyvalue/batch"+draft+"set-many", bucket, engine.List(engine.Tuple(str("a"), bin("1")), engine.Tuple(str("b"), bin("2"))))
		got := d.ok("wasi:keyvalue/batch"+draft+"get-many", bucket, engine.List(str("a"), str("none"), str("b"))).Elems()
		if len(got) != 3 || !got[0].IsSet() || got[1].IsSet() || string(got[2].Payload().Elems()[1].Raw()) != "2" {
			t.Errorf("get-many: %v", got)
		}
		d.ok("wasi:keyvalue/batch"+draft+"delete-many", bucket, engine.List(str("a")))
		if d.ok("wasi:keyvalue/store"+draft+"[method]bucket.exists", bucket, str("a")).IsSet() {
			t.Error("deleted, and there")
		}
		b.data["default/n"] = []byte("many")
		d.fails("other", "wasi:keyvalue/atomics"+draft+"increment", bucket, str("n"), delta)
		b.data["default/n"] = []byte("2")
	}

	bucket := d.ok("wasi:keyvalue/store@0.2.0-draft2 open", str("default"))
	const atomics = "wasi:keyvalue/atomics@0.2.0-draft2 "
	first, second := d.ok(atomics+"[static]cas.new", bucket, str("cas")), d.ok(atomics+"[static]cas.new", bucket, str("cas"))
	d.ok(atomics+"swap", first, bin("one"))
	v := d.call(atomics+"swap", second, bin("two"))
	if v.IsSet() || v.Payload().Text() != "cas-failed" {
		t.Fatalf("swap of what has changed: %v", v)
	}
	fresh := v.Payload().Payload()
	if got := d.ok(atomics+"[method]cas.current", fresh); string(got.Payload().Raw()) != "one" {
		t.Errorf("current is %v", got)
	}
	d.ok(atomics+"swap", fresh, bin("two"))
	d.traps("no host.cas", atomics+"swap", fresh, bin("again"))
}

func TestIncrementsDontWrap(t *testing.T) {
	for _, test := range []struct {
		old   string
		delta int64
		ok    bool
	}{
		{"9223372036854775807", 1, false}, {"9223372036854775807", -1, true}, {"-9223372036854775808", -1, false}, {"5", -9, true}, {"5", 0, true}, {"x", 1, false},
	} {
		if _, _, err := addSigned(test.delta)(test.old); (err == nil) != test.ok {
			t.Errorf("%s + %d: %v", test.old, test.delta, err)
		}
	}
	if _, _, err := addUnsigned(1)("18446744073709551615"); err == nil {
		t.Error("a u64 wrapped")
	}
}

func TestMessagesCarryTheirDelivery(t *testing.T) {
	b := &bus{}
	d := newDirect(t, t.Context(), &Env{Publisher: b, Grants: Grants{Publish: []string{"a"}}})
	const types, send = "wasi:messaging/types@0.2.0-draft ", "wasi:messaging/producer@0.2.0-draft send"
	client := d.ok(types+"[static]client.connect", str("default"))
	message := func(meta ...string) engine.Val {
		m := d.call(types+"[constructor]message", bin("data"))
		for i := 0; i < len(meta); i += 2 {
			d.call(types+"[method]message.add-metadata", m, str(meta[i]), str(meta[i+1]))
		}
		return m
	}
	d.ok(send, client, str("a"), message())
	d.ok(send, client, str("a"), message("qos", "0", "retain", "true"))
	d.fails("other", send, client, str("a"), message("qos", "3"))
	d.fails("permission-denied", send, client, str("b"), message())
	if got := strings.Join(b.sent, ", "); got != "a data 1 false, a data 0 true" {
		t.Errorf("sent %s", got)
	}
}

func TestMessagesHoldWhatTheirTextSays(t *testing.T) {
	d := newDirect(t, t.Context(), &Env{Publisher: &bus{}, Grants: Grants{Publish: []string{"a"}}})
	const types = "wasi:messaging/types@0.2.0-draft "
	m := d.call(types+"[constructor]message", bin("data"))
	if d.call(types+"[method]message.metadata", m).IsSet() || d.call(types+"[method]message.topic", m).IsSet() || d.call(types+"[method]message.content-type", m).IsSet() {
		t.Error("a new message has more than its data")
	}
	for _, kv := range [][2]string{{"a", "1"}, {"b", "2"}, {"a", "3"}} { // a key that is there is overwritten
		d.call(types+"[method]message.add-metadata", m, str(kv[0]), str(kv[1]))
	}
	got := ""
	for _, kv := range d.call(types+"[method]message.metadata", m).Payload().Elems() {
		got += kv.Elems()[0].Text() + "=" + kv.Elems()[1].Text() + " "
	}
	if got != "b=2 a=3 " {
		t.Errorf("metadata %s", got)
	}
	const request = "wasi:messaging/request-reply@0.2.0-draft "
	client := d.ok(types+"[static]client.connect", str("default"))
	options := d.call(request + "[constructor]request-options")
	d.call(request+"[method]request-options.set-timeout-ms", options, engine.U32(5))
	d.fails("other", request+"request", client, str("a"), m, some(options))
	d.traps("no host.replyOptions", request+"request", client, str("a"), m, some(options)) // it was given away
	d.fails("other", request+"request", client, str("a"), m, absent)
	d.fails("other", request+"reply", m, d.call(types+"[constructor]message", bin("answer")))
	d.ok(types+"[method]client.disconnect", client)
}

func TestCheckTexts(t *testing.T) {
	function := engine.Extern{Name: "get", Kind: engine.ExternFunc}
	face := func(name string, items ...engine.Extern) engine.Extern {
		return engine.Extern{Name: name, Kind: engine.ExternInstance, Items: items}
	}
	for _, test := range []struct {
		im   engine.Extern
		want string
	}{
		{face("wasi:io/poll@0.2.99"), ""},
		{face("acme:types/only@1.0.0", engine.Extern{Name: "t", Kind: engine.ExternType}), ""},
		{face("wasi:config/store@0.2.0-rc.1", function), `import wasi:config/store@0.2.0-rc.1 is not granted: add variables = { name = "value" } under [component.c]`},
		{face("wasi:http/types@0.3.0", function), "import wasi:http/types@0.3.0 of [component.c] needs WASI 0.3, which this runtime does not have: build the component for WASI 0.2"},
		{face("wasi:keyvalue/store@0.2.0-draft3", function), "import wasi:keyvalue/store@0.2.0-draft3 of [component.c] is not provided: it is provided as @0.2.0-draft, @0.2.0-draft2: build it against one of these"},
		{face("wasi:clocks/system-clock@0.2.0", function), "import wasi:clocks/system-clock@0.2.0 of [component.c] is not provided: of wasi:clocks, this is: wasi:clocks/monotonic-clock@0.2.12, wasi:clocks/timezone@0.2.12, wasi:clocks/wall-clock@0.2.12"},
		{face("acme:door/lock@1.0.0", function), "import acme:door/lock@1.0.0 of [component.c] is not provided: no board has acme:door; a component can import from fermyon:spin, fermyon:spin-cron, spin:mqtt-trigger, wasi:blobstore, wasi:cli, wasi:clocks, wasi:config, wasi:filesystem, wasi:http, wasi:io, wasi:keyvalue, wasi:logging, wasi:messaging, wasi:random, wasi:sockets, as they are in wit/"},
		{face("wasi:random/random@0.2.3", function), "import wasi:random/random@0.2.3 of [component.c] is not provided in full: wasi:random/random@0.2.12 has no get; build it against that version"},
		{function, "import get of [component.c] is not provided: a component can import interfaces only"},
	} {
		err := checkImports(allInterfaces, []engine.Extern{test.im}, "c", Grants{})
		if got := fmt.Sprint(err); test.want == "" && err != nil || test.want != "" && got != test.want {
			t.Errorf("%s: %s", test.im.Name, got)
		}
	}
	if err := checkImports(allInterfaces, nil, "c", Grants{OutboundHosts: []string{"example.com"}}); err == nil {
		t.Error("a host without a scheme is granted")
	}
}

func TestCompatibleNames(t *testing.T) {
	for name, want := range map[string]string{
		"wasi:io/poll@0.2.3": "wasi:io/poll@0.2", "a:b/c@1.2.3": "a:b/c@1", "a:b/c@0.0.3": "a:b/c@0.0.3", "a:b/c@0.2.0-draft": "", "a:b/c": "",
	} {
		if got := engine.Track(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Whatever a guest passes, no host function may panic: each is called with handles of every kind and with odd values.
func TestNoArgumentsPanicTheHost(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing waits
	for name, i := range allInterfaces {
		for function, fn := range i.funcs {
			d := newDirect(t, ctx, &Env{KV: &bus{}, Publisher: &bus{}, Stdin: strings.NewReader("x"), Grants: Grants{Stores: []string{"default"}, BlobStores: []string{"x"}, Publish: []string{"#"}}})
			handles := []engine.Val{
				d.call("wasi:cli/stdin get-stdin"), d.call("wasi:cli/stdout get-stdout"), d.call(types + "[constructor]fields"),
				d.call(clock+"subscribe-duration", engine.U64(1)), engine.Own(typError, 77), engine.Borrow(typFields, 1<<31),
			}
			for seed := range 12 {
				args := make([]engine.Val, len(fn.params))
				for n, k := range fn.params {
					args[n] = odd(k, seed+n, handles)
				}
				func() {
					defer func() {
						if p := recover(); p != nil {
							t.Errorf("%s %s %v: panic: %v", name, function, args, p)
						}
					}()
					_, _ = fn.invoke(d.Guest, args)
				}()
			}
		}
	}
}

// odd value of a kind.
func odd(k engine.Kind, n int, handles []engine.Val) engine.Val {
	inner := []engine.Val{str("x"), engine.Tuple(), engine.Tuple(str("a"), str("b")), engine.U64(1 << 63), engine.Variant("other"), handles[n%len(handles)]}[n%6]
	switch k {
	case kHandle:
		return handles[n%len(handles)]
	case kString:
		return str([]string{"", "x", "\x00", "default", "/"}[n%5])
	case kBytes:
		return engine.Bytes(nil)
	case kList:
		return []engine.Val{engine.List(), engine.List(inner), engine.List(inner, engine.Val{})}[n%3]
	case kOption:
		return []engine.Val{absent, some(inner)}[n%2]
	case kResult:
		return []engine.Val{engine.OK(), engine.OK(inner), engine.Err(), engine.Err(inner)}[n%4]
	case kVariant:
		return []engine.Val{engine.Variant(""), engine.Variant("other", inner), engine.Variant("get")}[n%3]
	case kRecord:
		return engine.Record()
	case kEnum:
		return engine.Enum("none")
	case kFlags:
		return engine.Flags("none")
	case kBool:
		return engine.Bool(n%2 == 0)
	case kU8:
		return engine.U8(255)
	case kU16:
		return engine.U16(uint16(n))
	case kU32:
		return engine.U32(1 << 31)
	case kS64:
		return engine.S64(-1 << 63)
	}
	return engine.U64([]uint64{0, 1, 1 << 62, 1<<64 - 1}[n%4])
}

// Spin's handlers publish to an address of their own; the board's bus takes the message, with the event's commit.
func TestSpinsMQTTLeadsToTheBoardsBus(t *testing.T) {
	b := &bus{}
	d := newDirect(t, t.Context(), &Env{Publisher: b, Grants: Grants{Publish: []string{"a"}}})
	const open, publish = "fermyon:spin/mqtt@2.0.0 [static]connection.open", "fermyon:spin/mqtt@2.0.0 [method]connection.publish"
	for _, address := range []string{"", "localhost:1883", "http://localhost", "mqtt://", "mqtt://a\x7fb"} {
		d.fails("invalid-address", open, str(address), str(""), str(""), number(30))
	}
	connection := d.ok(open, str("mqtt://elsewhere.example:1883"), str("user"), str("password"), number(30))
	d.ok(publish, connection, str("a"), bin("one"), engine.Enum("at-most-once"))
	d.ok(publish, connection, str("a"), bin("two"), engine.Enum("exactly-once"))
	d.fails("connection-failed", publish, connection, str("b"), bin("three"), engine.Enum("at-least-once"))
	if got := strings.Join(b.sent, ", "); got != "a one 0 false, a two 2 false" {
		t.Errorf("sent %s", got)
	}
}
