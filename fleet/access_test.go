package fleet_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
)

// Who isn't a board of this fleet doesn't get in.
func TestConnectionsThatAreRefused(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	for name, change := range map[string]func(*mqtt.ClientOptions){
		"wrong password":                  func(o *mqtt.ClientOptions) { o.SetPassword("guess") },
		"no password":                     func(o *mqtt.ClientOptions) { o.SetPassword("") },
		"admin token as password":         func(o *mqtt.ClientOptions) { o.SetPassword(s.secret(fleet.AdminTokenFile)) },
		"another board's client id":       func(o *mqtt.ClientOptions) { o.SetClientID(fleetName + ".victim") },
		"the broker's own client id":      func(o *mqtt.ClientOptions) { o.SetClientID("inline") },
		"a name that is no name":          func(o *mqtt.ClientOptions) { o.SetUsername("a/+").SetClientID(fleetName + ".a/+") },
		"a will on another board's state": func(o *mqtt.ClientOptions) { o.SetWill(topic("victim", wire.ChannelState), "{}", 1, true) },
		"a will on its own desired":       func(o *mqtt.ClientOptions) { o.SetWill(topic("board", wire.ChannelDesired), "{}", 1, true) },
		"no keep alive":                   func(o *mqtt.ClientOptions) { o.SetKeepAlive(0) },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(s, "board")
			change(o)
			c := mqtt.NewClient(o)
			token := c.Connect()
			if !token.WaitTimeout(patience) {
				t.Fatal("no answer")
			}
			if token.Error() == nil {
				c.Disconnect(0)
				t.Fatal("it was let in")
			}
		})
	}
	connect(t, s, "board", nil)
}

func TestNobodyGetsInBeforeTheFleetHasKeys(t *testing.T) {
	s := start(t, fleet.Config{})
	token := mqtt.NewClient(options(s, "board")).Connect()
	if !token.WaitTimeout(patience) || token.Error() == nil {
		t.Fatal("a board was let in")
	}
}

// A board that was taken over can hear and say its own things only.
func TestBoardCanNotReadOthersTopics(t *testing.T) {
	s := start(t, fleet.Config{})
	o := found(t, s)
	evil := connect(t, s, "evil", nil)
	heard := make(chan string, 16)
	for _, filter := range []string{
		"#", "+/+/+/+/+", "$SYS/#", "$share/g/" + topic("victim", wire.ChannelDesired), "dunlin/v1/" + fleetName + "/+/desired",
		topic("victim", wire.ChannelDesired), topic("victim", wire.ChannelBlock), topic("evil", wire.ChannelState), "dunlin/v1/other/evil/desired",
	} {
		token := evil.c.Subscribe(filter, 1, func(_ mqtt.Client, m mqtt.Message) {
			if m.Topic() != topic("evil", wire.ChannelBlock) { // the answer that it asks for below
				heard <- m.Topic()
			}
		})
		if !token.WaitTimeout(patience) {
			t.Fatal("no answer")
		}
		// One filter, one code; the client library keeps it under a name of its own for $share.
		for _, code := range token.(*mqtt.SubscribeToken).Result() {
			if code != 0x80 {
				t.Errorf("subscribe %s was granted with %#x", filter, code)
			}
		}
	}
	victim := connect(t, s, "victim", nil)
	o.publish(s, "1.0.0", []byte("component"))
	o.assign(s, "1.0.0", model.Selector{Device: "victim"})
	receive(t, victim.desired)
	// Its own channel works, and by the time that an answer is here, anything else would be too.
	if _, err := evil.answer(wire.Get{Request: 1, Meta: &wire.MetaRequest{Role: wire.RoleRoot}}, wire.FrameMeta); err != nil {
		t.Error(err)
	}
	if len(heard) > 0 {
		t.Errorf("it heard %s", <-heard)
	}
}

