package http

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Frames of HTTP/2 (RFC 9113, 4.1), written by hand.
const (
	frameData, frameHeaders, frameReset, frameSettings, frameContinuation = 0, 1, 3, 4, 9

	endStream, endHeaders = 1, 4
)

func frame(kind, flags byte, stream uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	return string(binary.BigEndian.AppendUint32(append(b, flags), stream)) + payload
}

// block of header fields: name, value, ...; none of them compressed (RFC 7541, 6.2.2).
func block(fields ...string) string {
	var b []byte
	for i, s := range fields {
		if i%2 == 0 {
			b = append(b, 0)
		}
		b = append(b, byte(len(s))) // all of them are short
		b = append(b, s...)
	}
	return string(b)
}

var preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(frameSettings, 0, 0, "")

// asks for a path, with more fields.
func asks(stream uint32, path string, more ...string) string {
	fields := append([]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", path}, more...)
	return frame(frameHeaders, endStream|endHeaders, stream, block(fields...))
}

// send2 sends frames and gives the streams that were answered with a header, until the server ends the connection or has answered
// the stream until.
func send2(t *testing.T, url, frames string, until uint32) (answered []uint32) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
		return nil
	}
	go func() { _, _ = io.WriteString(c, preface+frames) }() // the server may end the connection before it has read all of this
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(c, head); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("neither an answer nor the end of the connection")
			}
			return answered
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)>>8)); err != nil {
			return answered
		}
		stream := binary.BigEndian.Uint32(head[5:])
		if head[3] == frameHeaders {
			if answered = append(answered, stream); stream == until {
				return answered
			}
		}
	}
}

// What is wrong with one stream resets it or has it refused, what is wrong with all ends the connection. No handler sees it.
func TestMalformedHTTP2ReachesNoHandler(t *testing.T) {
	var w witness
	_, url := start(t, Config{}, Route{ID: "all", Pattern: "/...", Handle: w.handle})
	next := asks(7, "/next")
	var all sync.WaitGroup
	for name, c := range map[string]struct {
		frames string
		ends   bool // the connection
	}{
		"a path with a line of another request":  {asks(1, "/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled"), false},
		"a path that is none":                    {asks(1, "1"), false},
		"two paths":                              {asks(1, "/1", ":path", "/smuggled"), false},
		"a pseudo field after the others":        {asks(1, "/1", "x", "y", ":authority", "b"), false},
		"a pseudo field that nobody knows":       {asks(1, "/1", ":smuggled", "y"), false},
		"no method":                              {frame(frameHeaders, endStream|endHeaders, 1, block(":scheme", "http", ":path", "/1", ":authority", "a")), false},
		"a method that is none":                  {frame(frameHeaders, endStream|endHeaders, 1, block(":method", "GET /smuggled", ":scheme", "http", ":path", "/1", ":authority", "a")), false},
		"an authority that is none":              {frame(frameHeaders, endStream|endHeaders, 1, block(":method", "GET", ":scheme", "http", ":authority", "a/b c", ":path", "/1")), false},
		"a name in upper case":                   {asks(1, "/1", "X-Name", "y"), false},
		"a name with a colon":                    {asks(1, "/1", "x:y", "z"), false},
		"a value with a line":                    {asks(1, "/1", "x", "y\r\nsmuggled: z"), false},
		"a value with a NUL":                     {asks(1, "/1", "x", "y\x00"), false},
		"a field of the connection":              {asks(1, "/1", "connection", "close"), false},
		"chunks":                                 {asks(1, "/1", "transfer-encoding", "chunked"), false},
		"a header of 200 KB":                     {frame(frameHeaders, endStream, 1, block(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/1")) + continued(1, 200_000), true},
		"a header without end":                   {frame(frameHeaders, endStream, 1, block(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/1")) + continued(1, 20<<20), true},
		"a header on no stream":                  {asks(0, "/1"), true},
		"a header on a stream of the server":     {asks(2, "/1"), true},
		"a body on a stream that is not open":    {frame(frameData, 0, 1, "x"), true},
		"what continues nothing":                 {frame(frameContinuation, endHeaders, 1, block("x", "y")), true},
		"another frame within a header":          {frame(frameHeaders, 0, 1, block(":method", "GET")) + frame(frameData, 0, 1, "x"), true},
		"a frame of 16 MB":                       {frame(frameData, 0, 1, strings.Repeat("x", 1<<24-1)), true},
		"a header that can't be decompressed":    {frame(frameHeaders, endStream|endHeaders, 1, "\xff\xff\xff\xff\xff\xff\xff\xff"), true},
		"a table of 4 GB":                        {frame(frameHeaders, endStream|endHeaders, 1, "\x3f\xe1\xff\xff\xff\x0f"), true},
		"settings of no length":                  {frame(frameSettings, 0, 0, "odd"), true},
		"a reset of a stream that never was":     {frame(frameReset, 0, 1, "\x00\x00\x00\x08"), true},
		"a stream that comes back":               {asks(5, "/next") + asks(3, "/1"), true},
		"noise":                                  {strings.Repeat("\xff\x00noise", 1000), true},
		"the text of http/1.1 after the preface": {smuggled, true},
	} {
		all.Go(func() { // not as tests of their own, of which few run beside each other: net/http takes a second to end a connection
			answered := send2(t, url, c.frames+next, 7)
			if ended := !slices.Contains(answered, 7); ended != c.ends {
				t.Errorf("%s: answered streams %d; the connection ended: %t", name, answered, ended)
			}
		})
	}
	all.Wait()
	if got := send(t, url, "GET /other HTTP/1.1\r\nHost: a\r\n\r\n"); !slices.Equal(got, []int{200}) {
		t.Errorf("the next client was answered %v", got)
	}
	for _, seen := range w.take() {
		if seen != "GET /next " && seen != "GET /other " {
			t.Errorf("a handler saw %q", seen)
		}
	}
}

// continued are frames that continue a header with n bytes of fields; the last one ends it.
func continued(stream uint32, n int) string {
	var b bytes.Buffer
	for n > 0 {
		part := strings.Repeat(block("x-more", strings.Repeat("x", 100)), 140)
		n -= len(part)
		flags := byte(0)
		if n <= 0 {
			flags = endHeaders
		}
		b.WriteString(frame(frameContinuation, flags, stream, part))
	}
	return b.String()
}
