// Package client speaks to a fleet server's HTTP API.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/internal/model"
	"dunlin.dev/dunlin/fleet/wire"
)

// Client of one fleet server. Safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// Error is an answer of the server that is not a success.
type Error struct {
	Code int // HTTP status
	Text string
	Hint string
}

func (e *Error) Error() string { return e.Text }

// New client of the server at base, "https://fleet.example", with its admin token.
func New(base, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("parse server %q: want http://HOST:PORT or https://HOST", base)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 90 * time.Second // a minute of waiting for news, and some more
	return &Client{base: u, token: token, http: &http.Client{Transport: t}}, nil
}

// Plain reports whether the token goes over a network in the clear.
func (c *Client) Plain() bool {
	host := c.base.Hostname()
	ip := net.ParseIP(host)
	return c.base.Scheme == "http" && host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

func (c *Client) do(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if size > 0 {
		req.ContentLength = size
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("reach fleet server %s: %w", c.base.Host, err)
	}
	return resp, nil
}

// call sends in as JSON (nil for none) and reads the answer into out (*[]byte for the bytes as they are).
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, query, http.Header{"Content-Type": {"application/json"}}, body, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		return failure(resp, b)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	return nil
}

func failure(resp *http.Response, body []byte) error {
	var e model.Error
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		e.Error = "the server answered " + resp.Status + ": is it a fleet server?"
	}
	return &Error{Code: resp.StatusCode, Text: e.Error, Hint: e.Hint}
}

// Fleet tells which fleet the server serves.
func (c *Client) Fleet(ctx context.Context) (f model.Fleet, err error) {
	return f, c.call(ctx, http.MethodGet, "/v1/fleet", nil, nil, &f)
}

// Keys are the public halves of the server's own keys.
func (c *Client) Keys(ctx context.Context) (k model.Keys, err error) {
	return k, c.call(ctx, http.MethodGet, "/v1/keys", nil, nil, &k)
}

// SetRoot uploads a root, with the first one also the first targets.
func (c *Client) SetRoot(ctx context.Context, root, targets []byte) error {
	var f model.Fleet
	return c.call(ctx, http.MethodPost, "/v1/root", nil, model.NewRoot{Root: root, Targets: targets}, &f)
}

// Metadata fetches the newest file of a role. It is not verified.
func (c *Client) Metadata(ctx context.Context, role string) (b []byte, err error) {
	return b, c.call(ctx, http.MethodGet, "/v1/metadata/"+role, nil, nil, &b)
}

// AddRelease uploads a manifest, and the targets that name it.
func (c *Client) AddRelease(ctx context.Context, manifest, targets []byte) error {
	var p wire.Pointer
	return c.call(ctx, http.MethodPost, "/v1/releases", nil, model.NewRelease{Manifest: manifest, Targets: targets}, &p)
}

// Assign a release to devices.
func (c *Client) Assign(ctx context.Context, d model.NewDesired) (a model.Assigned, err error) {
	return a, c.call(ctx, http.MethodPost, "/v1/desired", nil, d, &a)
}

// Devices gives all devices, once their revision is above after or wait is over.
func (c *Client) Devices(ctx context.Context, after uint64, wait time.Duration) (d model.Devices, err error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "wait": {strconv.Itoa(int(wait / time.Second))}}
	return d, c.call(ctx, http.MethodGet, "/v1/devices", q, nil, &d)
}

// Device gives one device.
func (c *Client) Device(ctx context.Context, name string) (d model.Device, err error) {
	return d, c.call(ctx, http.MethodGet, "/v1/devices/"+url.PathEscape(name), nil, nil, &d)
}

// Uplinks gives messages that boards sent up, after a sequence number of the server's, oldest first; of one device if it is named. There may be
// more than it gives at once.
func (c *Client) Uplinks(ctx context.Context, after uint64, device string) (u model.Uplinks, err error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}}
	if device != "" {
		q.Set("device", device)
	}
	return u, c.call(ctx, http.MethodGet, "/v1/data", q, nil, &u)
}

// Events gives a page of a device's dead letters, those after one; "": from the first.
func (c *Client) Events(ctx context.Context, device, after string) (e wire.Events, err error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	return e, c.call(ctx, http.MethodGet, "/v1/devices/"+url.PathEscape(device)+"/events", q, nil, &e)
}

