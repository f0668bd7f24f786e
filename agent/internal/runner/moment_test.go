package runner

import (
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/host"
	"dunlin.dev/dunlin/test/guests"
)

func TestHandlersAreToldHowGoodTheTimeIs(t *testing.T) {
	f := start(t, guests.Courier, Limits{})
	f.cfg.Moment = func() host.Moment { return host.Moment{Clock: "unsynced", Boot: "b-1", Up: 90 * time.Second} }
	at := time.UnixMilli(1_800_000_000_123)

	e, w := request("GET", "/", nil)
	e.At = at
	e.HTTP.Request.Header.Set("Dunlin-Clock", "synced") // the client's word is nothing
	if err := f.Handle(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	const want = "dunlin-at=1800000000123 dunlin-boot=b-1 dunlin-clock=unsynced dunlin-up=90000"
	if got := w.Body.String(); got != want {
		t.Errorf("a request: %q", got)
	}

	m := message("x")
	m.At, m.MQTT.Topic = at, "when/now"
	if err := f.Handle(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	environment := strings.ReplaceAll(strings.ToUpper(strings.ReplaceAll(want, "dunlin-", "dunlin_")), "UNSYNCED", "unsynced")
	environment = strings.ReplaceAll(environment, "B-1", "b-1")
	if got := f.outbox(t); len(got) != 1 || got[0] != "moment="+want+" "+environment {
		t.Errorf("a message: %q", got)
	}
}
