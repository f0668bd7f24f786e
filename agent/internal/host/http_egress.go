package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"dunlin.dev/dunlin/fleet/wire"
)

// egress is the way out of all guests' requests. What a name resolves to is held against the rules when the connection is made, so that
// a name can't be pointed at the board's own insides after it was granted. It has two pools of connections: a guest that was
// granted such an address by its very host and port may use one that others may not.
//
// A proxy of the environment is not used: it would connect to whatever it likes in the board's place.
type egress struct {
	guarded, named *http.Transport
	listens        atomic.Pointer[func() (http string, others []string)]
	now            atomic.Pointer[func() time.Time]
}

// nameds is the key of a request's context under which it says that its host and port were granted as such.
type nameds struct{}

func newEgress(resolver *net.Resolver) *egress {
	e := &egress{}
	transport := func(named bool) *http.Transport {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.Proxy = nil
		t.DisableCompression = true
		t.MaxResponseHeaderBytes = maxFields
		t.MaxIdleConnsPerHost = 4
		t.IdleConnTimeout = idleTimeout
		t.DialContext = e.dialer(resolver, named)
		t.TLSClientConfig = &tls.Config{Time: e.time}
		return t
	}
	e.guarded, e.named = transport(false), transport(true)
	return e
}

// time that certificates are held against.
func (e *egress) time() time.Time {
	if now := e.now.Load(); now != nil {
		return (*now)()
	}
	return time.Now()
}

// RoundTrip implements http.RoundTripper.
func (e *egress) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Context().Value(nameds{}) != nil {
		return e.named.RoundTrip(req)
	}
	return e.guarded.RoundTrip(req)
}

// CloseIdleConnections is http.Client's.
func (e *egress) CloseIdleConnections() {
	e.guarded.CloseIdleConnections()
	e.named.CloseIdleConnections()
}

func (e *egress) dialer(resolver *net.Resolver, named bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		_, err = netip.ParseAddr(host)
		literal := err == nil
		d := net.Dialer{Timeout: dialTimeout, Resolver: resolver, ControlContext: func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			// Of names, only localhost can't come to mean another machine.
			if named && (literal || host == "localhost" && to.Addr().Unmap().IsLoopback()) {
				return nil
			}
			return e.check(host, to)
		}}
		return d.DialContext(ctx, network, address)
	}
}

// prohibited are addresses behind which clouds keep a machine's credentials, beside those that are link-local.
var prohibited = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("255.255.255.255"),
}

// inside are the networks whose addresses end in an IPv4 address that is reached through them (RFC 4291 section 2.5.5, RFC 6052).
var inside = []netip.Prefix{netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96")}

// check that a connection may be made to an address that host has resolved to.
func (e *egress) check(host string, to netip.AddrPort) error {
	addr := to.Addr().Unmap().WithZone("")
	for _, p := range inside {
		if b := addr.As16(); p.Contains(addr) && addr != netip.IPv6Loopback() && !addr.IsUnspecified() {
			addr = netip.AddrFrom4([4]byte(b[12:]))
		}
	}
	why := ""
	switch {
	case addr.IsLinkLocalUnicast():
		why = "is link-local"
	case addr.IsMulticast():
		why = "is multicast"
	case addr.IsUnspecified():
		why = "is no address of a host"
	default:
		for _, p := range prohibited {
			if addr == p {
				why = "is a cloud's own"
			}
		}
	}
	if why == "" && e.own(addr, to.Port()) {
		why = "is the agent's own"
	}
	if why == "" {
		return nil
	}
	at := netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	return code("destination-IP-prohibited", fmt.Errorf("connection to %s (%s) denied: it %s; only allowed_outbound_hosts with that address and port opens it, as in %q", at, host, why, "http://"+at.String()))
}

// own reports whether the agent itself listens there.
func (e *egress) own(addr netip.Addr, port uint16) bool {
	listens := e.listens.Load()
	if listens == nil {
		return false
	}
	routes, all := (*listens)()
	for _, l := range append(all, routes) {
		if _, p, err := net.SplitHostPort(l); err == nil && p == strconv.Itoa(int(port)) {
			return addr.IsLoopback() || isLocal(addr)
		}
	}
	return false
}

// isLocal reports whether addr is one of this machine's. One that can't be told is.
func isLocal(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if mine, ok := netip.AddrFromSlice(n.IP); ok && mine.Unmap() == addr {
				return true
			}
		}
	}
	return false
}

// Guard tells the host what the agent listens on, as "host:port": its HTTP routes ("" for none), and everything else. Guests reach
// none of it unless it is granted to them by its very address and port.
func (h *Host) Guard(listens func() (http string, others []string)) {
	if e, ok := h.client.Transport.(*egress); ok {
		e.listens.Store(&listens)
	}
}

// Clock tells the host the time that certificates are held against: a board's own clock may show 1970.
func (h *Host) Clock(now func() time.Time) {
	if e, ok := h.client.Transport.(*egress); ok {
		e.now.Store(&now)
	}
}

// target is where a request goes. named: its host and port were granted as such, by no wildcard.
func (g *Guest) target(r *outgoingRequest) (u *url.URL, named bool, err error) {
	if r.authority == "" && g.selfGranted() {
		own, err := g.selfAddress()
		if err != nil {
			return nil, false, code("destination-unavailable", err)
		}
		relative := *r
		relative.scheme, relative.authority = "http", own
		u, err = relative.url()
		return u, true, err
	}
	if u, err = r.url(); err != nil {
		return nil, false, err
	}
	if named, err = g.allowed(u); err != nil {
		g.log.emit(slog.LevelWarn, "wasi:http", err.Error())
	}
	return u, named, err
}

func (g *Guest) selfGranted() bool {
	for _, s := range g.env.Grants.OutboundHosts {
		if o, err := wire.ParseOutbound(s); err == nil && o.Self() {
			return true
		}
	}
	return false
}

// selfAddress of the application's own routes.
func (g *Guest) selfAddress() (string, error) {
	if e, ok := g.client.Transport.(*egress); ok && e.listens.Load() != nil {
		routes, _ := (*e.listens.Load())()
		if a, err := netip.ParseAddrPort(routes); err == nil {
			if a.Addr().IsUnspecified() {
				return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(a.Port()))), nil
			}
			return a.String(), nil
		}
	}
	return "", errors.New("the application has no routes here that it could call")
}

// allowed checks a URL against allowed_outbound_hosts.
func (g *Guest) allowed(u *url.URL) (named bool, err error) {
	ok, named, err := matchOutbound(g.env.Grants.OutboundHosts, u)
	if err == nil && !ok {
		err = code("HTTP-request-denied", fmt.Errorf("request to %s://%s denied: add it to allowed_outbound_hosts", u.Scheme, u.Host))
	}
	return named, err
}

// matchOutbound says whether hosts allow a URL, and whether one of them names its very host and port.
func matchOutbound(hosts []string, u *url.URL) (ok, named bool, err error) {
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.String()
	}
	var port uint16
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return false, false, code("HTTP-request-URI-invalid", fmt.Errorf("port %s of %s is no port", p, u.Host))
		}
		port = uint16(n)
	}
	for _, s := range hosts {
		if o, err := wire.ParseOutbound(s); err == nil && o.Allows(u.Scheme, host, port) {
			ok, named = true, named || o.Names(u.Scheme, host, port)
		}
	}
	return ok, named, nil
}