// Event gives one dead letter of a device with its payload, or the beginning of that.
func (c *Client) Event(ctx context.Context, device, event string) (e wire.DeadEvent, err error) {
	return e, c.call(ctx, http.MethodGet, eventPath(device, event), nil, nil, &e)
}

// RetryEvent puts a dead letter of a device behind what waits there, under a new name.
func (c *Client) RetryEvent(ctx context.Context, device, event string) (e wire.Renamed, err error) {
	return e, c.call(ctx, http.MethodPost, eventPath(device, event)+"/retry", nil, nil, &e)
}

// DropEvent removes a dead letter of a device for good.
func (c *Client) DropEvent(ctx context.Context, device, event string) (e wire.Renamed, err error) {
	return e, c.call(ctx, http.MethodDelete, eventPath(device, event), nil, nil, &e)
}

func eventPath(device, event string) string {
	return "/v1/devices/" + url.PathEscape(device) + "/events/" + url.PathEscape(event)
}

// Streams gives the topics on which a device has sent messages.
func (c *Client) Streams(ctx context.Context, device string) (s model.Streams, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/devices/"+url.PathEscape(device)+"/streams", nil, nil, &s)
}

const (
	chunkBytes  = 4 << 20
	uploadTries = 5 // in a row without progress
)

// Upload content, from where an earlier upload ended. r is read from there; progress is told the bytes that the server has.
// It reports whether anything had to be sent.
func (c *Client) Upload(ctx context.Context, d wire.Digest, size int64, r io.ReaderAt, progress func(done int64)) (sent bool, err error) {
	for tries := 0; ; tries++ {
		at, done, err := c.uploaded(ctx, d)
		if err == nil && done {
			progress(size)
			return sent, nil
		}
		if err == nil {
			var n int64
			sent = true
			n, err = c.put(ctx, d, at, size, r, progress)
			if n > 0 {
				tries = 0
			}
		}
		if err != nil && !again(err) || ctx.Err() != nil || tries >= uploadTries {
			return sent, fmt.Errorf("upload %s: %w", d.Short(), err)
		}
		if err != nil {
			select {
			case <-time.After(time.Duration(tries+1) * 200 * time.Millisecond):
			case <-ctx.Done():
				return sent, fmt.Errorf("upload %s: %w", d.Short(), ctx.Err())
			}
		}
	}
}

// again reports whether an upload may go on after err: the network broke, or somebody uploads the same.
func again(err error) bool {
	var e *Error
	return !errors.As(err, &e) || e.Code == http.StatusConflict || e.Code == http.StatusRequestedRangeNotSatisfiable ||
		e.Code == http.StatusRequestTimeout || e.Code == http.StatusBadRequest && strings.Contains(e.Text, "EOF")
}

// uploaded asks what the server has of d.
func (c *Client) uploaded(ctx context.Context, d wire.Digest) (at int64, done bool, err error) {
	resp, err := c.do(ctx, http.MethodHead, "/v1/blobs/"+d.String(), nil, nil, nil, 0)
	if err != nil {
		return 0, false, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return 0, true, nil
	}
	at, perr := strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
	if resp.StatusCode != http.StatusNotFound || perr != nil {
		return 0, false, &Error{Code: resp.StatusCode, Text: "the server answered " + resp.Status}
	}
	return at, false, nil
}

// put sends chunks from at to the end.
func (c *Client) put(ctx context.Context, d wire.Digest, at, size int64, r io.ReaderAt, progress func(int64)) (n int64, err error) {
	start := at
	for at < size {
		end := min(size, at+chunkBytes)
		h := http.Header{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", at, end-1, size)}, "Content-Type": {"application/octet-stream"}}
		body := &counted{r: io.NewSectionReader(r, at, end-at), at: at, progress: progress}
		resp, err := c.do(ctx, http.MethodPut, "/v1/blobs/"+d.String(), nil, h, body, end-at)
		if err != nil {
			return at - start, err
		}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			return at - start, failure(resp, b)
		}
		at = end
	}
	return at - start, nil
}

type counted struct {
	r        io.Reader
	at       int64
	progress func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.at += int64(n)
	c.progress(c.at)
	return n, err
}
