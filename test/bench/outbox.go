package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

const outboxMessages = 30_000

// outbox measures how fast a board of its own sends what waited while the fleet server was away, with nothing that holds it back.
func (b *bench) outbox(ctx context.Context) error {
	o, err := b.another(ctx, "outbox", "[uplink]\nrate = \"off\"\n")
	if err != nil {
		return err
	}
	defer o.end()
	if err := o.push(ctx, "courier", "1.0.0", `
trigger.mqtt = [{ topic = "send/#", order = "none", component = "courier" }]
component.courier = { source = "courier.wasm", publish = ["uplink:#"], limits = { queue = 10000 } }
`, map[string][]byte{"courier.wasm": guests.Courier}); err != nil {
		return err
	}
	o.fleet.Stop()
	if err := fillOutbox(o.bus); err != nil {
		return err
	}
	o.board.Stop()
	o.fleet, err = process.Start(o.path("fleet.log"), o.path("dunlin-fleet"), "--data", o.path("fleet"), "--listen", strings.TrimPrefix(o.url, "http://"), "--mqtt", o.link.target)
	if err != nil {
		return err
	}
	if _, err := o.fleet.Line(ctx, `ready http=`); err != nil {
		return err
	}
	if o.board, err = process.Start(o.path("board.log"), o.path("dunlin-agent"), "--config", o.path("agent.toml")); err != nil {
		return err
	}
	if _, err := o.board.Line(ctx, `fleet link is up`); err != nil {
		return err
	}
	begun := time.Now()
	if err := o.arrived(ctx, outboxMessages); err != nil {
		return err
	}
	b.figure("outbox_drain", outboxMessages/time.Since(begun).Seconds(), "1/s")
	return nil
}

// fillOutbox publishes readings of 100 bytes on ten topics, which a handler sends to the fleet, and returns when all were acknowledged.
func fillOutbox(addr string) error {
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("bench-outbox").SetProtocolVersion(4).SetAutoReconnect(false))
	wait := func(t mqtt.Token) error {
		if !t.WaitTimeout(time.Minute) {
			return fmt.Errorf("fill the outbox through %s: no answer in a minute", addr)
		}
		return t.Error()
	}
	if err := wait(c.Connect()); err != nil {
		return err
	}
	defer c.Disconnect(0)
	const flying = 500
	var tokens []mqtt.Token
	for i := range outboxMessages {
		tokens = append(tokens, c.Publish(fmt.Sprint("send/", i%10), 1, false, fmt.Sprintf("%0100d", i)))
		if len(tokens) > flying {
			if err := wait(tokens[0]); err != nil {
				return err
			}
			tokens = tokens[1:]
		}
	}
	for _, t := range tokens {
		if err := wait(t); err != nil {
			return err
		}
	}
	return nil
}

// arrived waits until the server has n messages.
func (b *bench) arrived(ctx context.Context, n int) error {
	token, err := os.ReadFile(filepath.Join(b.path("fleet"), "admin.token"))
	if err != nil {
		return err
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/data?after=%d", b.url, n-1), nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		var got struct{ Messages []struct{ Sequence int } }
		err = json.NewDecoder(resp.Body).Decode(&got)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if len(got.Messages) > 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
