package agent

import (
	"net/http"
	"strings"
	"testing"

	"dunlin.dev/dunlin/fleet/wire"
)

// Two triggers of one component: each event is committed as its own trigger says.
func TestEachTriggerHasItsOwnDurability(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := boardOf(t, f)
	f.install(f.push("1.0.0", counter, func(r *wire.Release) {
		c := r.Components["main"]
		c.KeyValue, c.Publish = []string{"default"}, []string{"#"}
		r.Components["main"] = c
		r.Triggers.HTTP = []wire.HTTPTrigger{
			{ID: "safe", Route: "/safe", Component: "main"},
			{ID: "fast", Route: "/fast", Component: "main", Durability: wire.DurabilityMemory},
		}
	}))
	commits := func(path string) uint64 {
		t.Helper()
		before, err := b.agent.store.Stats()
		must(t, err)
		resp, err := http.Post("http://"+b.http+path, "text/plain", strings.NewReader("1"))
		must(t, err)
		must(t, resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("POST %s: %s", path, resp.Status)
		}
		after, err := b.agent.store.Stats()
		must(t, err)
		return after.Commits - before.Commits
	}
	for range 20 {
		if n := commits("/safe"); n == 0 {
			t.Fatal("an answer left before its effects were on the disk")
		}
	}
	// The board writes things of its own now and then.
	eventually(t, "an event in memory only costs no write", func() bool { return commits("/fast") == 0 })
	if got := b.get("/fast"); !strings.Contains(got, `"http":2`) {
		t.Errorf("the counter says %s", got)
	}
}
