package main

import (
	"os"
	"testing"
	"time"
)

// `make crash` is the same with a thousand cycles.
func TestNoAcceptedReadingIsLostOrCountedTwiceOverKills(t *testing.T) {
	cycles := 50
	if testing.Short() {
		cycles = 10
	}
	if err := prove(t.Context(), t.TempDir(), "", cycles, uint64(time.Now().UnixNano()), os.Stdout); err != nil {
		t.Error(err)
	}
}
