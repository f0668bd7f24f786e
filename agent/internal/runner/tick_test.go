package runner

import (
	"strings"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/trigger"
	"dunlin.dev/dunlin/test/guests"
)

func TestATickNamesItsTimerAsTheManifestDoes(t *testing.T) {
	f := start(t, guests.Counter, Limits{})
	now := time.Now()
	for _, id := range []string{"app/fast", "app/nightly", "app/fast", "app/app/x"} {
		e := &trigger.Event{Kind: trigger.KindTimer, Trigger: id, At: now, Timer: &trigger.Tick{Scheduled: now, Actual: now}}
		if err := f.Handle(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	const want = "count/timer/fast=1 count/timer/nightly=2 count/timer/fast=3 count/timer/app/x=4"
	if got := strings.Join(f.outbox(t), " "); got != want {
		t.Errorf("published %s, want %s", got, want)
	}
}
