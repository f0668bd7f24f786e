// crash proves that an accepted reading takes effect once, over an agent that is killed again and again: `make crash`.
//
// Sensors publish numbered readings, of QoS 2 and of QoS 1 with an id, as fast as they are acknowledged, and send again what was
// not, as MQTT has it. A handler sums them, and publishes each entry on the board's bus; another trigger sums those. The agent is
// killed (SIGKILL) after a random number of acknowledgements, or at a named point of its code (agent/internal/crash). At the
// end, when nothing waits any more, the sums, the counts and the dead letters must be exactly those of what the sensors have an
// acknowledgement for. Then a board of a real fleet is killed at each point of an update, once for each 200 cycles.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/readings"
)

func main() {
	cycles := flag.Int("cycles", 1000, "how often the agent is killed")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of all that is random")
	bin := flag.String("bin", "", "a dunlin that was built with -tags crash (default: it is built first)")
	broker := flag.String("mosquitto", "", "a mosquitto to put between sensors and agent, instead of the agent's own broker")
	keep := flag.Bool("keep", false, "leave the agent's folder and log behind")
	flag.Parse()
	if err := run(options{*bin, *broker, *cycles, *seed}, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "crash: %v (seed %d)\n", err, *seed)
		os.Exit(1)
	}
}

// options of a proof.
type options struct {
	bin       string // "": it is built
	mosquitto string // "": the agent's own broker
	cycles    int
	seed      uint64
}

func run(o options, keep bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "dunlin-crash-")
	if err != nil {
		return err
	}
	err = prove(ctx, dir, o, os.Stdout)
	if folder := filepath.Join(dir, "updates"); err == nil && o.bin == "" && o.mosquitto == "" {
		if err = os.Mkdir(folder, 0o700); err == nil {
			err = proveUpdates(ctx, folder, max(1, o.cycles/200), os.Stdout)
		}
	}
	if err != nil {
		return fmt.Errorf("%w; the agent's folder and log are in %s", err, dir)
	}
	if keep {
		return nil
	}
	return os.RemoveAll(dir)
}

// points of the agent's code where it may be killed; "" is anywhere.
var points = []string{"", "accept", "accepted", "handled", "commit", "committed", "acknowledge", "released", "delivered", "bury", "activated", "compacting", "compact", "compacted"}

// prove runs the cycles in dir, and says at the end what came of them.
func prove(ctx context.Context, dir string, o options, out io.Writer) error {
	fmt.Fprintf(out, "seed %d\n", o.seed)
	bin := o.bin
	if bin == "" {
		bin = filepath.Join(dir, "dunlin")
		build := exec.CommandContext(ctx, "go", "build", "-tags", "crash", "-o", bin, "dunlin.dev/dunlin/fleet/cmd/dunlin")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build dunlin: %w", err)
		}
	}
	err := errors.Join(os.WriteFile(filepath.Join(dir, "dunlin.toml"), []byte(readings.Manifest("proof", "1.0.0")), 0o600), os.WriteFile(filepath.Join(dir, "ledger.wasm"), guests.Ledger, 0o600))
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(o.seed, 0))
	b, err := newBoard(dir, bin)
	if err != nil {
		return err
	}
	defer b.stop()
	sensorsAt, pace := b.mqtt, 2*time.Millisecond // about as fast as the board handles them
	if o.mosquitto != "" {
		broker, err := startMosquitto(ctx, o.mosquitto, dir, b.mqtt)
		if err != nil {
			return err
		}
		defer broker.Stop()
		b.mqtt = "mqtt://" + b.mqtt
		pace = 20 * time.Millisecond // it acknowledges what the board has yet to handle
	}
	if err := b.start(ctx, ""); err != nil { // compiled once, unhurt
		return err
	}
	if o.mosquitto != "" { // from its first subscription on, the broker keeps what comes
		if _, err := b.p.Line(ctx, "connected to the broker"); err != nil {
			return err
		}
	}
	sensors := startSensors(ctx, readings.Way{Dial: readings.TCP(sensorsAt), Pace: pace})
	killed := map[string]int{}
	for cycle := range o.cycles {
		point := points[random.IntN(len(points))]
		acks, nth := random.IntN(100), 1+random.IntN(5)
		patience := time.Second / 2
		if cycle%20 == 9 { // long enough to give up what fails, which holds up its topic, and to get far
			patience, acks, nth = 4*time.Second, acks*100, nth*500
		}
		if slices.Contains([]string{"activated", "bury", "compacting", "compact", "compacted"}, point) { // these are rare
			nth = 1
		}
		b.kill()
		if err := b.start(ctx, fmt.Sprintf("%s:%d", point, nth)); err != nil && !errors.Is(err, errKilled) {
			return fmt.Errorf("cycle %d, killed at %q: %w", cycle, point, err)
		}
		if b.untilKilled(ctx, sensors, acks, point, patience) {
			killed[point]++
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if cycle%100 == 99 {
			fmt.Fprintf(out, "%d cycles, %d readings acknowledged\n", cycle+1, sensors.Acknowledged())
		}
	}
	b.kill()
	if err := b.start(ctx, ""); err != nil {
		return err
	}
	want, err := sensors.Finish(ctx, time.Minute)
	if err != nil {
		return err
	}
	got, err := b.books(ctx)
	if err != nil {
		return err
	}
	var at []string
	for _, p := range points[1:] {
		at = append(at, fmt.Sprintf("%s %d", p, killed[p]))
	}
	fmt.Fprintf(out, "killed at named points: %s\n", strings.Join(at, ", "))
	if o.mosquitto != "" && got.AuditCount >= want.AuditCount {
		got.AuditCount, got.AuditSum = want.AuditCount, want.AuditSum // what leaves for another broker may come back more than once
	}
	if err := want.Compare(got); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d readings were handled, %d failed and are dead letters\n%d cycles: 0 lost, 0 doubled\n", want.Count, len(want.Dead), o.cycles)
	return nil
}

// startSensors publish as both kinds of QoS have it, to one handler and to two.
func startSensors(ctx context.Context, way readings.Way) *readings.Sensors {
	var all []*readings.Sensor
	for i := range 2 {
		all = append(all, &readings.Sensor{ID: fmt.Sprintf("twice%d", i), Topic: fmt.Sprintf("in/%d", i), QoS: 2, Format: "%d", Handlers: 1 + i},
			&readings.Sensor{ID: fmt.Sprintf("once%d", i), Topic: fmt.Sprintf("id/%d", i), QoS: 1, Format: `{"id":%[1]d,"n":%[1]d}`, Handlers: 1})
	}
	return readings.Start(ctx, way, all...)
}
