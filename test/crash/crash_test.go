package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// `make crash` is the same with a thousand cycles.
func TestNoAcceptedReadingIsLostOrCountedTwiceOverKills(t *testing.T) {
	if err := prove(t.Context(), t.TempDir(), options{cycles: cycles(50), seed: uint64(time.Now().UnixNano())}, os.Stdout); err != nil {
		t.Error(err)
	}
}

// What Mosquitto has acknowledged to a sensor takes effect once on the board.
func TestNoReadingIsLostOrCountedTwiceBehindMosquitto(t *testing.T) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/mosquitto") // Debian puts it where users don't look
	}
	if err != nil {
		t.Log("ABSENT: mosquitto (apt-get install mosquitto): kills of the agent are not tried behind a broker that others wrote")
		t.Skip()
	}
	if err := prove(t.Context(), t.TempDir(), options{mosquitto: path, cycles: cycles(20), seed: uint64(time.Now().UnixNano())}, os.Stdout); err != nil {
		t.Error(err)
	}
}

func cycles(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

// A board that is killed anywhere in an update serves a whole version afterwards, takes the next one, and loses no reading.
func TestAnUpdateThatIsKilledAnywhereLeavesAWholeVersionAndLosesNoReading(t *testing.T) {
	if err := proveUpdates(t.Context(), t.TempDir(), 1, os.Stdout); err != nil {
		t.Error(err)
	}
}
