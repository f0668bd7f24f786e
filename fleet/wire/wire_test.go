package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestBoardTouchesItsOwnTopicsOnly(t *testing.T) {
	for _, c := range channels {
		own := Topic{"green", "pi-1", c.Channel}.Format()
		if MayPublish("green", "pi-1", own) != c.Up || MaySubscribe("green", "pi-1", own) == c.Up {
			t.Errorf("%s: publish %t, subscribe %t", own, MayPublish("green", "pi-1", own), MaySubscribe("green", "pi-1", own))
		}
		for _, other := range []Topic{{"green", "pi-2", c.Channel}, {"blue", "pi-1", c.Channel}} {
			if MayPublish("green", "pi-1", other.Format()) || MaySubscribe("green", "pi-1", other.Format()) {
				t.Errorf("touches %s", other)
			}
		}
	}
	for _, f := range []string{"#", "dunlin/v1/green/#", "dunlin/v1/green/+/desired", "dunlin/v1/green/pi-1/+", "$SYS/#", "dunlin/v1/green/pi-1/desired/x", ""} {
		if MaySubscribe("green", "pi-1", f) || MayPublish("green", "pi-1", f) {
			t.Errorf("touches %q", f)
		}
	}
}

func TestSubscriptionsCoverExactlyTheOtherSide(t *testing.T) {
	for _, c := range channels {
		topic := Topic{"green", "pi-1", c.Channel}.Format()
		covered := func(filters []string) bool {
			for _, f := range filters {
				if MatchFilter(f, topic) {
					return true
				}
			}
			return false
		}
		if covered(FleetFilters("green")) != c.Up || covered(DeviceFilters("green", "pi-1")) == c.Up {
			t.Errorf("%s: fleet %v, device %v", topic, covered(FleetFilters("green")), covered(DeviceFilters("green", "pi-1")))
		}
	}
}

func TestInterruptedTransferGoesOnWhereItStopped(t *testing.T) {
	content := make([]byte, 300_123)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	o, err := NewOffer(EncodingRaw, Sum(content), int64(len(content)), Digest{}, content, 4096)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(content))
	k := NewBlocks(uint32(len(o.Blocks)))
	var requests, blocks int
	for !k.Done() {
		// Every window is a new process: all that it has is the bitmap.
		if k, err = ParseBlocks(k.Marshal()); err != nil {
			t.Fatal(err)
		}
		get := Get{Request: 1, Blocks: &BlockRequest{Encoding: o.ID(), Ranges: k.Next(20)}}
		if _, err := MarshalGet(get); err != nil {
			t.Fatal(err)
		}
		requests++
		for _, g := range get.Blocks.Ranges {
			for i := g.First; i < g.First+g.Count; i++ {
				if requests%2 == 1 && i%3 == 0 {
					continue // lost on the way
				}
				at := int(i) * o.BlockBytes
				b, err := MarshalFrame(Frame{Kind: FrameBlock, Request: 1, Index: i, Total: k.Total(), Encoding: o.ID(), Body: content[at : at+o.BlockLen(i)]})
				if err != nil {
					t.Fatal(err)
				}
				f, err := UnmarshalFrame(b)
				if err != nil {
					t.Fatal(err)
				}
				offset, err := o.Block(f)
				if err != nil {
					t.Fatal(err)
				}
				copy(got[offset:], f.Body)
				if !k.Add(i) {
					t.Fatalf("block %d was asked for twice", i)
				}
				blocks++
			}
		}
	}
	if !bytes.Equal(got, content) || blocks != len(o.Blocks) {
		t.Errorf("%d of %d blocks, equal %t", blocks, len(o.Blocks), bytes.Equal(got, content))
	}
}

