package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
	"dunlin.dev/dunlin/test/readings"
)

// updatePoints of an update's way onto a board: as a patch of the version before, into its place, into the record of what is installed.
var updatePoints = []string{"patch", "patched", "activate", "activated"}

// updates is a board of a real fleet, killed at each point of an update while sensors publish.
type updates struct {
	dir, http, bus, url string
	fleet, agent        *process.Process
}

// proveUpdates that what is killed in the middle of an update comes back with a version that is whole, takes the next, and loses no reading.
func proveUpdates(ctx context.Context, dir string, rounds int, out io.Writer) error {
	u := &updates{dir: dir}
	for _, program := range []string{"fleet/cmd/dunlin", "fleet/cmd/dunlin-fleet", "agent/cmd/dunlin-agent"} {
		build := exec.CommandContext(ctx, "go", "build", "-tags", "crash", "-o", dir, "dunlin.dev/dunlin/"+program)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build %s: %w", program, err)
		}
	}
	for _, addr := range []*string{&u.http, &u.bus} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*addr = l.Addr().String()
		l.Close()
	}
	defer func() { u.agent.Stop(); u.fleet.Stop() }()
	if err := u.raise(ctx); err != nil {
		return err
	}
	if err := u.push(ctx, 1, true); err != nil {
		return err
	}
	sensors := startSensors(ctx, readings.Way{Dial: readings.TCP(u.bus), Pace: 5 * time.Millisecond})
	version := 1
	for range rounds {
		for _, point := range updatePoints {
			version++
			if err := u.killedAt(ctx, point, version); err != nil {
				return fmt.Errorf("killed at %q: %w", point, err)
			}
			version++ // one that was killed while it was activated rests; the next is taken at once
			if err := u.push(ctx, version, true); err != nil {
				return fmt.Errorf("after a kill at %q: %w", point, err)
			}
		}
	}
	want, err := sensors.Finish(ctx, time.Minute)
	if err != nil {
		return err
	}
	b := readings.Board{Dunlin: u.path("dunlin"), Where: []string{"--state", u.path("board")}, Page: "http://" + u.http + "/", Client: http.DefaultClient}
	got, err := b.Settled(ctx, 5*time.Minute)
	if err != nil {
		return err
	}
	if err := want.Compare(got); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d updates killed at %v, %d readings: 0 lost, 0 doubled\n", rounds*len(updatePoints), updatePoints, want.Count)
	return nil
}

func (u *updates) path(name string) string { return filepath.Join(u.dir, name) }

func (u *updates) raise(ctx context.Context) (err error) {
	u.fleet, err = process.Start(u.path("fleet.log"), u.path("dunlin-fleet"), "--data", u.path("fleet"), "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m, err := u.fleet.Line(ctx, `ready http=(\S+) mqtt=(\S+)`)
	if err != nil {
		return err
	}
	u.url = "http://" + m[1]
	if err := u.dunlin(ctx, "keys", "init", "--to", u.url, "--fleet", "proof", "--dir", u.path("keys")); err != nil {
		return err
	}
	config := fmt.Sprintf("state = %q\nlisten = %q\n[bus]\nlisten = %q\n[fleet]\nname = \"proof\"\ndevice = \"hut\"\nurl = %q\nroot = %q\ntoken_file = %q\n",
		u.path("board"), u.http, u.bus, "mqtt://"+m[2], u.path("keys/root.json"), u.path("fleet/join.token"))
	if err := os.WriteFile(u.path("agent.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	return u.start(ctx, "")
}

func (u *updates) dunlin(ctx context.Context, args ...string) error {
	c := exec.CommandContext(ctx, u.path("dunlin"), args...)
	c.Env = append(os.Environ(), "DUNLIN_TOKEN_FILE="+u.path("fleet/admin.token"))
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("dunlin %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (u *updates) start(ctx context.Context, crash string) (err error) {
	u.agent, err = process.Start(u.path("agent.log"), "/usr/bin/env", "DUNLIN_CRASH="+crash, u.path("dunlin-agent"), "--config", u.path("agent.toml"))
	if err != nil {
		return err
	}
	for _, line := range []string{`msg=ready http=`, `fleet link is up`} {
		if _, err := u.agent.Line(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// push the component of a version, whose last bytes nothing reads.
func (u *updates) push(ctx context.Context, version int, wait bool) error {
	folder := u.path(fmt.Sprintf("app-%d", version))
	section := fmt.Appendf([]byte{0, 12, 5, 'p', 'r', 'o', 'o', 'f'}, "%06d", version)
	manifest := readings.Manifest("proof", fmt.Sprintf("1.0.%d", version))
	err := errors.Join(os.Mkdir(folder, 0o700), os.WriteFile(filepath.Join(folder, "ledger.wasm"), append(append([]byte{}, guests.Ledger...), section...), 0o600),
		os.WriteFile(filepath.Join(folder, "dunlin.toml"), []byte(manifest), 0o600))
	if err != nil {
		return err
	}
	return u.dunlin(ctx, "push", "-f", filepath.Join(folder, "dunlin.toml"), "--device", "hut", "--keys", u.path("keys"), "--to", u.url, fmt.Sprintf("--wait=%v", wait))
}

// killedAt point of the update to a version, the agent starts again, and its handlers answer.
func (u *updates) killedAt(ctx context.Context, point string, version int) error {
	u.agent.Kill()
	if err := u.start(ctx, point+":1"); err != nil {
		return err
	}
	if err := u.push(ctx, version, false); err != nil {
		return err
	}
	select {
	case <-u.agent.Ended():
	case <-time.After(time.Minute):
		return errors.New("the update did not come by")
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := u.start(ctx, ""); err != nil {
		return err
	}
	resp, err := http.Get("http://" + u.http + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("after the kill its handler answers %s", resp.Status)
	}
	return nil
}
