package main

import (
	"errors"
	"flag"
	"os"
	"testing"
	"time"

	"dunlin.dev/dunlin/test/need"
)

var (
	testSeed   = flag.Uint64("network-seed", uint64(time.Now().UnixNano()), "of the bad network: a failed one is told")
	testLength = flag.Duration("network-for", 15*time.Second, "how long the network is bad")
)

// play the whole in a network of the test's own; `make network` is the same for longer.
func proven(t *testing.T, mosquitto string) {
	if inner := asRoot("-test.v", "-test.run=^"+t.Name()+"$"); inner != nil {
		out, err := inner.CombinedOutput()
		t.Logf("as root of a user namespace:\n%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	bin, err := need.Programs()
	if err != nil {
		t.Fatal(err)
	}
	seed := *testSeed
	for range 3 { // a short run on a busy machine may meet no bad weather
		err = prove(t.Context(), t.TempDir(), options{bin: bin, mosquitto: mosquitto, seed: seed, length: *testLength}, os.Stdout)
		if !errors.Is(err, errNothing) {
			break
		}
		t.Log(err)
		seed++
	}
	switch {
	case errors.Is(err, errNoNetwork):
		absent(t, err)
	case err != nil:
		t.Errorf("%v; again with -network-seed %d", err, seed)
	}
}

func absent(t *testing.T, err error) {
	t.Helper()
	need.Absent(t, "network namespaces and /dev/net/tun (run as root, modprobe tun): a network that loses packets; "+err.Error())
}

func TestABadNetworkLosesNothingAndDoublesNothing(t *testing.T) {
	t.Parallel()
	proven(t, "")
}

func TestABadNetworkToMosquittoLosesNothingAndDoublesNothing(t *testing.T) {
	t.Parallel()
	proven(t, need.Tool(t, "mosquitto", "a bad network between the board and its bus"))
}