func TestForgedBlockIsRefused(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 5000)
	o, err := NewOffer(EncodingRaw, Sum(content), 5000, Digest{}, content, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := Frame{Kind: FrameBlock, Index: 4, Total: 5, Encoding: o.ID(), Body: content[4096:]}
	if at, err := o.Block(good); err != nil || at != 4096 {
		t.Fatal(at, err)
	}
	for name, change := range map[string]func(*Frame){
		"content":  func(f *Frame) { f.Body = append([]byte("y"), f.Body[1:]...) },
		"short":    func(f *Frame) { f.Body = f.Body[1:] },
		"index":    func(f *Frame) { f.Index = 3 },
		"beyond":   func(f *Frame) { f.Index = 5; f.Total = 6 },
		"total":    func(f *Frame) { f.Total = 6 },
		"encoding": func(f *Frame) { f.Encoding = Sum(nil) },
		"kind":     func(f *Frame) { f.Kind = FrameMeta },
	} {
		f := good
		change(&f)
		if _, err := o.Block(f); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestAnswersComeTogetherInAnyOrder(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 20_000)
	frames, err := Split(FrameMeta, 7, content)
	if err != nil || len(frames) != 4 {
		t.Fatal(len(frames), err)
	}
	p := Parts{Kind: FrameMeta, Request: 7, Limit: int64(len(content))}
	for _, i := range []int{3, 1, 1, 0, 2} {
		whole, err := p.Add(frames[i])
		if err != nil || whole != (i == 2) || whole != (p.Bytes() != nil) {
			t.Fatal(i, whole, err)
		}
	}
	if !bytes.Equal(p.Bytes(), content) {
		t.Error("other bytes")
	}
	for name, c := range map[string]struct {
		parts Parts
		frame Frame
	}{
		"another request": {Parts{Kind: FrameMeta, Request: 8, Limit: 1 << 20}, frames[0]},
		"another kind":    {Parts{Kind: FrameOffer, Request: 7, Limit: 1 << 20}, frames[0]},
		"too long":        {Parts{Kind: FrameMeta, Request: 7, Limit: int64(len(content)) - 1}, frames[3]},
		"too many parts":  {Parts{Kind: FrameMeta, Request: 7, Limit: MaxBlockBytes}, frames[0]},
	} {
		if _, err := c.parts.Add(c.frame); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	refusal := Parts{Kind: FrameMeta, Request: 7, Limit: 1 << 20}
	_, err = refusal.Add(ErrorFrame(7, CodeBusy, "later"))
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeBusy || !e.Retryable() {
		t.Errorf("error answer gives %v", err)
	}
}

func TestLargestAnswersFitOneMessage(t *testing.T) {
	b, err := MarshalFrame(Frame{Kind: FrameBlock, Index: 0, Total: 1, Encoding: Sum(nil), Body: make([]byte, MaxBlockBytes)})
	if err != nil || len(b) > MaxMessageBytes {
		t.Errorf("block frame of %d bytes: %v", len(b), err)
	}
	largest := Uplink{ID: 1<<64 - 1, Sequence: 1<<64 - 1, At: -1, Up: 1<<63 - 1, Clock: ClockSynced, Application: strings.Repeat("a", MaxNameBytes), Topic: strings.Repeat("t", MaxTopicBytes), Payload: make([]byte, MaxDataPayload)}
	if largest.Bytes() != MaxDataBytes {
		t.Errorf("the largest message is taken to have %d bytes, limit is %d", largest.Bytes(), MaxDataBytes)
	}
	b, err = MarshalData(Data{Messages: []Uplink{largest}})
	if err != nil || len(b) != MaxMessageBytes {
		t.Errorf("data of %d bytes: %v", len(b), err)
	}
	have := make([]Digest, MaxHave)
	if b, err := MarshalGet(Get{Offer: &OfferRequest{Target: Sum(nil), Size: 1, Have: have, BlockBytes: MinBlockBytes}}); err != nil {
		t.Errorf("offer request of %d bytes: %v", len(b), err)
	}
	// The largest blob in the smallest blocks still has an offer that parts can carry.
	if n := MaxBlobBytes/MinBlockBytes*32 + offerHeaderBytes; n > MaxParts*MaxBlockBytes {
		t.Errorf("offer of %d bytes", n)
	}
}

func TestNextAsksForEachMissingBlockOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		k := NewBlocks(uint32(r.IntN(300)))
		for range r.IntN(300) {
			k.Add(uint32(r.IntN(300)))
		}
		window := 1 + r.IntN(100)
		var asked uint32
		next := uint32(0)
		for i, g := range k.Next(window) {
			if g.Count == 0 || i > 0 && g.First <= next {
				t.Fatalf("ranges touch: %v", k.Next(window))
			}
			for b := next; b < g.First; b++ {
				if !k.Has(b) {
					t.Fatalf("block %d is left out", b)
				}
			}
			for b := g.First; b < g.First+g.Count; b++ {
				if k.Has(b) {
					t.Fatalf("block %d is there", b)
				}
			}
			next = g.First + g.Count
			asked += g.Count
		}
		if want := min(k.Total()-k.Have(), uint32(min(window, MaxWindow))); asked != want {
			t.Fatalf("%d asked, want %d", asked, want)
		}
	}
}

