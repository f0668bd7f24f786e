package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"dunlin.dev/dunlin/test/readings"
)

// reckon compares all books, once nothing is under way any more.
func (p *play) reckon(ctx context.Context) error {
	begun := time.Now()
	want, err := p.sensors.Finish(ctx, patience)
	if err != nil {
		return err
	}
	page := "http://127.0.0.1:" + pagePort + "/"
	client := &http.Client{Transport: &http.Transport{DialContext: dialer(p.board)}}
	b := readings.Board{Dunlin: filepath.Join(p.bin, "dunlin"), Where: []string{"--state", p.path("board")}, Page: page, Client: client}
	if err := p.healthy(ctx, client, page+".well-known/dunlin/health"); err != nil {
		return err
	}
	if err := p.handled(ctx, b, want.Count); err != nil {
		return err
	}
	got, err := b.Settled(ctx, patience)
	if err != nil {
		return err
	}
	if got.Up, err = p.uplinks.all(ctx); err != nil {
		return err
	}
	settled := time.Since(begun)
	if p.mosquitto != "" && got.AuditCount >= want.AuditCount {
		got.AuditCount, got.AuditSum = want.AuditCount, want.AuditSum // what leaves for another broker may come back more than once
	}
	answered, failed := p.page.outcome()
	up, down := p.relay.tallies()
	p.say("from the board: %s\nto the board:   %s", up, down)
	if err := errors.Join(want.Compare(got), failed, p.happened(up, down, answered, want)); err != nil {
		return err
	}
	p.say("%d readings were handled, %d failed and are dead letters, %d entries are with the fleet: 0 lost, 0 doubled\n"+
		"version 2 runs; each of %d requests to the page was answered; all was settled %.1f s after the network was",
		want.Count, len(want.Dead), len(want.Up), answered, settled.Seconds())
	return nil
}

// healthy waits until the board says that nothing is wrong and version 2 runs.
func (p *play) healthy(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the board did not recover"))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		body, err := get(ctx, client, url, "")
		if err != nil {
			return err
		}
		var health struct {
			Sources      map[string]string `json:"sources"`
			Fleet        string            `json:"fleet"`
			Applications map[string]string `json:"applications"`
		}
		if err := json.Unmarshal(body, &health); err != nil {
			return err
		}
		if health.Fleet == "connected" && health.Sources["mqtt"] == "ok" && health.Sources["http"] == "ok" && health.Applications["proof"] == "2.0.0" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), strings.TrimSpace(string(body)))
		}
	}
}

// handled waits until the board has as many readings: what another broker keeps for it, it doesn't know of. Fewer are for the books to tell.
func (p *play) handled(ctx context.Context, b readings.Board, want uint64) error {
	late := time.After(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		line, err := b.Read(ctx)
		if err != nil {
			return err
		}
		var count uint64
		if _, err := fmt.Sscan(line, &count); err != nil {
			return fmt.Errorf("read the books %q: %w", line, err)
		}
		if count >= want {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errNothing = errors.New("this run proves nothing")

// happened is an error when the network was never bad, and the proof of nothing.
func (p *play) happened(up, down tally, answered int, want readings.Books) error {
	var missing []string
	for what, n := range map[string]int{
		"lost packet": up.lost + down.lost, "doubled packet": up.doubled + down.doubled, "overtaken packet": up.overtaken + down.overtaken,
		"packet stopped by a partition": up.stopped + down.stopped, "packet of a forgotten connection": up.forgotten + down.forgotten,
		"answer of the page": answered, "reading": int(want.Count), "entry with the fleet": len(want.Up),
	} {
		if n == 0 {
			missing = append(missing, what)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: there was no %s", errNothing, strings.Join(missing, ", no "))
	}
	return nil
}

// stop all that was started.
func (p *play) stop() {
	p.agent.Stop()
	p.fleet.Stop()
	p.broker.Stop()
}
