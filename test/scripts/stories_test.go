// Package scripts tells stories: each .txtar file here is a session with the real programs, as real processes, over real
// sockets on loopback, with real kills. It starts with a comment that names what it guarantees.
//
// A story is a testscript (exec, stdout, stderr, cmp, grep, cp, env, ... and the files after the first "-- name --"), with
// dunlin, dunlin-agent and dunlin-fleet in its PATH, and these commands besides:
//
//	start NAME PROGRAM [ARG...]      start a process in the background; its output is kept, also in $WORK/NAME.log
//	log NAME REGEXP                  wait until a line that NAME wrote since its last start matches
//	! log NAME REGEXP                no line so far matches
//	count NAME REGEXP N              exactly N lines match, over all of NAME's starts
//	crash NAME                       kill -KILL, and wait until it is gone
//	end NAME                         kill -TERM, and wait until it is gone; its exit code must be 0
//	asleep NAME SECONDS              wait until no thread of the process has woken for that long on end
//	exited NAME                      wait until it has ended by itself; its exit code must be 0 (! exited: not 0)
//	signal SIGNAL NAME               send another signal (HUP, STOP, CONT, USR1, ...)
//	http [-H 'K: V'] [-d BODY] STATUS METHOD URL
//	                                 one request; stdout is the body, stderr the status line and headers
//	await REGEXP http|exec ARG...    repeat the command until it succeeds and its standard output matches
//	mqttpub [-q QOS] [-r] [-n N] ADDR TOPIC PAYLOAD
//	                                 publish, N times if told so ({i} in the payload is 1 to N), and wait for the acknowledgements
//	mqttsub NAME ADDR FILTER         subscribe at QoS 1; each message is a line "TOPIC PAYLOAD" for log and count
//	expand FILE                      replace each ${VAR} in the file by its value
//	relay NAME LISTEN TARGET [BYTES] pass connections on; fall silent when BYTES came back. relay -stop NAME closes it
//	capture VAR REGEXP               set $VAR from the first group of REGEXP in the last standard output
//	tamper FILE OFFSET               flip one bit of a file; a negative offset counts from its end
//	seedjs WHAT                      write seed.wasm and seed-changed.wasm, the components of the JS handlers in test/guests;
//	                                 where they can't be built, skip the story with one line, as needs does
//	needs TOOL WHAT                  skip the story, with one line that names the package, where TOOL is not installed
//
// Every story has free ports of its own: $HTTP_ADDR and $MQTT_ADDR (an agent's), $FLEET_ADDR and $FLEET_MQTT_ADDR (a fleet
// server's), $BROKER_ADDR (an outside broker's), as 127.0.0.1:port, and each ..._PORT alone. $HOME is an empty folder, $ROOT the top of
// the tree ($ROOT/test/guests holds components).
//
// What waits, waits for the event. Patience ends far above what any machine needs, and before the whole test run's does.
// Whatever a story started is killed at its end, by process group.
//
// Environment of the runner:
//
//	DUNLIN_BIN_DIR     the folder of the programs; without it they are built first
//	DUNLIN_AGENT       the command that runs dunlin-agent, in place of the one in the folder
//	DUNLIN_SEED_JS, DUNLIN_SEED_JS_CHANGED
//	                   the components of seedjs; without them they are built first, once
package scripts

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dunlin.dev/dunlin/test/need"
	"github.com/rogpeppe/go-internal/testscript"
)

// onArm64 lists the stories that the arm64 agent passes too, under user-mode emulation, with pages as the kernels of the
// Raspberry Pis have them: 4 KiB, and 16 KiB on the Pi 5.
var onArm64 = []string{"version.txtar", "end-to-end.txtar"}

func TestStories(t *testing.T) {
	dir, err := need.Programs()
	if err != nil {
		t.Fatal(err)
	}
	tell(t, dir, os.Getenv("DUNLIN_AGENT"), nil)
}

func TestStoriesWithTheAgentOnArm64(t *testing.T) {
	const untested = "the arm64 agent, under emulation"
	if testing.Short() {
		t.Skip("emulation is slow")
	}
	qemu := need.Tool(t, "qemu-aarch64-static", untested)
	need.CrossCompiler(t, "arm64", untested)
	dir, err := need.Programs()
	if err != nil {
		t.Fatal(err)
	}
	if err := need.Make("cross-arm64"); err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(need.Root(), "bin", "linux-arm64", "dunlin-agent")
	for _, page := range []int{4096, 16384} {
		t.Run(fmt.Sprintf("pages of %d bytes", page), func(t *testing.T) {
			t.Parallel()
			tell(t, dir, fmt.Sprintf("%s -p %d -L /usr/aarch64-linux-gnu %s", qemu, page, agent), onArm64)
		})
	}
}

