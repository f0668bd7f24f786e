package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// deferredRequest waits in the outbox until the network is there. As bytes: format (1), 1 if its host and port were granted as
// such, else 0; then, each with its length as a uvarint before it, method, URL, the number of header lines (a uvarint alone), name and value of
// each in their order; the body is the rest.
type deferredRequest struct {
	method, url string
	named       bool
	header      [][2]string
	body        []byte
}

const deferredFormat = 1

func (d *deferredRequest) encode() []byte {
	b := []byte{deferredFormat, 0}
	if d.named {
		b[1] = 1
	}
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text(d.method)
	text(d.url)
	b = binary.AppendUvarint(b, uint64(len(d.header)))
	for _, line := range d.header {
		text(line[0])
		text(line[1])
	}
	return append(b, d.body...)
}

func decodeDeferred(b []byte) (*deferredRequest, error) {
	if len(b) < 2 || b[0] != deferredFormat || b[1] > 1 {
		return nil, fmt.Errorf("%d bytes are no deferred request", len(b))
	}
	d, rest, ok := &deferredRequest{named: b[1] == 1}, b[2:], true
	number := func() uint64 {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			ok, rest = false, nil
			return 0
		}
		rest = rest[size:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(rest)) {
			ok, rest = false, nil
			return ""
		}
		s := string(rest[:n])
		rest = rest[n:]
		return s
	}
	d.method, d.url = text(), text()
	for n := number(); ok && n > 0; n-- {
		d.header = append(d.header, [2]string{text(), text()})
	}
	if d.body = rest; !ok || !bytes.Equal(d.encode(), b) {
		return nil, fmt.Errorf("%d bytes are no deferred request", len(b))
	}
	return d, nil
}

// answerError is a host's answer to a deferred request that isn't a success.
type answerError struct {
	status int
	after  time.Duration // that the host asks for; 0: it named none
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the host answered %d %s", e.status, http.StatusText(e.status))
}

// Refused reports whether no later attempt would change it. A redirect is refused too: where it leads was not granted.
func (e *answerError) Refused() bool {
	return e.status < 500 && e.status != http.StatusRequestTimeout && e.status != http.StatusTooEarly && e.status != http.StatusTooManyRequests
}

// RetryAfter is what the host asks for.
func (e *answerError) RetryAfter() time.Duration { return e.after }

// unreadableError says that bytes are no request that could be sent.
type unreadableError struct{ error }

// Refused is true: they never will be.
func (unreadableError) Refused() bool { return true }

// SendDeferred attempts a deferred request once, with a key by which its receiver can tell repeats. The address that its host has now is judged as
// for any request. nil: it was taken; a *RefusedError and ErrDeferred: it never will be; anything else: it may be later.
func (h *Host) SendDeferred(ctx context.Context, request []byte, key string) error {
	d, err := decodeDeferred(request)
	if err != nil {
		return unreadableError{err}
	}
	if d.named {
		ctx = context.WithValue(ctx, nameds{}, true)
	}
	req, err := http.NewRequestWithContext(ctx, d.method, d.url, bytes.NewReader(d.body))
	if err != nil {
		return unreadableError{err}
	}
	req.Header = http.Header{"User-Agent": {""}} // net/http would add its own
	for _, line := range d.header {
		if name := http.CanonicalHeaderKey(line[0]); name == "User-Agent" {
			req.Header.Set(name, line[1])
		} else {
			req.Header.Add(name, line[1])
		}
	}
	if req.Header.Get("Idempotency-Key") == "" { // the guest may have one of its own
		req.Header.Set("Idempotency-Key", strconv.Quote(key))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode < 300 {
		return nil
	}
	after, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31)
	return &answerError{resp.StatusCode, time.Duration(after) * time.Second}
}
