// Package storetest opens stores for the tests of other packages, and checks them when the test ends.
package storetest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
)

// Open a store in a directory of the test's own. When the test ends the store must pass Check; it is closed then, unless
// the test did.
func Open(t testing.TB) *store.Store {
	t.Helper()
	return OpenIn(t, t.TempDir())
}

// OpenIn opens the store in dir, which may hold one already.
func OpenIn(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		_ = s.Close()
		s, err := store.Open(dir, slog.New(slog.DiscardHandler), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		if s.Recovered() != "" {
			t.Errorf("the store was damaged and set aside as %s", s.Recovered())
		}
		if err := s.Check(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}
