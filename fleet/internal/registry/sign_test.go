package registry

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dunlin.dev/dunlin/fleet/internal/store"
	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

type noBlobs struct{}

func (noBlobs) Size(wire.Digest) (int64, error) { return 0, store.ErrNotFound }

// registry on a clock that the test sets.
type registry struct {
	*Registry
	path string
}

func open(t *testing.T, path string, now *time.Time) registry {
	t.Helper()
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	r, err := Open(st, noBlobs{}, func() time.Time { return *now }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return registry{r, path}
}

// newFleet has a root and targets that hold for years.
func newFleet(t *testing.T, now *time.Time) registry {
	t.Helper()
	r := open(t, filepath.Join(t.TempDir(), "fleet.db"), now)
	people, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	signers := func(k trust.Key) trust.Signers { return trust.Signers{Keys: []trust.PublicKey{k.Public()}} }
	years := now.Add(10 * 365 * 24 * time.Hour)
	root, err := trust.NewRoot(trust.RootSpec{
		Fleet: "test", Expires: years, Root: signers(people), Release: signers(people),
		Snapshot: signers(r.keys["snapshot"]), Timestamp: signers(r.keys["timestamp"]), Director: signers(r.keys["director"]),
	}, people)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := trust.RemoveReleases(nil, nil, years, people)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.SetRoot(root, targets); err != nil {
		t.Fatal(err)
	}
	return r
}

// accepts goes through a refresh of a board in state s at a time.
func accepts(t *testing.T, r *Registry, s trust.State, now time.Time) trust.State {
	t.Helper()
	root, err := r.Metadata(trust.Root, 1)
	if err != nil {
		t.Fatal(err)
	}
	v, err := trust.Open(root.Bytes, s, now)
	if err != nil {
		t.Fatal(err)
	}
	for f, ok := v.Next(); ok; f, ok = v.Next() {
		m, err := r.Metadata(f.Role, f.Version)
		if f.Role == trust.Root && err != nil {
			err = v.NoNewerRoot()
		} else if err == nil {
			err = v.Update(f.Role, m.Bytes)
		}
		if err != nil {
			t.Fatalf("at %s: %s version %d: %v", now, f.Role, f.Version, err)
		}
	}
	return v.State()
}

// Whoever follows Renew's times never serves metadata that a board finds expired, for four months, hour by hour.
func TestRenewedMetadataNeverExpires(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newFleet(t, &now)
	var state trust.State
	var next time.Time
	renewals := 0
	for hour := range 120 * 24 {
		if !now.Before(next) {
			before, err := r.Metadata(trust.Timestamp, 0)
			if err != nil {
				t.Fatal(err)
			}
			if next, err = r.Renew(); err != nil {
				t.Fatal(err)
			}
			if !next.After(now) {
				t.Fatalf("at %s: call again at %s", now, next)
			}
			if after, err := r.Metadata(trust.Timestamp, 0); err != nil || after.Version != before.Version {
				renewals++
			}
		}
		if hour%12 == 0 {
			state = accepts(t, r.Registry, state, now)
		}
		now = now.Add(time.Hour)
	}
	if days := 120; renewals < days-5 || renewals > days+10 {
		t.Errorf("%d renewals in %d days, want about one a day", renewals, days)
	}
	versions, err := r.store.Metadata(trust.Timestamp, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Metadata(trust.Timestamp, versions.Version-40*24*3600); err == nil {
		t.Error("a timestamp of 40 days ago is still kept")
	}
}

func TestRenewAtLeavesTwoThirds(t *testing.T) {
	issued := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	if got, want := RenewAt(issued.Add(3*time.Hour), 3*time.Hour), issued.Add(time.Hour); !got.Equal(want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A database that was restored from a backup must not show boards older versions than they have seen.
func TestVersionsGrowPastARestoredBackup(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newFleet(t, &now)
	backup := filepath.Join(t.TempDir(), "fleet.db")
	b, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(backup, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var seen trust.State
	for range 5 { // changes that the backup doesn't have, and a board has
		now = now.Add(25 * time.Hour)
		if _, err := r.Renew(); err != nil {
			t.Fatal(err)
		}
		seen = accepts(t, r.Registry, seen, now)
	}
	restored := open(t, backup, &now)
	now = now.Add(time.Minute)
	if _, err := restored.Renew(); err != nil {
		t.Fatal(err)
	}
	accepts(t, restored.Registry, seen, now)
}

func TestChangesOfOneSecondHaveVersionsOfTheirOwn(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newFleet(t, &now)
	root, targets, err := r.chain()
	if err != nil {
		t.Fatal(err)
	}
	before, err := r.Metadata(trust.Timestamp, 0)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(-time.Hour) // the clock steps back
	if err := r.publish(root.Bytes, targets.Bytes, store.Publication{}); err != nil {
		t.Fatal(err)
	}
	if after, err := r.Metadata(trust.Timestamp, 0); err != nil || after.Version != before.Version+1 {
		t.Errorf("version %d, %v; want %d", after.Version, err, before.Version+1)
	}
}
