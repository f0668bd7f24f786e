// Package mqttconn is what every MQTT client connection of the agent shares: dialling, a guard against packets that would
// cost memory, and a reconnect delay that spreads a fleet out. paho allocates what a packet's header claims before it has
// read the packet, so five bytes from a broker could cost 256 MiB; the guard ends the connection instead.
package mqttconn

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// Opener gives paho's CustomOpenConnectionFn: mqtt, tcp, mqtts, ssl and tls URLs, default ports 1883 and 8883, packets of at
// most maxPacket bytes after the fixed header.
func Opener(maxPacket int) mqtt.OpenConnectionFunc {
	return func(uri *url.URL, o mqtt.ClientOptions) (net.Conn, error) {
		dialer := &net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 30 * time.Second}
		switch uri.Scheme {
		case "mqtt", "tcp":
			conn, err := dialer.Dial("tcp", hostPort(uri, "1883"))
			if err != nil {
				return nil, err
			}
			return Guard(conn, maxPacket), nil
		case "mqtts", "ssl", "tls":
			conn, err := tls.DialWithDialer(dialer, "tcp", hostPort(uri, "8883"), o.TLSConfig)
			if err != nil {
				return nil, err
			}
			return Guard(conn, maxPacket), nil
		}
		return nil, fmt.Errorf("connect %s: scheme %q: want mqtt or mqtts", uri.Redacted(), uri.Scheme)
	}
}

func hostPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// PacketTooLarge is the error of a guarded connection whose peer announced more than it may send.
type PacketTooLarge struct {
	Size, Max int // bytes after the fixed header
}

func (e *PacketTooLarge) Error() string {
	return fmt.Sprintf("read packet: the broker announces %d bytes, the limit is %d", e.Size, e.Max)
}

// Guard returns conn with every incoming packet's length checked before any reader sees it.
func Guard(conn net.Conn, maxPacket int) net.Conn {
	return &guarded{Conn: conn, max: maxPacket}
}

// guarded follows the packet boundaries of the incoming bytes (MQTT 3.1.1 §2.2): a type byte, then one to four length bytes,
// seven bits each, then the body.
type guarded struct {
	net.Conn
	max    int
	body   int   // bytes of the current packet's body still to come
	length int   // the length read so far
	shift  uint  // of the next length byte
	state  uint8 // next byte is: the type, a length byte, the body
	err    error // sticky
}

const (
	atType uint8 = iota
	atLength
	atBody
)

func (g *guarded) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		switch g.state {
		case atType:
			g.state, g.length, g.shift = atLength, 0, 0
			b = b[1:]
		case atLength:
			g.length |= int(b[0]&0x7f) << g.shift
			g.shift += 7
			more := b[0]&0x80 != 0
			b = b[1:]
			// Checked at each byte: a claim that is over the limit already needs no fourth byte to be refused.
			if g.length > g.max || (more && g.shift >= 28) {
				g.err = &PacketTooLarge{Size: g.length, Max: g.max}
				_ = g.Close()
				// Nothing of this read is handed on: paho would allocate on seeing the header.
				return 0, g.err
			}
			if !more {
				g.body = g.length
				g.state = atBody
				if g.body == 0 {
					g.state = atType
				}
			}
		case atBody:
			k := min(g.body, len(b))
			g.body -= k
			b = b[k:]
			if g.body == 0 {
				g.state = atType
			}
		}
	}
	return n, err
}

// Backoff before the nth reconnect in a row, from n = 0: 1 s doubling to two minutes, spread over its upper half by jitter in
// [0,1), so that a fleet that lost its broker together does not come back together.
func Backoff(n int, jitter float64) time.Duration {
	const first, most = time.Second, 2 * time.Minute
	d := most
	if n < 7 {
		d = first << n
	}
	return d/2 + time.Duration(float64(d/2)*jitter)
}

// enough is how long a connection has to hold for the next pause to be the first again: on a network that breaks off every
// half minute the board is connected nearly all the time, and a broker that ends connections at once is asked ever more seldom.
const enough = 10 * time.Second

// Reconnect paces the connections of one session. The zero value is ready.
type Reconnect struct{ failures int }

// Pause before the next connection, after one that was up for held; 0: it never was. Jitter is in [0,1).
func (r *Reconnect) Pause(held time.Duration, jitter float64) time.Duration {
	if held >= enough {
		r.failures = 0
	}
	r.failures++
	return Backoff(r.failures-1, jitter)
}
