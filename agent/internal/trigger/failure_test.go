package trigger

import (
	"testing"
	"time"
)

func TestRetriesWaitLongerAndLonger(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 100, 1: 100, 2: 400, 3: 1600, 4: 6400, 5: 25600, 6: 30000, 1000: 30000} {
		if got := RetryDelay(n); got != want*time.Millisecond {
			t.Errorf("RetryDelay(%d) = %s, want %d ms", n, got, want)
		}
	}
}
