package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rogpeppe/go-internal/testscript"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/internal/cli"
	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"dunlin": func() {
			env := &cli.Env{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now, Version: "test"}
			if refuse := os.Getenv("CHECK_REFUSES"); refuse != "" {
				env.Check = func(context.Context, wire.Release, map[string][]byte, map[string]string) error {
					return errors.New(refuse)
				}
			}
			os.Exit(cli.Main(context.Background(), env, cli.Commands(), os.Args[1:]))
		},
	})
}

// The stories run the real command against a real server, with boards that speak real MQTT:
//
//	server            start a fleet server with its data in $WORK/fleet; sets DUNLIN_FLEET and DUNLIN_TOKEN_FILE
//	board NAME HOW [KEY=VALUE...]
//	                  connect a board that runs, fails or refuses what it should run, or is silent about it
//	targets FILE      write down the server's targets
//	code N COMMAND    run a command that must exit with that code
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Values["story"] = &story{}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"server": server, "board": board, "code": code, "targets": targets,
		},
	})
}

type story struct{ mqtt, token string }

func server(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs("fleet")
	s, err := fleet.New(fleet.Config{Data: dir, HTTP: "127.0.0.1:0", MQTT: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- s.Run(ctx, time.Second, func() { close(ready) }) }()
	<-ready
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
	ts.Setenv("DUNLIN_FLEET", "http://"+s.HTTP())
	ts.Setenv("DUNLIN_TOKEN_FILE", filepath.Join(dir, fleet.AdminTokenFile))
	story := ts.Value("story").(*story)
	story.mqtt = s.MQTT()
	story.token = strings.TrimSpace(ts.ReadFile(filepath.Join(dir, fleet.JoinTokenFile)))
}

func targets(ts *testscript.TestScript, _ bool, args []string) {
	c, err := client.New(ts.Getenv("DUNLIN_FLEET"), strings.TrimSpace(ts.ReadFile(ts.Getenv("DUNLIN_TOKEN_FILE"))))
	ts.Check(err)
	b, err := c.Metadata(context.Background(), "targets")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func board(ts *testscript.TestScript, _ bool, args []string) {
	story := ts.Value("story").(*story)
	name, how := args[0], args[1]
	labels := map[string]string{}
	for _, l := range args[2:] {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	topic := func(c wire.Channel) string {
		return wire.Topic{Fleet: "greenhouses", Device: name, Channel: c}.Format()
	}
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + story.mqtt).SetClientID("greenhouses." + name).SetUsername(name).
		SetPassword(story.token).SetProtocolVersion(4).SetAutoReconnect(false).SetOrderMatters(false))
	must := func(t mqtt.Token) {
		if !t.WaitTimeout(30 * time.Second) {
			ts.Fatalf("the broker didn't answer")
		}
		ts.Check(t.Error())
	}
	must(c.Connect())
	ts.Defer(func() { c.Disconnect(0) })
	desired := make(chan wire.Desired, 16)
	must(c.Subscribe(topic(wire.ChannelDesired), 1, func(_ mqtt.Client, m mqtt.Message) {
		var e struct{ Payload []byte }
		if err := json.Unmarshal(m.Payload(), &e); err != nil {
			panic(err)
		}
		d, err := wire.UnmarshalDesired(e.Payload)
		if err != nil {
			panic(err)
		}
		desired <- d
	}))
	hello, err := wire.MarshalHello(wire.Hello{Version: wire.Version, Session: "s1", Agent: "0.1.0", Arch: "arm64", Boot: "b", Labels: labels})
	ts.Check(err)
	must(c.Publish(topic(wire.ChannelHello), 1, false, hello))
	ts.Defer(func() { close(desired) })
	go func() {
		sequence := uint64(0)
		for d := range desired {
			for _, r := range reports(d, how) {
				sequence++
				r.Session, r.Sequence, r.At, r.Clock = "s1", sequence, time.Now().UTC().Truncate(time.Second), wire.ClockSynced
				b, err := wire.MarshalReported(r)
				if err != nil {
					panic(err)
				}
				c.Publish(topic(wire.ChannelReported), 1, false, b).Wait()
			}
		}
	}()
}

// reports are what a board says about what it should run.
func reports(d wire.Desired, how string) (list []wire.Reported) {
	say := func(phase wire.Phase, text string) {
		r := wire.Reported{Generation: d.Generation}
		for _, p := range d.Releases {
			r.Apps = append(r.Apps, wire.AppReport{Application: p.Application, Version: p.Version, Release: p.Release, Phase: phase, Error: text})
		}
		list = append(list, r)
	}
	switch how {
	case "runs":
		say(wire.PhaseFetching, "")
		say(wire.PhaseStarting, "")
		say(wire.PhaseRunning, "")
	case "fails":
		say(wire.PhaseFailed, "start climate: it imports wasi:sockets,\nwhich nothing grants")
	case "refuses":
		list = append(list, wire.Reported{Refused: &wire.Refusal{Generation: d.Generation, Reason: "targets have expired"}})
	}
	return list
}
