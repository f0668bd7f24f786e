package host

import (
	"net/netip"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// network is the handle that sockets ask for; it leads nowhere.
type network struct{}

// resolve no name, as a host does that has no resolver.
func resolve(_ *Guest, a []engine.Val) (engine.Val, error) {
	name := a[1].Text()
	if _, err := netip.ParseAddr(name); err != nil && (name == "" || strings.ContainsFunc(name, notInHost)) {
		return engine.Err(engine.Enum("invalid-argument")), nil
	}
	return engine.Err(engine.Enum("permanent-resolver-failure")), nil
}

// notInHost are the characters that no host's name has (WHATWG URL, 3.1).
func notInHost(c rune) bool {
	return c <= ' ' || c == 0x7f || strings.ContainsRune("#%/:<>?@[\\]^|", c)
}

// socketsInterfaces link, because standard libraries import them, and deny access: what a component may reach, it reaches
// through wasi:http.
func socketsInterfaces() []*iface {
	denied := engine.Err(engine.Enum("access-denied"))
	deny := func(params ...engine.Kind) fn {
		return f(func(*Guest, []engine.Val) (engine.Val, error) { return denied, nil }, params...)
	}
	lookup := map[string]fn{
		"resolve-addresses":                        f(resolve, kHandle, kString),
		"[method]resolve-address-stream.subscribe": f(unreachable, kHandle),
	}
	refuse(denied, lookup, "resolve-address-stream", map[string][]engine.Kind{"resolve-next-address": {}})

	tcp := map[string]fn{
		"[method]tcp-socket.is-listening":   f(unreachable, kHandle),
		"[method]tcp-socket.address-family": f(unreachable, kHandle),
		"[method]tcp-socket.subscribe":      f(unreachable, kHandle),
	}
	refuse(denied, tcp, "tcp-socket", map[string][]engine.Kind{
		"start-bind":               {kHandle, kVariant},
		"finish-bind":              {},
		"start-connect":            {kHandle, kVariant},
		"finish-connect":           {},
		"start-listen":             {},
		"finish-listen":            {},
		"accept":                   {},
		"local-address":            {},
		"remote-address":           {},
		"set-listen-backlog-size":  {kU64},
		"keep-alive-enabled":       {},
		"set-keep-alive-enabled":   {kBool},
		"keep-alive-idle-time":     {},
		"set-keep-alive-idle-time": {kU64},
		"keep-alive-interval":      {},
		"set-keep-alive-interval":  {kU64},
		"keep-alive-count":         {},
		"set-keep-alive-count":     {kU32},
		"hop-limit":                {},
		"set-hop-limit":            {kU8},
		"receive-buffer-size":      {},
		"set-receive-buffer-size":  {kU64},
		"send-buffer-size":         {},
		"set-send-buffer-size":     {kU64},
		"shutdown":                 {kEnum},
	})

	udp := map[string]fn{
		"[method]udp-socket.address-family":          f(unreachable, kHandle),
		"[method]udp-socket.subscribe":               f(unreachable, kHandle),
		"[method]incoming-datagram-stream.subscribe": f(unreachable, kHandle),
		"[method]outgoing-datagram-stream.subscribe": f(unreachable, kHandle),
	}
	refuse(denied, udp, "udp-socket", map[string][]engine.Kind{
		"start-bind":              {kHandle, kVariant},
		"finish-bind":             {},
		"stream":                  {kOption},
		"local-address":           {},
		"remote-address":          {},
		"unicast-hop-limit":       {},
		"set-unicast-hop-limit":   {kU8},
		"receive-buffer-size":     {},
		"set-receive-buffer-size": {kU64},
		"send-buffer-size":        {},
		"set-send-buffer-size":    {kU64},
	})
	refuse(denied, udp, "incoming-datagram-stream", map[string][]engine.Kind{"receive": {kU64}})
	refuse(denied, udp, "outgoing-datagram-stream", map[string][]engine.Kind{"check-send": {}, "send": {kList}})

	return []*iface{
		{
			name:      "wasi:sockets/network" + wasi,
			resources: resources{"network": typNetwork, "error": typError},
			funcs: map[string]fn{
				"network-error-code": f(func(*Guest, []engine.Val) (engine.Val, error) { return absent, nil }, kHandle),
			},
		},
		{name: "wasi:sockets/instance-network" + wasi, resources: resources{"network": typNetwork}, funcs: map[string]fn{
			"instance-network": f(func(g *Guest, _ []engine.Val) (engine.Val, error) { return own(g, typNetwork, &network{}) }),
		}},
		{
			name:      "wasi:sockets/ip-name-lookup" + wasi,
			funcs:     lookup,
			resources: resources{"resolve-address-stream": typResolveAddressStream, "network": typNetwork, "pollable": typPollable},
		},
		{name: "wasi:sockets/tcp" + wasi, funcs: tcp, resources: resources{
			"tcp-socket":    typTCPSocket,
			"network":       typNetwork,
			"pollable":      typPollable,
			"input-stream":  typInputStream,
			"output-stream": typOutputStream,
		}},
		{
			name:      "wasi:sockets/tcp-create-socket" + wasi,
			funcs:     map[string]fn{"create-tcp-socket": deny(kEnum)},
			resources: resources{"network": typNetwork, "tcp-socket": typTCPSocket},
		},
		{name: "wasi:sockets/udp" + wasi, funcs: udp, resources: resources{
			"udp-socket":               typUDPSocket,
			"incoming-datagram-stream": typIncomingDatagramStream,
			"outgoing-datagram-stream": typOutgoingDatagramStream,
			"network":                  typNetwork,
			"pollable":                 typPollable,
		}},
		{
			name:      "wasi:sockets/udp-create-socket" + wasi,
			funcs:     map[string]fn{"create-udp-socket": deny(kEnum)},
			resources: resources{"network": typNetwork, "udp-socket": typUDPSocket},
		},
	}
}
