//go:build crash

// Package crash lets `make crash` end the agent, as a power cut would, at named points.
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// DUNLIN_CRASH is "point:n": the n-th time that the point is passed is the last.
var (
	point, nth = parse(os.Getenv("DUNLIN_CRASH"))
	passed     atomic.Int64
)

func parse(s string) (point string, nth int64) {
	point, n, _ := strings.Cut(s, ":")
	nth, _ = strconv.ParseInt(n, 10, 64)
	return point, nth
}

// Eager has everything that is done rarely done at each opportunity, so that it is interrupted too.
const Eager = true

// At is a point where the proof may end the process.
func At(name string) {
	if name == point && passed.Add(1) == nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
