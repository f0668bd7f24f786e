package wire

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Outbound is an allowed outbound host: "scheme://host[:port]", as in Spin's manifest. The scheme is http, https or *; the
// host a name, an address ([...] for IPv6), "*.example.com" for all below example.com, a network ("10.0.0.0/8"), self (the
// application's own routes, for requests without a host) or *; the port a number, a range ("8080..8090", without its end) or *, and
// the scheme's own without it.
type Outbound struct {
	scheme, host string
	network      netip.Prefix // instead of a host
	first, last  uint16       // ports; 0: the scheme's own
}

// ParseOutbound reads an allowed outbound host.
func ParseOutbound(s string) (Outbound, error) {
	bad := func(why string) (Outbound, error) {
		return Outbound{}, fmt.Errorf("outbound host %.200q %s: want scheme://host[:port], as in %q", s, why, "https://api.example.com")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return bad("has no scheme")
	}
	if scheme != "http" && scheme != "https" && scheme != "*" {
		return bad("has a scheme other than http, https or *")
	}
	o := Outbound{scheme: scheme}
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		if network, ok := parseNetwork(rest); ok && network.Addr().Is6() {
			host = rest // all of its colons are the network's own
		} else if host, port = rest[:i], rest[i+1:]; port == "" {
			return bad("has a bad port")
		}
	}
	if port == "" && scheme == "*" {
		port = "*"
	}
	if port != "" {
		if o.first, o.last, ok = parsePorts(port); !ok {
			return bad("has a bad port")
		}
	}
	if o.network, ok = parseNetwork(host); ok {
		return o, nil
	}
	if strings.HasPrefix(host, "[") {
		a, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		if err != nil || !strings.HasSuffix(host, "]") || !a.Is6() || a.Zone() != "" {
			return bad("has a bad IPv6 address")
		}
		o.host = a.String()
		return o, nil
	}
	o.host = host
	name := strings.TrimPrefix(host, "*.")
	if host == "*" {
		return o, nil
	}
	if name == "" || len(name) > 253 {
		return bad("has no host")
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notHost) {
			return bad("has a bad host (lower-case letters, digits, - and dots; * only as a whole or as *. in front; no path)")
		}
	}
	return o, nil
}

// parseNetwork reads "10.0.0.0/8", "fd00::/8" or "[fd00::]/8".
func parseNetwork(s string) (netip.Prefix, bool) {
	addr, bits, ok := strings.Cut(s, "/")
	if !ok {
		return netip.Prefix{}, false
	}
	if inner, ok := strings.CutPrefix(addr, "["); ok {
		if addr, ok = strings.CutSuffix(inner, "]"); !ok {
			return netip.Prefix{}, false
		}
	}
	p, err := netip.ParsePrefix(addr + "/" + bits)
	return p.Masked(), err == nil && p.Addr().Zone() == ""
}

// parsePorts reads a port, a range without its end, or *.
func parsePorts(s string) (first, last uint16, ok bool) {
	number := func(s string) (uint16, bool) {
		n, err := strconv.ParseUint(s, 10, 16)
		return uint16(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == s
	}
	if s == "*" {
		return 1, 65535, true
	}
	from, to, isRange := strings.Cut(s, "..")
	if first, ok = number(from); !isRange || !ok {
		return first, first, ok
	}
	if last, ok = number(to); !ok || last <= first {
		return 0, 0, false
	}
	return first, last - 1, true
}

func notHost(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// hostSelf is the host that stands for the application itself.
const hostSelf = "self"

// Self reports whether a request without a host, to the application's own routes, may go out.
func (o Outbound) Self() bool { return o.host == hostSelf || o.host == "*" }

// Allows reports whether a request may go there. host is a name or a bare address in lower case, port 0 is the scheme's own.
func (o Outbound) Allows(scheme, host string, port uint16) bool {
	if o.scheme != "*" && o.scheme != scheme {
		return false
	}
	own := map[string]uint16{"http": 80, "https": 443}[scheme]
	if port == 0 {
		port = own
	}
	if o.first == 0 && port != own || o.first != 0 && (port < o.first || port > o.last) {
		return false
	}
	switch {
	case o.network.IsValid():
		a, err := netip.ParseAddr(host)
		return err == nil && o.network.Contains(a.Unmap())
	case o.host == hostSelf:
		return false
	}
	if suffix, ok := strings.CutPrefix(o.host, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return o.host == host
}

// CheckDeferred checks a host to which requests are deferred: an outbound host, but not the application's own routes.
func CheckDeferred(s string) error {
	o, err := ParseOutbound(s)
	if err == nil && o.host == hostSelf {
		err = fmt.Errorf("outbound host %q can't be deferred to: the application itself is always there", s)
	}
	return err
}

// Names reports whether this allows exactly this host and port, by no wildcard, network or range: a grant that can only have
// been meant.
func (o Outbound) Names(scheme, host string, port uint16) bool {
	return o.Allows(scheme, host, port) && o.host == host && o.first == o.last
}
