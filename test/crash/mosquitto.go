package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"dunlin.dev/dunlin/test/process"
)

// startMosquitto starts an outside broker that drops nothing by limits of its own, and waits until it listens.
func startMosquitto(ctx context.Context, program, dir, addr string) (*process.Process, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_queued_bytes 0\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := process.Start(filepath.Join(dir, "mosquitto.log"), program, "-c", conf)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return p, c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.Stop()
			return nil, fmt.Errorf("start mosquitto: %w", err)
		}
	}
}