func TestBoardCanNotSpeakForOthersOrForTheFleet(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	victim := connect(t, s, "victim", nil)
	hello, err := wire.MarshalHello(wire.Hello{Version: wire.Version, Session: "fake", Agent: "9", Arch: "x", Boot: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{
		topic("victim", wire.ChannelHello), topic("victim", wire.ChannelDesired), topic("evil", wire.ChannelDesired), topic("evil", wire.ChannelBlock),
		"$SYS/broker/version", "dunlin/v1/other/evil/hello", "dunlin/v1/" + fleetName + "/evil/hello/more",
	} {
		evil := connect(t, s, "evil", nil)
		evil.c.Publish(to, 1, true, hello)
		if !strings.HasPrefix(to, "$") { // which the broker ignores
			if err := receive(t, evil.lost); err == nil { // MQTT 3.1.1 has no other no
				t.Error("it was sent away politely")
			}
		}
	}
	d := s.eventually("victim", "the victim is here", func(d model.Device) bool { return d.Online })
	if d.Agent != "0.1.0" {
		t.Errorf("the victim's agent is %q now", d.Agent)
	}
	if len(victim.desired) > 0 {
		t.Errorf("the victim got %q", <-victim.desired)
	}
	// Nothing was retained for a board that comes later either.
	later := connect(t, s, "evil", nil)
	if _, err := later.answer(wire.Get{Request: 1, Meta: &wire.MetaRequest{Role: wire.RoleRoot}}, wire.FrameMeta); err != nil {
		t.Error(err)
	}
	if len(later.desired) > 0 {
		t.Errorf("it got a desired state of its own making: %q", <-later.desired)
	}
}

// Bytes that are no message, on every channel, over and over: the board stays connected and the server up.
func TestGarbageFromABoardCostsNothing(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	b := connect(t, s, "board", nil)
	for _, c := range []wire.Channel{
		wire.ChannelHello, wire.ChannelState, wire.ChannelReported, wire.ChannelGet, wire.ChannelLog, wire.ChannelData, wire.ChannelDone,
	} {
		for _, junk := range []string{"", "{", "null", "[]", `{"version":1}`, `{"request":1,"blocks":{"encoding":"sha256:00","ranges":[{"first":4294967295,"count":4294967295}]}}`,
			"\x00\xff", strings.Repeat("[", 60_000), strings.Repeat("A", wire.MaxMessageBytes)} {
			must(t, b.c.Publish(topic("board", c), 1, false, junk))
		}
	}
	if _, err := b.answer(wire.Get{Request: 7, Meta: &wire.MetaRequest{Role: wire.RoleTimestamp}}, wire.FrameMeta); err != nil {
		t.Error(err)
	}
	d := s.eventually("board", "the board is here", func(d model.Device) bool { return d.Online })
	if d.Agent != "0.1.0" {
		t.Errorf("garbage changed the device: %+v", d)
	}
}

// Five bytes announce a packet of 256 MiB, before and after nothing is known of the sender: it costs the connection.
func TestAnnouncedGiantPacketIsRefused(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	for _, first := range []byte{0x10, 0x30} {
		c, err := net.Dial("tcp", s.mqtt)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte{first, 0xff, 0xff, 0xff, 0x7f}); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %#x: read %d, %v; want the connection closed", first, n, err)
		}
	}
}

func TestAPINeedsTheToken(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	for _, header := range []string{"", "Bearer ", "Bearer guess", "Basic " + s.secret(fleet.AdminTokenFile), "Bearer " + s.secret(fleet.JoinTokenFile), s.secret(fleet.AdminTokenFile)} {
		for _, path := range []string{"/v1/devices", "/v1/keys", "/v1/root", "/v1/blobs/x", "/v1/none"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.http+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", header)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("GET %s with %.8q: %s", path, header, resp.Status)
			}
		}
	}
	if resp, err := http.Get("http://" + s.http + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %v, %v", resp, err)
	}
}

func TestBadRequestsGetAnErrorThatSaysWhy(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	digest := wire.Sum([]byte("x")).String()
	for _, c := range []struct {
		method, path, body string
		header             map[string]string
		code               int
		want               string
	}{
		{"POST", "/v1/desired", `{`, nil, 400, "unexpected EOF"},
		{"POST", "/v1/desired", `{"app":"x"}`, nil, 400, "unknown field"},
		{"POST", "/v1/desired", `{"application":"x","version":"1.0.0","selector":{"all":true}}`, nil, 404, "x/1.0.0.json"},
		{"POST", "/v1/root", `{}{}`, nil, 400, "more than one value"},
		{"POST", "/v1/root", `{"root":"AAAA"}`, nil, 422, "root"},
		{"POST", "/v1/releases", `{"manifest":"e30=","targets":"e30="}`, nil, 422, "release"},
		{"GET", "/v1/devices?after=-1", "", nil, 400, "after"},
		{"GET", "/v1/devices?wait=9999", "", nil, 400, "wait"},
		{"GET", "/v1/devices/nobody", "", nil, 404, "nobody"},
		{"GET", "/v1/metadata/passwd", "", nil, 404, "passwd"},
		{"PUT", "/v1/blobs/sha256:00", "x", nil, 400, "digest"},
		{"PUT", "/v1/blobs/" + digest, "y", nil, 422, "digest"},
		{"PUT", "/v1/blobs/" + digest, "x", map[string]string{"Content-Range": "bytes 0-9"}, 400, "Content-Range"},
		{"PUT", "/v1/blobs/" + digest, "x", map[string]string{"Content-Range": "bytes 5-5/9"}, 416, "another offset"},
		{"PUT", "/v1/blobs/" + digest, "x", map[string]string{"Content-Range": "bytes 0-0/99999999999"}, 400, "99999999999"},
		{"DELETE", "/v1/devices", "", nil, 404, "DELETE"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+s.http+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+s.secret(fleet.AdminTokenFile))
			for k, v := range c.header {
				req.Header.Set(k, v)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var e model.Error
			if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.code || !strings.Contains(e.Error, c.want) {
				t.Errorf("%d %q, want %d and %q", resp.StatusCode, e.Error, c.code, c.want)
			}
		})
	}
}

// A client that never sends its CONNECT, and one whose socket takes nothing, hold nobody up.
func TestIdleConnectionsHoldNobodyUp(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	for range 50 {
		c, err := net.Dial("tcp", s.mqtt)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	connect(t, s, "board", nil)
}
