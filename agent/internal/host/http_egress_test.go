package host

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// guestOn is a guest whose requests go out by a client of the test's own.
func guestOn(t *testing.T, client *http.Client, l *logs, grants ...string) direct {
	g := newGuest(t.Context(), client, Limits{}, &Env{Log: l.add, Grants: Grants{OutboundHosts: grants}})
	t.Cleanup(g.end)
	return direct{g, t}
}

// reach a URL: "" for an answer, else the error-code.
func (d direct) reach(url string) string {
	d.t.Helper()
	v := d.call("wasi:http/outgoing-handler handle", d.newRequest("GET", url), absent)
	if !v.IsSet() {
		return v.Payload().Text()
	}
	resp := d.answer(v.Payload())
	if !resp.IsSet() {
		return resp.Payload().Text()
	}
	d.read(resp.Payload())
	return ""
}

func counting(t *testing.T) (s *httptest.Server, hits *atomic.Int32, port string) {
	hits = new(atomic.Int32)
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		_, _ = io.WriteString(w, r.Host+r.URL.Path)
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return s, hits, port
}

func TestInsidesOfTheBoardAndOfCloudsNeedTheirVeryAddress(t *testing.T) {
	e := newEgress(nil)
	for address, allowed := range map[string]bool{
		"169.254.169.254": false, "169.254.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false, "::a9fe:a9fe": false,
		"fe80::1": false, "fe80::1%lo": false, "febf::1": false, "fd00:ec2::254": false, "fd20:ce::254": false, "100.100.100.200": false, "168.63.129.16": false, "192.0.0.192": false,
		"0.0.0.0": false, "::": false, "::ffff:0.0.0.0": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"127.0.0.1": true, "::1": true, "10.0.0.1": true, "192.168.1.1": true, "fd00::1": true, "8.8.8.8": true, "2001:db8::1": true, "64:ff9b::808:808": true, "169.253.1.1": true,
	} {
		err := e.check("x", netip.AddrPortFrom(netip.MustParseAddr(address), 80))
		if (err == nil) != allowed {
			t.Errorf("%s: %v", address, err)
		}
	}

	// And the guest is told, and the log says what to write where; nothing is tried a second time.
	var l logs
	d := guestOn(t, defaultClient(), &l, "*://*:*", "http://169.254.0.0/16", "http://169.254.169.254:1..100")
	for _, url := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/"} {
		l = nil
		if got := d.reach(url); got != "destination-IP-prohibited" {
			t.Errorf("%s: %q", url, got)
		}
		if len(l) != 1 || !strings.Contains(l[0], "denied: it is") || !strings.Contains(l[0], `as in "http://`) {
			t.Errorf("%s: logged %v", url, l)
		}
	}

	// 0.0.0.0 leads to this machine, so that it can be tried for real.
	_, hits, port := counting(t)
	for grant, want := range map[string]string{
		"*://*:*": "destination-IP-prohibited", "http://0.0.0.0:*": "destination-IP-prohibited", "http://0.0.0.0/0:" + port: "destination-IP-prohibited",
		"http://0.0.0.0:" + port: "",
	} {
		if got := guestOn(t, defaultClient(), &l, grant).reach("http://0.0.0.0:" + port + "/"); got != want {
			t.Errorf("%s: %q", grant, got)
		}
	}
	if hits.Load() != 1 {
		t.Errorf("%d requests arrived, want the one that was granted", hits.Load())
	}
}