func TestOutboundHosts(t *testing.T) {
	type request struct {
		scheme, host string
		port         uint16
	}
	api, apiPort, plain, sub, local := request{"https", "api.example.com", 0}, request{"https", "api.example.com", 8443}, request{"http", "api.example.com", 80}, request{"https", "a.b.example.com", 443}, request{"http", "::1", 8080}
	lan, ula, mapped := request{"http", "10.1.2.3", 8080}, request{"https", "fd00::1", 0}, request{"http", "::ffff:10.1.2.3", 8089}
	all := []request{api, apiPort, plain, sub, local, lan, ula, mapped}
	for allowed, want := range map[string][]request{
		"https://api.example.com":      {api},
		"https://api.example.com:8443": {apiPort},
		"https://api.example.com:*":    {api, apiPort},
		"*://api.example.com":          {api, apiPort, plain},
		"https://*.example.com":        {api, sub},
		"http://*":                     {plain},
		"http://[::1]:8080":            {local},
		"*://*:*":                      all,
		"https://example.com":          nil,
		"http://10.0.0.0/8:8080..8090": {lan, mapped},
		"*://10.1.0.0/16":              {lan, mapped},
		"http://10.1.2.3:8080..8081":   {lan},
		"http://10.1.2.3:8081..8090":   nil, // the end of a range is not in it
		"http://10.1.2.3:8000..8080":   nil,
		"https://fd00::/8":             {ula},
		"https://[fd00::]/8":           {ula},
		"https://fd00::/8:443":         {ula},
		"http://fd00::/8":              nil,
		"http://0.0.0.0/0:*":           {lan, mapped},
		"*://self":                     nil,
	} {
		o, err := ParseOutbound(allowed)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			ok := false
			for _, w := range want {
				ok = ok || w == r
			}
			if o.Allows(r.scheme, r.host, r.port) != ok {
				t.Errorf("%s: %+v is %t", allowed, r, !ok)
			}
		}
	}
	for _, bad := range []string{"", "api.example.com", "ftp://x", "https://", "https://x/path", "https://x:0", "https://x:70000", "https://x:080", "https://a*.example.com", "https://*.*.com", "https://X.com", "https://[::1", "https://[1.2.3.4]", "https://::1", "https://user@x", "https://*.",
		"https://x:", "https://x:80..80", "https://x:90..80", "https://x:80..", "https://x:..80", "https://x:1..70000", "https://10.0.0.0/33", "https://x/8", "https://[fd00::/8", "https://{a,b}"} {
		if _, err := ParseOutbound(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// What a grant can only have meant, and what it may have swept in.
func TestOutboundHostsAreNamedByNoWildcard(t *testing.T) {
	for allowed, named := range map[string]bool{
		"http://169.254.169.254": true, "*://169.254.169.254:80": true, "http://169.254.169.254:*": false, "*://169.254.169.254": false,
		"http://169.254.169.254:80..82": false, "http://169.254.169.254/32": false, "http://*": false, "http://169.254.169.254:81": false,
	} {
		o, err := ParseOutbound(allowed)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.Names("http", "169.254.169.254", 80); got != named {
			t.Errorf("%s: %t", allowed, got)
		}
	}
	for allowed, self := range map[string]bool{"http://self": true, "*://*": true, "http://selfish": false} {
		if o, err := ParseOutbound(allowed); err != nil || o.Self() != self {
			t.Errorf("%s: %t, %v", allowed, o.Self(), err)
		}
	}
}

func FuzzOutbound(f *testing.F) {
	for _, s := range []string{"https://*.example.com", "http://10.0.0.0/8:80..90", "*://[::1]:*", "https://fd00::/8:443", "http://self"} {
		f.Add(s, "10.0.0.1", uint16(80))
	}
	f.Fuzz(func(t *testing.T, s, host string, port uint16) {
		o, err := ParseOutbound(s)
		if err == nil && o.Names("http", host, port) && !o.Allows("http", host, port) {
			t.Error("named, and not allowed")
		}
	})
}

func TestRoutesThatMatchTheSameAreTheSame(t *testing.T) {
	for _, c := range [][2]string{{"/", "/"}, {"/a", "/a"}, {"/a/", "/a"}, {"/...", "/..."}, {"/a/...", "/a/..."}, {"/r/:id/x", "/r/:/x"}, {"/r/:room/x/", "/r/:/x"},
		{"/.well-known/...", "/.well-known/..."}, {"/.well-known/dunlin-2", "/.well-known/dunlin-2"}} {
		if got, err := CheckRoute(c[0]); err != nil || got != c[1] {
			t.Errorf("%s: %q %v", c[0], got, err)
		}
	}
	for _, bad := range []string{"", "a", "/a//b", "/.../a", "/a/:", "/a?b", "/a%20b", "/a b", "/*", "/a/../b", "/\xff",
		"/.well-known/dunlin", "/.well-known/dunlin/", "/.well-known/dunlin/...", "/.well-known/dunlin/health"} {
		if _, err := CheckRoute(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestCronFollowsItsTimeZoneOverTheClockChange(t *testing.T) {
	for _, c := range []struct {
		line, zone, from string
		want             []string // in the zone's own time
	}{
		{"0 6 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", []string{"28 06:00 +0100", "29 06:00 +0200", "30 06:00 +0200"}},
		// 02:00 to 03:00 does not exist: at the moment of the change, once.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", []string{"28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"}},
		{"10,30 2 * * *", "Europe/Berlin", "2026-03-28T02:00:00Z", []string{"29 03:00 +0200", "30 02:10 +0200"}},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-02T15:00:00Z", []string{"03 02:15 +1030", "04 02:30 +1100", "05 02:15 +1100"}},
		{"0 0 * * *", "America/Sao_Paulo", "2018-11-03T00:00:00Z", []string{"03 00:00 -0300", "04 01:00 -0200", "05 00:00 -0200"}},
		// A day that does not exist.
		{"0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", []string{"29 12:00 -1000", "31 00:00 +1400", "31 12:00 +1400"}},
		// 02:00 to 03:00 comes twice: fixed hours once, others in real time.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", []string{"24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"}},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", []string{"05 01:45 +1100", "06 01:45 +1030"}},
		{"*/30 * * * *", "Europe/Berlin", "2026-10-24T23:40:00Z", []string{"25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100", "25 03:00 +0100"}},
		{"*/30 * * * *", "Europe/Berlin", "2026-03-29T00:20:00Z", []string{"29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"}},
		// Asked from within the second hour.
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", []string{"26 02:30 +0100"}},
	} {
		s, err := ParseCron(c.line, c.zone)
		if err != nil {
			t.Fatal(err)
		}
		zone, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			at = s.Next(at)
			if got := at.In(zone).Format("02 15:04 -0700"); got != want {
				t.Errorf("%s in %s: got %s, want %s", c.line, c.zone, got, want)
			}
		}
	}
	seconds, err := ParseCron("*/10 * * * * *", "UTC")
	if err != nil || !seconds.Next(when).Equal(when.Add(10*time.Second)) {
		t.Errorf("six fields: %v", err)
	}
	// Day of month or day of week, as crontab has it: 13 November 2026 is a Friday, the next 1st a Tuesday.
	either, err := ParseCron("0 0 1 * FRI", "UTC")
	if err != nil || either.Next(when).Format(time.DateOnly) != "2026-11-27" || either.Next(when.AddDate(0, 0, 5)).Format(time.DateOnly) != "2026-12-01" {
		t.Errorf("either day: %v", err)
	}
}

func TestClippedTextStaysValid(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("ü", MaxErrorBytes), strings.Repeat("x", MaxErrorBytes-1) + "€€", "bad \xff byte", strings.Repeat("x", 2*MaxErrorBytes)} {
		if got := Clip(s); !utf8.ValidString(got) || len(got) > MaxErrorBytes || len(got) < min(len(s), MaxErrorBytes)-4 {
			t.Errorf("%d bytes give %d, valid %t", len(s), len(got), utf8.ValidString(got))
		}
	}
}

func TestOtherVersionsAreNamed(t *testing.T) {
	_, err := UnmarshalHello([]byte(`{"version":2,"session":"s","news":true}`))
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("got %v", err)
	}
	_, err = UnmarshalHello([]byte(`{ "version":1}`))
	if errors.Is(err, ErrVersion) || err == nil {
		t.Errorf("got %v", err)
	}
}

// An answer without a component is checked like all else that boards send: no header splits a response.
func TestStaticAnswersAreChecked(t *testing.T) {
	release := func(h HTTPTrigger) Release {
		h.ID, h.Route = "a", "/"
		return Release{Format: ReleaseFormat, Application: "a", Version: "1.0.0", Triggers: Triggers{HTTP: []HTTPTrigger{h}},
			Components: map[string]Component{"c": {Digest: Sum(nil), Size: 1, Limits: DefaultLimits()}}}
	}
	if _, err := MarshalRelease(release(HTTPTrigger{Static: &Static{Status: 301, Headers: map[string]string{"location": "/b"}}})); err != nil {
		t.Error(err)
	}
	for name, h := range map[string]HTTPTrigger{
		"neither":        {},
		"both":           {Component: "c", Static: &Static{Status: 200}},
		"informational":  {Static: &Static{Status: 101}},
		"no status":      {Static: &Static{}},
		"name":           {Static: &Static{Status: 200, Headers: map[string]string{"a b": ""}}},
		"empty name":     {Static: &Static{Status: 200, Headers: map[string]string{"": ""}}},
		"split response": {Static: &Static{Status: 200, Headers: map[string]string{"a": "b\r\nc: d"}}},
	} {
		if _, err := MarshalRelease(release(h)); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}
