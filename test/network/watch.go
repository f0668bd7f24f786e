package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// get a page's body; any status but 200 is an error.
func get(ctx context.Context, client *http.Client, url, token string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", url, res.Status, body)
	}
	return body, err
}

// again calls f ten times a second until ctx ends.
func again(ctx context.Context, f func()) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// uplinks are the entries that the fleet has, of each reading how many.
type uplinks struct {
	client *http.Client
	token  string

	mu    sync.Mutex
	after uint64 // the newest that was read
	count map[uint64]int
}

// collect them while they come: the fleet keeps the newest 10,000 only.
func collect(ctx context.Context, tokenFile string, client *http.Client) (*uplinks, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	u := &uplinks{client: client, token: strings.TrimSpace(string(token)), count: map[uint64]int{}}
	go again(ctx, func() { _, _ = u.more(ctx) }) // the server is away at times; all has to be there at the end
	return u, nil
}

// more reads one page of them, and gives how many were on it.
func (u *uplinks) more(ctx context.Context) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	body, err := get(ctx, u.client, fmt.Sprintf("%s/v1/data?after=%d", api, u.after), u.token)
	if err != nil {
		return 0, err
	}
	var page struct {
		Messages []struct {
			Sequence uint64 `json:"sequence"`
			Payload  []byte `json:"payload"`
		} `json:"messages"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return 0, fmt.Errorf("read uplinks: %w", err)
	}
	for _, m := range page.Messages {
		var n, count, sum uint64
		if _, err := fmt.Sscan(string(m.Payload), &n, &count, &sum); err != nil {
			return 0, fmt.Errorf("read uplink %q: %w", m.Payload, err)
		}
		u.after = m.Sequence
		u.count[n]++
	}
	return len(page.Messages), nil
}

// all of them, when no more are under way.
func (u *uplinks) all(ctx context.Context) (map[uint64]int, error) {
	for {
		n, err := u.more(ctx)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return u.count, nil
		}
	}
}

// page is asked all the time.
type page struct {
	mu       sync.Mutex
	answered int
	errs     []error
}

func watch(ctx context.Context, client *http.Client, url string) *page {
	p := &page{}
	go again(ctx, func() {
		_, err := get(ctx, client, url, "")
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case err == nil:
			p.answered++
		case ctx.Err() == nil && len(p.errs) < 5:
			p.errs = append(p.errs, err)
		}
	})
	return p
}

// outcome is how often it answered, and how it failed.
func (p *page) outcome() (answered int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answered, errors.Join(p.errs...)
}
