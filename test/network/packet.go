package main

import "encoding/binary"

// segment is what the relay looks at of an IPv4 packet with TCP in it: RFC 791, RFC 9293.
type segment struct {
	source, destination uint16
	acknowledges        uint32 // valid with flagACK
	flags               byte
}

const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// isIPv4 says whether the kernel would take packet for one.
func isIPv4(packet []byte) bool { return len(packet) >= 20 && packet[0]>>4 == 4 }

// parseSegment reads a packet's TCP header; false for what is no TCP, or a later fragment.
func parseSegment(packet []byte) (s segment, ok bool) {
	if !isIPv4(packet) || packet[9] != 6 || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return s, false
	}
	header := int(packet[0]&0xf) * 4
	if header < 20 || len(packet) < header+20 {
		return s, false
	}
	tcp := packet[header:]
	return segment{
		source: binary.BigEndian.Uint16(tcp), destination: binary.BigEndian.Uint16(tcp[2:]),
		acknowledges: binary.BigEndian.Uint32(tcp[8:]), flags: tcp[13],
	}, true
}

// reset answers a packet as a router does that doesn't know its connection: from the other end, at just the place in the
// stream that the sender waits for, or it would not believe it (RFC 5961).
func reset(packet []byte, s segment) []byte {
	r := make([]byte, 40)
	r[0] = 0x45
	binary.BigEndian.PutUint16(r[2:], uint16(len(r)))
	r[8], r[9] = 64, 6
	copy(r[12:16], packet[16:20])
	copy(r[16:20], packet[12:16])
	binary.BigEndian.PutUint16(r[10:], checksum(0, r[:20]))
	tcp := r[20:]
	binary.BigEndian.PutUint16(tcp, s.destination)
	binary.BigEndian.PutUint16(tcp[2:], s.source)
	binary.BigEndian.PutUint32(tcp[4:], s.acknowledges)
	tcp[12], tcp[13] = 5<<4, flagRST
	// Of the pseudo header too: addresses, protocol, length.
	binary.BigEndian.PutUint16(tcp[16:], checksum(6+uint32(len(tcp))+sum(r[12:20]), tcp))
	return r
}

func sum(b []byte) (n uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return n
}

// checksum of the internet protocols, RFC 1071.
func checksum(n uint32, b []byte) uint16 {
	n += sum(b)
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return ^uint16(n)
}
