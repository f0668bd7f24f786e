package wire

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Outbound is an allowed outbound host: "scheme://host[:port]". The scheme is http, https or *; the host is a name, an
// address ([...] for IPv6), "*.example.com" for all below example.com, or *; the port a number or *, and the scheme's own without it.
type Outbound struct {
	scheme, host, port string
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
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, port = rest[:i], rest[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); port != "*" && (err != nil || n == 0 || strconv.FormatUint(n, 10) != port) {
			return bad("has a bad port")
		}
	}
	if port == "" && scheme == "*" {
		port = "*"
	}
	if strings.HasPrefix(host, "[") {
		a, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		if err != nil || !strings.HasSuffix(host, "]") || !a.Is6() || a.Zone() != "" {
			return bad("has a bad IPv6 address")
		}
		return Outbound{scheme, a.String(), port}, nil
	}
	name := strings.TrimPrefix(host, "*.")
	if host == "*" {
		return Outbound{scheme, host, port}, nil
	}
	if name == "" || len(name) > 253 {
		return bad("has no host")
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notHost) {
			return bad("has a bad host (lower-case letters, digits, - and dots; * only as a whole or as *. in front; no path)")
		}
	}
	return Outbound{scheme, host, port}, nil
}

func notHost(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// Allows reports whether a request may go there. host is a name or a bare address in lower case, port 0 is the scheme's own.
func (o Outbound) Allows(scheme, host string, port uint16) bool {
	if o.scheme != "*" && o.scheme != scheme {
		return false
	}
	own := map[string]uint16{"http": 80, "https": 443}[scheme]
	if port == 0 {
		port = own
	}
	switch o.port {
	case "*":
	case "":
		if port != own {
			return false
		}
	default:
		if strconv.FormatUint(uint64(port), 10) != o.port {
			return false
		}
	}
	if suffix, ok := strings.CutPrefix(o.host, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return o.host == host
}
