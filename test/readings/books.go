package readings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"time"
)

// Books are what sensors expect, or what a board has.
type Books struct {
	Count, Sum           uint64
	AuditCount, AuditSum uint64         // of the entries that the handler published on the board's bus
	Dead                 map[uint64]int // readings that fail: how many triggers gave each up
	Up                   map[uint64]int // readings whose entry went to the fleet: how many came; nil: nobody looked
}

// Compare says what of want is missing in got, or twice there.
func (want Books) Compare(got Books) error {
	var errs []error
	if got.Count != want.Count || got.Sum != want.Sum {
		errs = append(errs, fmt.Errorf("the handler has %d readings with the sum %d, want %d with %d", got.Count, got.Sum, want.Count, want.Sum))
	}
	if got.AuditCount != want.AuditCount || got.AuditSum != want.AuditSum {
		errs = append(errs, fmt.Errorf("of its entries %d arrived with the sum %d, want %d with %d", got.AuditCount, got.AuditSum, want.AuditCount, want.AuditSum))
	}
	errs = append(errs, each("among the dead letters", want.Dead, got.Dead))
	if got.Up != nil {
		errs = append(errs, each("among what the fleet has", want.Up, got.Up))
	}
	return errors.Join(errs...)
}

// each reading is somewhere as often as it should; the first ten that aren't are named.
func each(where string, want, got map[uint64]int) error {
	var errs []error
	for n, times := range want {
		if got[n] != times {
			errs = append(errs, fmt.Errorf("reading %d is %d times %s, want %d", n, got[n], where, times))
		}
	}
	for n, times := range got {
		if want[n] == 0 {
			errs = append(errs, fmt.Errorf("reading %d is %d times %s, and was never acknowledged", n, times, where))
		}
	}
	if len(errs) > 10 {
		errs = append(errs[:10], fmt.Errorf("and %d more", len(errs)-10))
	}
	return errors.Join(errs...)
}

// Board is one whose books are read.
type Board struct {
	Dunlin string       // the program
	Where  []string     // the flag that says where the board is: -f FILE, or --state DIR
	Page   string       // URL of the ledger
	Client *http.Client // that reaches it
}

// waits is what `dunlin events` says.
type waits struct {
	Waiting     int   `json:"waiting"`
	OutboxBytes int64 `json:"outbox_bytes"`
	UplinkBytes int64 `json:"uplink_bytes"`
	Dead        []struct {
		Event string `json:"event"`
	} `json:"dead"`
}

func (b Board) events(ctx context.Context, to any, args ...string) error {
	out, err := exec.CommandContext(ctx, b.Dunlin, append(append([]string{"events", "--json"}, b.Where...), args...)...).Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("%w: %s", err, failed.Stderr)
		}
		return fmt.Errorf("dunlin events: %w", err)
	}
	return json.Unmarshal(out, to)
}

// Settled gives the board's books once nothing waits any more and they stay as they are.
func (b Board) Settled(ctx context.Context, patience time.Duration) (Books, error) {
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("it never came to rest"))
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	last, same := "", 0
	for {
		var w waits
		if err := b.events(outer, &w); err != nil {
			return Books{}, err
		}
		line, err := b.Read(ctx)
		if err != nil {
			return Books{}, err
		}
		if w.Waiting == 0 && w.OutboxBytes == 0 && w.UplinkBytes == 0 && line == last {
			same++
		} else {
			same = 0
		}
		last = line
		if same == 8 {
			return b.books(ctx, line, w)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Books{}, fmt.Errorf("%w: %d events wait, %d bytes are in the outbox, %d for the fleet", context.Cause(ctx), w.Waiting, w.OutboxBytes, w.UplinkBytes)
		}
	}
}

// Read the ledger's page: "count sum audit-count audit-sum".
func (b Board) Read(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Page, nil)
	if err != nil {
		return "", err
	}
	res, err := b.Client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("read the books: %s: %s", res.Status, body)
	}
	return string(body), err
}

func (b Board) books(ctx context.Context, line string, w waits) (Books, error) {
	got := Books{Dead: map[uint64]int{}}
	if _, err := fmt.Sscan(line, &got.Count, &got.Sum, &got.AuditCount, &got.AuditSum); err != nil {
		return got, fmt.Errorf("read the books %q: %w", line, err)
	}
	for _, d := range w.Dead {
		var letter struct {
			Text string `json:"text"`
		}
		if err := b.events(ctx, &letter, "show", d.Event); err != nil {
			return got, err
		}
		n, err := strconv.ParseUint(letter.Text, 10, 64)
		if err != nil {
			var reading struct {
				N uint64 `json:"n"`
			}
			if err := json.Unmarshal([]byte(letter.Text), &reading); err != nil {
				return got, fmt.Errorf("dead letter %s: %w", d.Event, err)
			}
			n = reading.N
		}
		got.Dead[n]++
	}
	return got, nil
}