func TestTheAgentsOwnPortsNeedTheirVeryAddress(t *testing.T) {
	own, hits, port := counting(t)
	other, _, otherPort := counting(t)
	client := defaultClient()
	(&Host{client: client}).Guard(func() (string, []string) { return "", []string{"127.0.0.1:1", "[::]:" + port} })
	var l logs
	for _, grant := range []string{"*://*:*", "http://127.0.0.1:*", "http://127.0.0.0/8:" + port, "http://*:" + port, "http://localhost:*", "http://127.0.0.1:1..65535"} {
		for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
			got := guestOn(t, client, &l, grant).reach("http://" + host + ":" + port + "/")
			if got != "destination-IP-prohibited" && got != "HTTP-request-denied" {
				t.Errorf("%s opens %s: %q", grant, host, got)
			}
		}
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests reached the agent", hits.Load())
	}
	if got := guestOn(t, client, &l, "http://127.0.0.1:*").reach("http://127.0.0.1:" + otherPort); got != "" {
		t.Errorf("another program's port %s: %q", other.URL, got)
	}
	for _, grant := range []string{"http://127.0.0.1:" + port, "http://localhost:" + port} {
		if got := guestOn(t, client, &l, grant, "*://*:*").reach(grant + "/"); got != "" {
			t.Errorf("%s of %s: %q", grant, own.URL, got)
		}
	}
	// The connections that are open now are for those that were granted the address, and for no other guest.
	if got := guestOn(t, client, &l, "http://127.0.0.1:*").reach("http://127.0.0.1:" + port); got != "destination-IP-prohibited" {
		t.Errorf("another guest's connection: %q", got)
	}
	e := client.Transport.(*egress)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && !p.Addr().IsLinkLocalUnicast() && e.check("x", netip.MustParseAddrPort(net.JoinHostPort(p.Addr().String(), port))) == nil {
			t.Errorf("%s is not this machine's", p.Addr())
		}
	}
}

func TestACertificateIsHeldAgainstTheBoardsTimeAndNotItsClock(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, c := range []struct {
		now  time.Time
		good bool
	}{
		{server.Certificate().NotBefore.Add(time.Hour), true},
		{time.Unix(0, 0).AddDate(-1, 0, 0), false},
		{server.Certificate().NotAfter.Add(time.Hour), false},
	} {
		client := withoutRedirects(&http.Client{Transport: newEgress(nil)})
		e := client.Transport.(*egress)
		e.named.TLSClientConfig.RootCAs = roots
		(&Host{client: client}).Clock(func() time.Time { return c.now })
		req, err := http.NewRequestWithContext(context.WithValue(t.Context(), nameds{}, true), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		var invalid x509.CertificateInvalidError
		if (err == nil) != c.good || !c.good && (!errors.As(err, &invalid) || invalid.Reason != x509.Expired) {
			t.Errorf("at %s: %v", c.now, err)
		}
		client.CloseIdleConnections()
	}
}

// nameServer answers every question for an IPv4 address with the next of its addresses, the last one from then on; with none, no
// name exists.
func nameServer(t *testing.T, addresses ...string) (*net.Resolver, *atomic.Int32) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	asked := new(atomic.Int32)
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			q := b[12:n]
			end := 0
			for q[end] != 0 {
				end += int(q[end]) + 1
			}
			kind := binary.BigEndian.Uint16(q[end+1:])
			question := q[:end+5]
			answers, rcode := byte(0), byte(0)
			var answer []byte
			if len(addresses) == 0 {
				rcode = 3
			} else if kind == 1 {
				ip := netip.MustParseAddr(addresses[min(int(asked.Add(1))-1, len(addresses)-1)]).As4()
				answers, answer = 1, append([]byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4}, ip[:]...)
			}
			reply := append([]byte{b[0], b[1], 0x85, 0x80 | rcode, 0, 1, 0, answers, 0, 0, 0, 0}, question...)
			_, _ = pc.WriteTo(append(reply, answer...), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}, asked
}

