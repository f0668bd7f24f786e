package store

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func quotaStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAWriteOverTheQuotaIsRefusedAndADeleteIsFree(t *testing.T) {
	s := quotaStore(t, t.TempDir())
	defer func() { _ = s.Close() }()
	q := Quota{Stores: []string{"a", "b"}, Bytes: 1000}
	commit := func(tx *Tx) {
		t.Helper()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error) {
		t.Helper()
		var over *QuotaError
		if !errors.As(err, &over) || over.Limit != 1000 {
			t.Errorf("got %v, want the quota's error", err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	tx := s.Begin("app").Within(q)
	must(tx.Set("a", "k", []byte(strings.Repeat("x", 400))))         // 465
	must(tx.Set("b", "k", []byte(strings.Repeat("x", 400))))         // 465
	refused(tx.Set("b", "l", []byte(strings.Repeat("x", 6))))        // 71, where 70 are left
	must(tx.Set("b", "l", []byte("12345")))                          // 70
	refused(tx.Set("a", "k", []byte(strings.Repeat("x", 401))))      // a byte more
	must(tx.Set("elsewhere", "k", []byte(strings.Repeat("x", 900)))) // no store of the quota's
	must(s.Begin("other").Within(q).Set("a", "k", []byte(strings.Repeat("x", 900))))
	commit(tx)

	tx = s.Begin("app").Within(q)
	refused(tx.Set("b", "m", nil))
	must(tx.Delete("b", "l"))
	must(tx.Set("b", "m", nil)) // 65, in the room of what was deleted
	must(tx.Set("a", "k", []byte("short")))
	commit(tx)

	// A quota that has become smaller than what is there: it can only shrink.
	small := Quota{Stores: q.Stores, Bytes: 100}
	tx = s.Begin("app").Within(small)
	must(tx.Set("b", "k", []byte(strings.Repeat("x", 300))))
	if err := tx.Set("b", "k", []byte(strings.Repeat("x", 401))); err == nil {
		t.Error("a value grew over the quota")
	}
	must(tx.Delete("b", "m"))
	commit(tx)
}

// Two events that saw the same room can't both have it: the later one runs again, and is then told.
func TestTheQuotaHoldsAcrossConcurrentEvents(t *testing.T) {
	s := quotaStore(t, t.TempDir())
	defer func() { _ = s.Close() }()
	q := Quota{Stores: []string{"a"}, Bytes: 300}
	one, two := s.Begin("app").Within(q), s.Begin("app").Within(q)
	value := make([]byte, 150)
	if err := errors.Join(one.Set("a", "one", value), two.Set("a", "two", value)); err != nil {
		t.Fatal(err)
	}
	if err := one.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := two.Commit(t.Context()); !errors.Is(err, ErrConflict) {
		t.Fatalf("the second: %v", err)
	}
	var over *QuotaError
	if err := s.Begin("app").Within(q).Set("a", "two", value); !errors.As(err, &over) || over.Used != 217 {
		t.Fatalf("again: %v", err)
	}
}

// counted is what a scan of all rows gives.
func counted(t *testing.T, s *Store) usage {
	t.Helper()
	u := usage{}
	if err := s.read(func(rows table) error {
		return rows.scan(nil, nil, func(k, row []byte) (bool, error) { u.row(k, row, 1); return true, nil })
	}); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestWhatIsCountedIsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	s := quotaStore(t, dir)
	r := rand.New(rand.NewPCG(1, 2))
	check := func() {
		t.Helper()
		if got, want := fmt.Sprint(s.usage), fmt.Sprint(counted(t, s)); got != want {
			t.Fatalf("counted %s, there are %s", got, want)
		}
	}
	for n := range 300 {
		tx := s.Begin(fmt.Sprintf("app%d", r.IntN(2))).Within(Quota{Stores: []string{"a", "b"}, Bytes: 4000})
		for range r.IntN(8) {
			store, key := string('a'+rune(r.IntN(2))), fmt.Sprint(r.IntN(20))
			if r.IntN(3) == 0 {
				if err := tx.Delete(store, key); err != nil {
					t.Fatal(err)
				}
				continue
			}
			var over *QuotaError
			if err := tx.Set(store, key, make([]byte, r.IntN(500))); err != nil && !errors.As(err, &over) {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		for app := range 2 {
			sum := int64(0)
			for _, store := range []string{"a", "b"} {
				sum += s.usage[string(valuePrefix(fmt.Sprintf("app%d", app), store))]
			}
			if sum > 4000 {
				t.Fatalf("%d bytes are kept in a quota of 4000", sum)
			}
		}
		check()
		if n%50 == 49 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = quotaStore(t, dir)
			check()
		}
	}
	if err := s.DeleteApplication("app0"); err != nil {
		t.Fatal(err)
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