// tell runs the stories in files (nil: all) with the programs in dir; agent, if set, is the command for dunlin-agent.
func tell(t *testing.T, dir, agent string, files []string) {
	p := params(t, dir, agent)
	p.Files = files
	if files == nil {
		p.Dir = "."
	}
	testscript.Run(t, p)
}

// params of stories that run the programs in dir.
func params(t *testing.T, dir, agent string) testscript.Params {
	path, err := pathFolder(t, dir, agent)
	if err != nil {
		t.Fatal(err)
	}
	deadline, ok := t.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Hour)
	}
	wait := patience
	if agent != "" {
		wait = patienceEmulated
	}
	return testscript.Params{
		RequireUniqueNames: true,
		Setup:              func(env *testscript.Env) error { return setup(env, path, wait, deadline) },
		Cmds:               maps.Clone(commands),
	}
}

var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"start":   start,
	"log":     awaitLog,
	"count":   count,
	"crash":   crash,
	"end":     end,
	"asleep":  asleep,
	"exited":  exited,
	"signal":  signal,
	"http":    request,
	"await":   await,
	"mqttpub": mqttPublish,
	"mqttsub": mqttSubscribe,
	"relay":   relay,
	"expand":  expand,
	"capture": capture,
	"tamper":  tamper,
	"seedjs":  seedJS,
	"needs":   needs,
}

// How long a wait may take before the story fails. It decides how soon a failure is told, not what passes.
const (
	patience         = 2 * time.Minute
	patienceEmulated = 10 * time.Minute
)

// story is what the commands of one running story share.
type story struct {
	t        testscript.T
	folder   string // of its file
	patience time.Duration
	deadline time.Time // a little before the test run's, so that the story's logs are printed
	env      *testscript.Env
	sources  map[string]*source // by name: processes and subscriptions
}

type storyKey struct{}

func of(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

func setup(env *testscript.Env, path string, wait time.Duration, deadline time.Time) error {
	s := &story{t: env.T(), env: env, patience: wait, sources: map[string]*source{}}
	s.deadline = deadline.Add(-time.Until(deadline) / 10)
	env.Values[storyKey{}] = s
	env.Defer(s.finish)

	home := filepath.Join(env.WorkDir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("ROOT", need.Root())
	env.Setenv("GOTRACEBACK", "all") // a panic's runtime goroutines tell nothing
	env.Setenv("PATH", path+string(os.PathListSeparator)+env.Getenv("PATH"))
	for _, name := range []string{"HTTP", "MQTT", "FLEET", "FLEET_MQTT", "BROKER"} {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv(name+"_PORT", fmt.Sprint(port))
		env.Setenv(name+"_ADDR", fmt.Sprintf("127.0.0.1:%d", port))
	}
	return nil
}

// remaining is how long a wait that begins now may take.
func (s *story) remaining() time.Duration { return min(s.patience, time.Until(s.deadline)) }

// finish kills what still runs, and shows what it said if the story failed.
func (s *story) finish() {
	names := make([]string, 0, len(s.sources))
	for name, src := range s.sources {
		src.stop()
		names = append(names, name)
	}
	if failed, ok := s.t.(interface{ Failed() bool }); !ok || !failed.Failed() {
		return
	}
	slices.Sort(names)
	for _, name := range names {
		s.t.Log(fmt.Sprintf("the end of %s.log:\n%s", name, s.sources[name].out.tail(40)))
	}
}

// pathFolder makes the folder that stories have in their PATH: the programs, with the agent run as told.
func pathFolder(t *testing.T, dir, agent string) (string, error) {
	path := t.TempDir()
	for _, name := range []string{"dunlin", "dunlin-agent", "dunlin-fleet"} {
		link := filepath.Join(path, name)
		if name == "dunlin-agent" && agent != "" {
			// exec keeps the process id, so a kill hits the agent and not a shell.
			if err := os.WriteFile(link, []byte("#!/bin/sh\nexec "+agent+" \"$@\"\n"), 0o755); err != nil {
				return "", err
			}
			continue
		}
		program := filepath.Join(dir, name)
		if _, err := os.Stat(program); err != nil {
			return "", fmt.Errorf("find program: %w", err)
		}
		if err := os.Symlink(program, link); err != nil {
			return "", err
		}
	}
	return path, nil
}
