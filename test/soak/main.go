// soak runs an agent at full rate for a while, and holds it to what it was at the beginning: `make soak`.
//
// Sensors publish numbered readings as fast as they are acknowledged; a handler sums them. After a fifth of the time they pause until nothing
// waits, and again at the end. Between the two rests the agent's anonymous memory, its goroutines, its open files and what it has on the disk
// must not have grown, and the books must be exact. A line every ten seconds tells how it goes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
	"dunlin.dev/dunlin/test/readings"
)

func main() {
	length := flag.Duration("for", 10*time.Minute, "how long")
	flag.Parse()
	if err := run(*length); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(length time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "dunlin-soak-")
	if err != nil {
		return err
	}
	if err := soak(ctx, dir, length, os.Stdout); err != nil {
		return fmt.Errorf("%w; the agent's folder and log are in %s", err, dir)
	}
	return os.RemoveAll(dir)
}

const settling = 5 * time.Minute // until nothing waits: what fails holds up its topic for two seconds

// soaked is an agent under load.
type soaked struct {
	dir, bin, http, bus string
	p                   *process.Process
	out                 io.Writer
}

// soak in dir, and say what came of it.
func soak(ctx context.Context, dir string, length time.Duration, out io.Writer) error {
	s := &soaked{dir: dir, bin: filepath.Join(dir, "dunlin"), out: out}
	build := exec.CommandContext(ctx, "go", "build", "-o", s.bin, "dunlin.dev/dunlin/fleet/cmd/dunlin")
	build.Stderr = os.Stderr
	err := errors.Join(build.Run(), os.WriteFile(filepath.Join(dir, "dunlin.toml"), []byte(readings.Manifest("soak", "1.0.0")), 0o600), os.WriteFile(filepath.Join(dir, "ledger.wasm"), guests.Ledger, 0o600))
	if err != nil {
		return err
	}
	if s.p, err = process.Start(filepath.Join(dir, "agent.log"), s.bin, "up", "-f", filepath.Join(dir, "dunlin.toml"), "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"); err != nil {
		return err
	}
	defer s.p.Stop()
	m, err := s.p.Line(ctx, `up: http=(\S+) mqtt=([^;\s]+)`)
	if err != nil {
		return err
	}
	s.http, s.bus = m[1], m[2]
	var want readings.Books
	first, err := s.load(ctx, length/5, "a", &want)
	if err != nil {
		return err
	}
	last, err := s.load(ctx, length-length/5, "b", &want)
	if err != nil {
		return err
	}
	if err := last.flat(first); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d readings in %s: 0 lost, 0 doubled, and nothing grew\n", want.Count+uint64(len(want.Dead)), length)
	return nil
}

// load the agent for a time, wait until it rests, hold its books against want, and measure it. ids of the readings begin with prefix.
func (s *soaked) load(ctx context.Context, length time.Duration, prefix string, want *readings.Books) (state, error) {
	var all []*readings.Sensor
	for i := range 4 {
		all = append(all, &readings.Sensor{ID: fmt.Sprintf("%s-twice%d", prefix, i), Topic: fmt.Sprintf("in/%d", i), QoS: 2, Format: "%d", Handlers: 1},
			&readings.Sensor{ID: fmt.Sprintf("%s-once%d", prefix, i), Topic: fmt.Sprintf("id/%d", i), QoS: 1, Format: `{"id":"` + prefix + `%[1]d","n":%[1]d}`, Handlers: 1})
	}
	all[2].Handlers = 2 // in/1
	sensors := readings.Start(ctx, readings.Way{Dial: readings.TCP(s.bus)}, all...)
	end, tick := time.After(length), time.NewTicker(10*time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
			now, err := s.measure(ctx)
			if err != nil {
				return now, err
			}
			fmt.Fprintf(s.out, "%d readings acknowledged, %s\n", sensors.Acknowledged(), now)
		case <-s.p.Ended():
			return state{}, errors.New("the agent ended")
		case <-end:
			running = false
		case <-ctx.Done():
			return state{}, ctx.Err()
		}
	}
	more, err := sensors.Finish(ctx, settling)
	if err != nil {
		return state{}, err
	}
	add(want, more)
	b := readings.Board{Dunlin: s.bin, Where: []string{"-f", filepath.Join(s.dir, "dunlin.toml")}, Page: "http://" + s.http + "/", Client: http.DefaultClient}
	got, err := b.Settled(ctx, settling)
	if err != nil {
		return state{}, err
	}
	if err := want.Compare(got); err != nil {
		return state{}, err
	}
	now, err := s.measure(ctx)
	fmt.Fprintf(s.out, "at rest after %d readings: %s\n", want.Count, now)
	return now, err
}

// add what is expected of two loads.
func add(to *readings.Books, more readings.Books) {
	to.Count += more.Count
	to.Sum += more.Sum
	to.AuditCount += more.AuditCount
	to.AuditSum += more.AuditSum
	if to.Dead == nil {
		to.Dead = map[uint64]int{}
	}
	for n, times := range more.Dead {
		to.Dead[n] += times
	}
}

// state of an agent: bytes of anonymous memory and of its folder, and counts.
type state struct {
	anonymous, disk   int64
	goroutines, files int
}

func (s state) String() string {
	return fmt.Sprintf("%.1f MB anonymous, %d goroutines, %d open files, %.1f MB on the disk", float64(s.anonymous)/1e6, s.goroutines, s.files, float64(s.disk)/1e6)
}

// flat says what has grown since: beyond what the allocator and the database keep to use again.
func (s state) flat(since state) error {
	var errs []error
	grown := func(what string, now, then, slack int64) {
		if now > then+slack {
			errs = append(errs, fmt.Errorf("%s: %d, after the first fifth of the time %d", what, now, then))
		}
	}
	grown("anonymous memory", s.anonymous, since.anonymous, max(16<<20, since.anonymous/4))
	grown("disk", s.disk, since.disk, max(8<<20, since.disk/4))
	grown("goroutines", int64(s.goroutines), int64(since.goroutines), 8)
	grown("open files", int64(s.files), int64(since.files), 4)
	return errors.Join(errs...)
}

func (s *soaked) measure(ctx context.Context) (now state, err error) {
	u, err := s.p.Memory()
	if err != nil {
		return now, err
	}
	now.anonymous = u.Anonymous
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.p.PID()))
	if err != nil {
		return now, err
	}
	now.files = len(fds)
	err = filepath.WalkDir(filepath.Join(s.dir, ".dunlin"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			now.disk += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		return now, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+"/.well-known/dunlin/health", nil)
	if err != nil {
		return now, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return now, err
	}
	defer res.Body.Close()
	var health struct {
		OK         bool `json:"ok"`
		Goroutines int  `json:"goroutines"`
	}
	if err := json.NewDecoder(res.Body).Decode(&health); err != nil {
		return now, fmt.Errorf("read the health page: %w", err)
	}
	if !health.OK {
		return now, errors.New("the agent is not well")
	}
	now.goroutines = health.Goroutines
	return now, nil
}
