package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"dunlin.dev/dunlin/agent/internal/inbox"
	mqtttrigger "dunlin.dev/dunlin/agent/internal/trigger/mqtt"

	"dunlin.dev/dunlin/agent/internal/trigger"
)

// newBus makes the board's MQTT as the config says.
func newBus(cfg Config, box *inbox.Box, now func() time.Time, log *slog.Logger) bus {
	switch {
	case cfg.Bus.URL != "":
		return mqtttrigger.NewClient(mqtttrigger.ClientConfig{URL: cfg.Bus.URL, ClientID: cfg.busClient(), Inbox: box, Now: now, KeepAlive: cfg.keepAlive}, log)
	case cfg.Bus.Listen == off:
		return noBus{}
	}
	return mqtttrigger.NewBroker(mqtttrigger.BrokerConfig{Address: cfg.Bus.Listen, Inbox: box}, log)
}

// off is what turns a listener off in the config.
const off = "off"

// noBus is a board without MQTT: mqtt triggers don't fire and publishes fail.
type noBus struct{}

var errNoBus = errors.New("this board has no MQTT: bus.listen is \"off\" and bus.url is not set")

func (noBus) Set(subs []mqtttrigger.Subscription) error {
	if len(subs) > 0 {
		return errNoBus
	}
	return nil
}
func (noBus) Look(string)                   {}
func (noBus) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (noBus) Publish(context.Context, mqtttrigger.Message) (mqtttrigger.Taken, error) {
	return nil, errNoBus
}
func (noBus) Status() trigger.Status {
	return trigger.Status{Source: "mqtt", Health: trigger.Stopped, Detail: "off"}
}
func (noBus) Counters() mqtttrigger.Counters { return mqtttrigger.Counters{} }

// busClient names the session that an outside broker keeps for this board.
func (c Config) busClient() string {
	if c.Fleet != nil {
		return "dunlin-" + c.Fleet.Device
	}
	return "dunlin-local"
}
