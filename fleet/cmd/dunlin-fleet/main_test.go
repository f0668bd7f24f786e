package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFlagsComeBeforeTheEnvironment(t *testing.T) {
	env := map[string]string{"DUNLIN_FLEET_DATA": "/from/env", "DUNLIN_FLEET_LISTEN": "127.0.0.1:1", "DUNLIN_FLEET_MQTT": "127.0.0.1:2"}
	cfg, err := parse([]string{"--listen", "127.0.0.1:9"}, func(k string) string { return env[k] }, os.Stdout, os.Stderr)
	if err != nil || cfg.Data != "/from/env" || cfg.HTTP != "127.0.0.1:9" || cfg.MQTT != "127.0.0.1:2" || cfg.Log == nil {
		t.Errorf("%+v, %v", cfg, err)
	}
	for _, args := range [][]string{{"serve"}, {"--log-level", "loud"}} {
		if _, err := parse(args, os.Getenv, os.Stdout, os.Stderr); err == nil || !strings.Contains(err.Error(), args[len(args)-1]) {
			t.Errorf("%v: %v; want an error that names it", args, err)
		}
	}
}

// systemd hears that the server is up, and its watchdog is fed while the server is healthy, and not while it isn't.
func TestWatchdogIsFedWhileHealthy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	heard := func() string {
		b := make([]byte, 128)
		if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	health := make(chan error) // each look at the health waits for its answer here
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		supervise(ctx, func() error {
			select {
			case err := <-health:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}, slog.New(slog.DiscardHandler))
	}()
	health <- nil
	if got := heard(); got != "READY=1" {
		t.Fatalf("heard %q first", got)
	}
	health <- errors.New("stuck")
	health <- errors.New("stuck")
	health <- nil
	if got := heard(); got != "WATCHDOG=1" {
		t.Fatalf("heard %q", got)
	}
	cancel()
	<-ended
	// One healthy look, one feeding: the two before it fed nothing.
	if got := heard(); got != "STOPPING=1" {
		t.Fatalf("heard %q", got)
	}
}