// A name that was granted while it led to the outside leads to the inside an instant later: DNS rebinding.
func TestANameThatTurnsInwardsReachesNothing(t *testing.T) {
	_, outside, port := counting(t)
	_, inside, ownPort := counting(t)
	for _, target := range []struct{ port, address string }{{port, "169.254.169.254"}, {port, "0.0.0.0"}, {ownPort, "127.0.0.1"}} {
		resolver, asked := nameServer(t, "127.0.0.1", target.address)
		client := withoutRedirects(&http.Client{Transport: newEgress(resolver)})
		(&Host{client: client}).Guard(func() (string, []string) { return "127.0.0.1:" + ownPort, nil })
		var l logs
		d := guestOn(t, client, &l, "http://rebind.example:"+port, "http://rebind.example:"+ownPort)
		before := outside.Load()
		if got := d.reach("http://rebind.example:" + port + "/"); got != "" || outside.Load() != before+1 {
			t.Fatalf("at first: %q", got)
		}
		client.CloseIdleConnections()
		if got := d.reach("http://rebind.example:" + target.port + "/"); got != "destination-IP-prohibited" {
			t.Errorf("%v: %q", target, got)
		}
		if asked.Load() != 2 {
			t.Errorf("%d questions: a refusal is not tried again", asked.Load())
		}
		if outside.Load() != before+1 || inside.Load() != 0 {
			t.Errorf("%v: %d requests outside, %d inside", target, outside.Load()-before, inside.Load())
		}
	}
}

func TestEachHopOfARedirectIsCheckedAgain(t *testing.T) {
	_, hits, port := counting(t)
	s := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:"+port+"/inside", http.StatusTemporaryRedirect))
	defer s.Close()
	client := defaultClient()
	(&Host{client: client}).Guard(func() (string, []string) { return "127.0.0.1:" + port, nil })
	for grants, want := range map[string]string{s.URL: "HTTP-request-denied", "*://*:*": "destination-IP-prohibited"} {
		var l logs
		d := guestOn(t, client, &l, grants)
		resp := d.answer(d.ok("wasi:http/outgoing-handler handle", d.newRequest("GET", s.URL+"/"), absent)).Payload()
		headers := d.call(types+"[method]incoming-response.headers", resp)
		location := string(d.call(types+"[method]fields.get", headers, str("location")).Elems()[0].Raw())
		if status, _ := d.read(resp); status != http.StatusTemporaryRedirect {
			t.Fatalf("status %d: the host followed", status)
		}
		if got := d.reach(location); got != want {
			t.Errorf("with %s, %s: %q", grants, location, got)
		}
	}
	if hits.Load() != 0 {
		t.Error("a redirect led inside")
	}
}

func TestRequestsWithoutAHostGoToTheApplicationItselfWhereGranted(t *testing.T) {
	s, _, port := counting(t)
	client := defaultClient()
	var l logs
	relative := func(d direct) engine.Val {
		r := d.call(types+"[constructor]outgoing-request", d.call(types+"[constructor]fields"))
		d.ok(types+"[method]outgoing-request.set-path-with-query", r, some(str("/inner?q=1")))
		return r
	}
	d := guestOn(t, client, &l, "http://self")
	d.fails("destination-unavailable", "wasi:http/outgoing-handler handle", relative(d), absent) // nothing listens
	(&Host{client: client}).Guard(func() (string, []string) { return "[::]:" + port, nil })
	for grant, want := range map[string]bool{"http://self": true, "https://self": true, "*://*:*": true, s.URL: false, "http://127.0.0.1:*": false} {
		d := guestOn(t, client, &l, grant)
		if !want {
			d.fails("HTTP-request-URI-invalid", "wasi:http/outgoing-handler handle", relative(d), absent)
			continue
		}
		if status, body := d.fetch(relative(d)); status != 200 || body != "127.0.0.1:"+port+"/inner" {
			t.Errorf("%s: %d %q", grant, status, body)
		}
	}
	// Self is no way to the same port by another name.
	if got := guestOn(t, client, &l, "http://self").reach(s.URL); got != "HTTP-request-denied" {
		t.Errorf("by its address: %q", got)
	}
}

// A proxy would connect in the board's place, past every check.
func TestNoProxyOfTheEnvironmentIsUsed(t *testing.T) {
	e := newEgress(nil)
	if e.guarded.Proxy != nil || e.named.Proxy != nil {
		t.Error("requests may go to a proxy")
	}
}
