package main

import (
	"os"
	"testing"
	"time"
)

// `make soak` is the same for ten minutes.
func TestAnAgentAtFullRateStaysAsItWas(t *testing.T) {
	length := 6 * time.Second
	if testing.Short() {
		length = 3 * time.Second
	}
	if err := soak(t.Context(), t.TempDir(), length, os.Stdout); err != nil {
		t.Error(err)
	}
}
