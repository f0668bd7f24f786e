package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
)

// answer is an error that a receiver gives.
type answer struct {
	refused bool
	after   time.Duration
}

func (a answer) Error() string             { return fmt.Sprint(a.refused, a.after) }
func (a answer) Refused() bool             { return a.refused }
func (a answer) RetryAfter() time.Duration { return a.after }

// hosts are all receivers: what they took, and how often they were asked.
type hosts struct {
	mu    sync.Mutex
	takes func(m store.Message) error
	took  []string
	asked int
}

func (h *hosts) send(_ context.Context, m store.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	err := h.takes(m)
	if err == nil {
		h.took = append(h.took, m.Topic+" "+string(m.Payload))
	}
	return err
}

func (h *hosts) set(takes func(m store.Message) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.takes = takes
}

func (h *hosts) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.took, ", ")
}

func later(s *store.Store, t *testing.T, origin string, requests ...string) {
	t.Helper()
	tx := s.Begin("app")
	for _, r := range requests {
		if err := tx.Defer(origin, []byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestDeferredRequestsLeaveInOrderOverFailuresAndRestartsAndARefusedOneIsCounted(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{}
		begin := func() (s *store.Store, d *Deferred, stop func()) {
			s = storetest.OpenIn(t, dir)
			d = NewDeferred(DeferredConfig{Box: s, Send: h.send, Now: now, Log: slog.New(slog.DiscardHandler)})
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error)
			go func() { ended <- d.Run(ctx, s.Notify()) }()
			return s, d, func() {
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		sleep := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			<-ctx.Done()
		}
		down := errors.New("no route to host")
		h.set(func(m store.Message) error {
			if m.Topic == "https://a" {
				return down
			}
			return nil
		})
		s, _, stop := begin()
		later(s, t, "https://a", "1", "2")
		later(s, t, "https://b", "1")
		synctest.Wait()
		if got := h.text(); got != "https://b 1" { // one host that is away holds up no other
			t.Errorf("took %q", got)
		}
		sleep(time.Hour)
		if h.asked > 70 {
			t.Errorf("asked %d times in an hour", h.asked)
		}
		stop()
		s, d, stop := begin()
		sleep(time.Minute)
		h.set(func(m store.Message) error {
			if string(m.Payload) == "2" {
				return answer{refused: true}
			}
			return nil
		})
		d.Up() // the network is back: nobody waits for the clock
		later(s, t, "https://a", "3")
		synctest.Wait()
		if got := h.text(); got != "https://b 1, https://a 1, https://a 3" {
			t.Errorf("took %q", got)
		}
		if n := s.UplinkStats().Dropped[store.DroppedRefused]; n != 1 {
			t.Errorf("%d refused and counted", n)
		}
		asked := h.asked
		h.set(func(store.Message) error { return answer{after: 10 * time.Minute} })
		later(s, t, "https://a", "4")
		sleep(9 * time.Minute)
		if h.asked != asked+1 {
			t.Errorf("asked %d times where the host said to wait", h.asked-asked)
		}
		h.set(func(store.Message) error { return nil })
		sleep(2 * time.Minute)
		if got := h.text(); !strings.HasSuffix(got, "https://a 4") {
			t.Errorf("took %q", got)
		}
		stop()
	})
}
