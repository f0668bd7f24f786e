package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"dunlin.dev/dunlin/test/process"
)

// board is an agent that is started and killed in one folder, on the same addresses.
type board struct {
	dir, bin   string
	http, mqtt string
	p          *process.Process
}

func newBoard(dir, bin string) (*board, error) {
	b := &board{dir: dir, bin: bin}
	for _, addr := range []*string{&b.http, &b.mqtt} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*addr = l.Addr().String()
		defer l.Close()
	}
	return b, nil
}

// errKilled: the agent had reached its point before it served.
var errKilled = errors.New("killed while it started")

// start the agent, to be killed at crash, and wait until it serves.
func (b *board) start(ctx context.Context, crash string) error {
	p, err := process.Start(filepath.Join(b.dir, "agent.log"), "/usr/bin/env", "DUNLIN_CRASH="+crash,
		b.bin, "up", "-f", filepath.Join(b.dir, "dunlin.toml"), "--listen", b.http, "--mqtt", b.mqtt)
	if err != nil {
		return err
	}
	b.p = p
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := p.Line(ctx, `application serves`); err != nil {
		select {
		case <-p.Ended():
			if crash != "" {
				return errKilled
			}
		default:
		}
		return fmt.Errorf("start the agent: %w", err)
	}
	return nil
}

func (b *board) kill() { b.p.Kill() }

func (b *board) stop() {
	if b.p != nil {
		b.p.Stop()
	}
}

// untilKilled waits until the agent has reached its point, or the sensors have acks more acknowledgements; a point that is not
// reached in half a second is given up. It says whether the point was reached.
func (b *board) untilKilled(ctx context.Context, s *sensors, acks int, point string) bool {
	enough := make(<-chan struct{})
	if point == "" {
		enough = s.after(acks)
	}
	late := time.NewTimer(time.Second / 2)
	defer late.Stop()
	select {
	case <-b.p.Ended():
		return point != ""
	case <-enough:
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// waits is what `dunlin events` says.
type waits struct {
	Waiting     int   `json:"waiting"`
	OutboxBytes int64 `json:"outbox_bytes"`
	Dead        []struct {
		Event string `json:"event"`
	} `json:"dead"`
}

func (b *board) events(ctx context.Context, to any, args ...string) error {
	args = append([]string{"events", "--json", "-f", filepath.Join(b.dir, "dunlin.toml")}, args...)
	out, err := exec.CommandContext(ctx, b.bin, args...).Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("%w: %s", err, failed.Stderr)
		}
		return fmt.Errorf("dunlin events: %w", err)
	}
	return json.Unmarshal(out, to)
}

// settled gives the board's books once nothing waits any more and they stay as they are.
func (b *board) settled(ctx context.Context) (books, error) {
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("it never came to rest"))
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	last, same := "", 0
	for {
		var w waits
		if err := b.events(outer, &w); err != nil {
			return books{}, err
		}
		line, err := b.read(ctx)
		if err != nil {
			return books{}, err
		}
		if w.Waiting == 0 && w.OutboxBytes == 0 && line == last {
			same++
		} else {
			same = 0
		}
		last = line
		if same == 8 {
			return b.books(ctx, line, w)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return books{}, fmt.Errorf("%w: %d events wait, %d bytes are in the outbox", context.Cause(ctx), w.Waiting, w.OutboxBytes)
		}
	}
}

func (b *board) read(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.http+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("read the books: %s: %s", res.Status, body)
	}
	return string(body), err
}

func (b *board) books(ctx context.Context, line string, w waits) (books, error) {
	got := books{dead: map[uint64]int{}}
	if _, err := fmt.Sscan(line, &got.count, &got.sum, &got.auditCount, &got.auditSum); err != nil {
		return got, fmt.Errorf("read the books %q: %w", line, err)
	}
	for _, d := range w.Dead {
		var letter struct {
			Text string `json:"text"`
		}
		if err := b.events(ctx, &letter, "show", d.Event); err != nil {
			return got, err
		}
		n, err := strconv.ParseUint(letter.Text, 10, 64)
		if err != nil {
			var reading struct {
				N uint64 `json:"n"`
			}
			if err := json.Unmarshal([]byte(letter.Text), &reading); err != nil {
				return got, fmt.Errorf("dead letter %s: %w", d.Event, err)
			}
			n = reading.N
		}
		got.dead[n]++
	}
	return got, nil
}
