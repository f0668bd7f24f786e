package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/fleet/wire"
)

// fleet is the other end of a link: it takes batches in the order in which they are sent, drops repeats as the server does, and notes what comes.
type fleet struct {
	t       *testing.T
	mu      sync.Mutex
	session int
	up      bool
	cut     chan struct{} // closed when the session ends
	deaf    bool          // nothing that is sent arrives any more, until the next session
	mute    bool          // what arrives is not acknowledged
	delay   time.Duration // of an acknowledgement
	last    map[string]wire.Uplink
	came    []wire.Uplink
	batches int
	missing uint64
	repeats int
	tick    chan struct{} // holds one: something has come
}

func newFleet(t *testing.T) *fleet {
	return &fleet{t: t, last: map[string]wire.Uplink{}, tick: make(chan struct{}, 1)}
}

func (f *fleet) connect(s *Sender) {
	f.mu.Lock()
	f.session++
	f.up, f.deaf, f.mute, f.cut = true, false, false, make(chan struct{})
	f.mu.Unlock()
	s.Up()
}

func (f *fleet) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up {
		f.up = false
		close(f.cut)
	}
}

func (f *fleet) Session() (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprint(f.session), f.up
}

var errCut = errors.New("the link was cut")

func (f *fleet) SendData(session string, d wire.Data) (func(context.Context) error, error) {
	b, err := wire.MarshalData(d) // also: it fits
	if err != nil {
		f.t.Error(err)
	}
	if d, err = wire.UnmarshalData(b); err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.up || session != fmt.Sprint(f.session) {
		return nil, errCut
	}
	if !f.deaf {
		f.receive(d)
	}
	cut, lost, delay := f.cut, f.deaf || f.mute, f.delay
	return func(ctx context.Context) error {
		acknowledged := time.After(delay)
		if lost {
			acknowledged = nil
		}
		select {
		case <-acknowledged:
			return nil
		case <-cut:
			return errCut
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

func (f *fleet) receive(d wire.Data) {
	f.batches++
	for _, u := range d.Messages {
		key := u.Application + " " + u.Topic
		last := f.last[key]
		if u.ID <= last.ID {
			f.repeats++
			continue
		}
		if u.Sequence <= last.Sequence {
			f.t.Errorf("%s: number %d comes after %d", key, u.Sequence, last.Sequence)
		}
		f.missing += u.Sequence - last.Sequence - 1
		f.last[key] = u
		f.came = append(f.came, u)
	}
	select {
	case f.tick <- struct{}{}:
	default:
	}
}

func (f *fleet) has(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.came) >= n
}

// text of what has come since the last call.
func (f *fleet) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, u := range f.came {
		s := u.Topic + string(u.Payload)
		if u.Historical {
			s += "h"
		}
		out = append(out, s)
	}
	f.came = nil
	return strings.Join(out, " ")
}

// board is a store and its sender.
type board struct {
	t     *testing.T
	s     *store.Store
	fleet *fleet
	*Sender
	wake chan struct{}
	stop func()
}

func convert(m store.Message) wire.Uplink {
	return wire.Uplink{ID: m.ID, Sequence: m.Sequence, Clock: wire.ClockSynced, Up: m.Up.Milliseconds(), Boot: m.Boot, Application: m.Application,
		Topic: strings.TrimPrefix(m.Topic, "uplink:"), Payload: m.Payload}
}

func start(t *testing.T, dir string, f *fleet, rate int64, rules ...store.UplinkRule) *board {
	t.Helper()
	b := &board{t: t, s: storetest.OpenIn(t, dir), fleet: f, wake: make(chan struct{}, 1)}
	b.s.SetUplinkRules("app", rules)
	b.Sender = New(Config{Box: b.s, Link: f, Outbox: b.s.OutboxID(), Newest: b.s.Newest, Message: convert, Rate: rate, Now: now, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.Run(ctx, b.s.Notify()); !errors.Is(err, context.Canceled) {
			t.Errorf("the sender ended: %v", err)
		}
	}()
	b.stop = func() {
		cancel()
		<-ended
		if err := b.s.Close(); err != nil {
			t.Error(err)
		}
	}
	return b
}

func now() store.Stamp {
	return store.Stamp{Boot: [16]byte{1}, Up: time.Since(time.Time{}) % (1 << 50)}
}

func (b *board) publish(topic string, payloads ...string) {
	b.t.Helper()
	tx := b.s.Begin("app").Stamp(now)
	for _, p := range payloads {
		if err := tx.Publish("uplink:"+topic, []byte(p), 1, false); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := tx.Commit(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

func seed(t *testing.T) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if v := os.Getenv("UPLINK_TEST_SEED"); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("UPLINK_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// Links that break at any moment, with or without what was on its way, restarts of the board, a full outbox: what the fleet has not got in the end
// is what the board dropped and counted, each topic comes in its order, and nothing twice.
func TestNothingIsLostOverCutsAndRestartsButWhatWasDroppedAndCounted(t *testing.T) {
	r := seed(t)
	for _, limit := range []int64{0, 30_000} {
		for _, rate := range []int64{0, 4000} {
			dir := t.TempDir()
			published, dropped := map[string]uint64{}, uint64(0)
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t)
				b := start(t, dir, f, rate)
				b.s.SetUplinkLimits(store.UplinkLimits{Bytes: limit})
				wait := func(d time.Duration) { // of the bubble's time
					ctx, cancel := context.WithTimeout(t.Context(), d)
					defer cancel()
					<-ctx.Done()
				}
				for range 400 {
					switch r.IntN(10) {
					case 0:
						f.connect(b.Sender)
					case 1:
						f.disconnect()
					case 2:
						f.mu.Lock()
						f.deaf, f.mute, f.delay = f.deaf || r.IntN(3) == 0, r.IntN(3) == 0, time.Duration(r.IntN(2000))*time.Millisecond
						f.mu.Unlock()
					case 3:
						wait(time.Duration(r.IntN(3000)) * time.Millisecond)
					case 4:
						if r.IntN(5) == 0 {
							f.disconnect()
							dropped += b.s.UplinkStats().Dropped[store.DroppedFull]
							b.stop()
							b = start(t, dir, f, rate)
							b.s.SetUplinkLimits(store.UplinkLimits{Bytes: limit})
						}
					default:
						topic := fmt.Sprint("t", r.IntN(6))
						n := 1 + r.IntN(20)
						var payloads []string
						for range n {
							payloads = append(payloads, strings.Repeat("x", r.IntN(200)))
						}
						b.publish(topic, payloads...)
						published["app "+topic] += uint64(n)
					}
				}
				f.disconnect()
				f.delay = 0
				for f.connect(b.Sender); len(b.s.Lanes()) > 0; {
					wait(time.Second)
				}
				dropped += b.s.UplinkStats().Dropped[store.DroppedFull]
				b.stop()
				var total uint64
				for topic, n := range published {
					total += n
					if last := f.last[topic].Sequence; last != n && dropped == 0 {
						t.Errorf("%s: %d came of %d", topic, last, n)
					}
				}
				lost := total - uint64(len(f.came))
				t.Logf("limit %d, rate %d: %d published, %d lost, %d dropped, %d repeats, %d batches, %d sessions", limit, rate, total, lost, dropped, f.repeats, f.batches, f.session)
				// What was on its way when it was dropped may have come all the same.
				if lost > dropped || f.missing > lost || limit == 0 && lost > 0 || limit > 0 && dropped == 0 {
					t.Errorf("%d published, %d lost, %d of them seen as missing, %d dropped and counted", total, lost, f.missing, dropped)
				}
			})
		}
	}
}

func TestHighAndLiveGoFirstAndATopicKeepsItsOrder(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := start(t, dir, f, 0, store.UplinkRule{Filter: "high/#", Priority: store.High}, store.UplinkRule{Filter: "low", Priority: store.Low})
		defer b.stop()
		b.publish("low", "1")
		b.publish("a", "1", "2")
		b.publish("b", "1")
		b.publish("high/x", "1")
		b.publish("a", "3")
		f.connect(b.Sender)
		synctest.Wait()
		if got, want := f.text(), "high/x1h a1h a2h a3h b1h low1h"; got != want {
			t.Errorf("history comes as %q, want %q", got, want)
		}
		b.publish("a", "4")
		synctest.Wait()
		if got := f.text(); got != "a4" {
			t.Errorf("live comes as %q", got)
		}
	})
}

// A month of history at a slow rate; what is published meanwhile doesn't wait for it.
func TestHistoryIsPacedAndHoldsUpNothingLive(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		const rate, payload, n = 10_000, 500, 400
		b := start(t, dir, f, rate)
		defer b.stop()
		for range n {
			b.publish("history", strings.Repeat("x", payload))
		}
		begun := time.Now()
		f.connect(b.Sender)
		synctest.Wait()
		for i := range 10 {
			b.publish("live", fmt.Sprint(i))
			synctest.Wait()
			f.mu.Lock()
			live := f.last["app live"]
			f.mu.Unlock()
			if string(live.Payload) != fmt.Sprint(i) || live.Historical {
				t.Fatalf("live message %d waits behind history: the newest is %q", i, live.Payload)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			<-ctx.Done()
			cancel()
		}
		if f.has(n) {
			t.Errorf("all of history came in %s", time.Since(begun))
		}
		for !f.has(n + 10) {
			<-f.tick
		}
		if took, least := time.Since(begun), time.Duration((n*payload-3*rate)/rate)*time.Second; took < least || took > 2*least {
			t.Errorf("history of %d bytes took %s at %d bytes/s", n*payload, took, rate)
		}
		synctest.Wait()
	})
}

func TestAFastLinkIsFilledWithLargeBatchesSeveralAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := start(t, dir, f, 0)
		defer b.stop()
		f.delay = time.Second
		const n = 6000
		for i := range n / 100 {
			payloads := make([]string, 100)
			b.publish(fmt.Sprint("t", i%7), payloads...)
		}
		begun := time.Now()
		f.connect(b.Sender)
		for !f.has(n) {
			<-f.tick
		}
		if took := time.Since(begun); took > 4*time.Second || f.batches > 2*n/maxMessages {
			t.Errorf("%d messages took %s and %d batches, a round trip is 1s", n, took, f.batches)
		}
		for len(b.s.Lanes()) > 0 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			<-ctx.Done()
			cancel()
		}
	})
}
