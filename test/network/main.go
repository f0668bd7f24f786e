// network proves that a bad network between a board, its sensors and its fleet loses nothing and doubles nothing: `make network`.
//
// The board, an agent, is in one network namespace; in another are the fleet server, the sensors and, if told, Mosquitto as the
// board's bus. Between them is a relay that loses, delays, doubles and reorders packets, lets none pass for a while, or forgets the
// connections that it knew, as a seed says. Meanwhile sensors publish numbered readings, of QoS 2 and of QoS 1 with an id,
// a handler enters them in a ledger and sends some on to the fleet, the fleet server is killed and started again, and a new version of the
// application is pushed. At the end, on a fair network, the ledger, its entries on the bus and those with the fleet must be
// exactly those of what the sensors have an acknowledgement for, the new version must run, and the board's page must have answered
// all the time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"dunlin.dev/dunlin/test/need"
)

func main() {
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of all that is random")
	length := flag.Duration("for", time.Minute, "how long the network is bad")
	mosquitto := flag.String("mosquitto", "", "a mosquitto to be the board's bus, instead of its own broker")
	keep := flag.Bool("keep", false, "leave the folder and logs behind")
	flag.Parse()
	if err := run(options{mosquitto: *mosquitto, seed: *seed, length: *length}, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "network: %v (seed %d)\n", err, *seed)
		os.Exit(1)
	}
}

// options of a proof.
type options struct {
	bin       string // folder of the programs
	mosquitto string // "": the agent's own broker
	seed      uint64
	length    time.Duration // of the bad network
}

func run(o options, keep bool) (err error) {
	if inner := asRoot(os.Args[1:]...); inner != nil {
		inner.Stdout, inner.Stderr = os.Stdout, os.Stderr
		return inner.Run()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.bin, err = need.Programs(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dunlin-network-")
	if err != nil {
		return err
	}
	if err := prove(ctx, dir, o, os.Stdout); err != nil {
		return fmt.Errorf("%w; logs are in %s", err, dir)
	}
	if keep {
		return nil
	}
	return os.RemoveAll(dir)
}

// asRoot is this program as root of a user namespace, where anyone may make networks; nil for root, who may anyway.
func asRoot(args ...string) *exec.Cmd {
	if os.Getuid() == 0 {
		return nil
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// errNoNetwork: this machine lets nobody make a network.
var errNoNetwork = errors.New("no network can be made here")

// prove plays it in dir, and says at the end what came of it.
func prove(ctx context.Context, dir string, o options, out *os.File) (err error) {
	fmt.Fprintf(out, "seed %d\n", o.seed)
	board, err := newNamespace(dir, boardIP)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoNetwork, err)
	}
	far, err := newNamespace(dir, farIP)
	if err != nil {
		return errors.Join(errNoNetwork, err, board.close())
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &play{options: o, dir: dir, out: out, board: board, far: far, relay: newRelay(o.seed, board.tun, far.tun)}
	passing := make(chan struct{})
	go func() { p.relay.run(ctx); close(passing) }()
	defer func() {
		p.stop()
		cancel()
		err = errors.Join(err, board.close(), far.close())
		<-passing
	}()
	for _, act := range []func(context.Context) error{p.raise, p.storm, p.reckon} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}
