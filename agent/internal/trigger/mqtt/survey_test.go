package mqtt

import (
	"strings"
	"testing"
	"time"
)

func TestABrokerIsAskedWhatItIs(t *testing.T) {
	m := startMosquitto(t, "sys_interval 1")
	waitFor(t, "mosquitto says what it is", func() bool {
		facts, err := Survey(t.Context(), "mqtt://"+m.addr, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return strings.HasPrefix(facts.Version, "mosquitto version ") && facts.Dropped == "0"
	})
}

func TestABrokerThatTellsNothingIsNoError(t *testing.T) {
	b := startBroker(t, Limits{})
	if facts, err := Survey(t.Context(), "mqtt://"+b.Addr().String(), time.Now); err != nil || facts != (Facts{}) {
		t.Errorf("%+v, %v", facts, err)
	}
	if _, err := Survey(t.Context(), "mqtt://127.0.0.1:1", time.Now); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("nobody is there: %v", err)
	}
}
