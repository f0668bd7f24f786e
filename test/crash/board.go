package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"dunlin.dev/dunlin/test/process"
	"dunlin.dev/dunlin/test/readings"
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
// reached within patience is given up. It says whether the point was reached.
func (b *board) untilKilled(ctx context.Context, s *readings.Sensors, acks int, point string, patience time.Duration) bool {
	enough := make(<-chan struct{})
	if point == "" {
		enough = s.After(acks)
	}
	late := time.NewTimer(patience)
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

// books once nothing waits any more.
func (b *board) books(ctx context.Context) (readings.Books, error) {
	r := readings.Board{Dunlin: b.bin, Where: []string{"-f", filepath.Join(b.dir, "dunlin.toml")}, Page: "http://" + b.http + "/", Client: http.DefaultClient}
	return r.Settled(ctx, 5*time.Minute)
}
