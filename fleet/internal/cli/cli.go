// Package cli is the dunlin command: a table of commands, one file each.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"dunlin.dev/dunlin/fleet/internal/client"
	"dunlin.dev/dunlin/fleet/manifest"
	"dunlin.dev/dunlin/fleet/wire"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitError       = 1   // it didn't work
	ExitUsage       = 2   // the command line is wrong
	ExitRefused     = 3   // push: done, but a device failed or refused it
	ExitTimeout     = 4   // push: done, but devices were still at it when the time was over
	ExitInterrupted = 130 // ctrl-c
)

// Env is where a command runs.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool // Stderr is one: progress may redraw its line
	Getenv         func(string) string
	Now            func() time.Time
	Version        string
	// Check looks into components before a push, at what their manifest can't say; nil for no check. components are bytes,
	// files are where they came from, both by name.
	Check func(ctx context.Context, release wire.Release, components map[string][]byte, files map[string]string) error
}

// Command is one entry of the command table.
type Command struct {
	Name  string // one word, or two: "keys init"
	Short string // for the list, one line
	Help  string // for -h: usage line, what it does, flags, example
	Run   func(ctx context.Context, env *Env, args []string) error
}

// Commands of a fleet: the table to which others are added.
func Commands() []Command {
	return []Command{newProject, keysInit, push, remove, devicesCommand, status, dataCommand}
}

// hinted is an error with the way out of it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Hint adds the way out to an error; it is printed on a line of its own.
func Hint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// exit is an error with an exit code of its own. Without text, everything was said already.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

// Usage is an error about the command line.
func Usage(format string, args ...any) error { return &exit{ExitUsage, fmt.Sprintf(format, args...)} }

// Main runs the command that args name, and gives the process's exit code.
func Main(ctx context.Context, env *Env, commands []Command, args []string) int {
	err := dispatch(ctx, env, commands, args)
	if ctx.Err() != nil && err != nil {
		fmt.Fprintln(env.Stderr, "dunlin: interrupted: nothing is half done, run it again to go on")
		return ExitInterrupted
	}
	return report(env, err)
}

func report(env *Env, err error) int {
	var e *exit
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return ExitOK
	case errors.As(err, &e) && e.text == "":
		return e.code
	}
	// A manifest's faults have their own places: one line each, as editors read them.
	var faults manifest.Errors
	if errors.As(err, &faults) {
		for _, f := range faults {
			fmt.Fprintln(env.Stderr, "dunlin: error:", f)
		}
	} else {
		fmt.Fprintln(env.Stderr, "dunlin: error:", err)
	}
	var h *hinted
	var answer *client.Error
	switch {
	case errors.As(err, &h):
		fmt.Fprintln(env.Stderr, "dunlin: hint:", h.hint)
	case errors.As(err, &answer) && answer.Hint != "":
		fmt.Fprintln(env.Stderr, "dunlin: hint:", answer.Hint)
	}
	if e != nil {
		return e.code
	}
	return ExitError
}

func dispatch(ctx context.Context, env *Env, commands []Command, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(env.Stderr, overview(commands))
		return &exit{code: ExitUsage}
	}
	switch args[0] {
	case "--version", "-version", "version":
		_, err := fmt.Fprintln(env.Stdout, "dunlin", env.Version)
		return err
	case "-h", "--help", "-help", "help":
		if len(args) == 1 {
			_, err := fmt.Fprint(env.Stdout, overview(commands))
			return err
		}
		args = append(args[1:], "-h")
	}
	for _, c := range commands {
		words := strings.Fields(c.Name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.Name {
			for _, a := range args[len(words):] {
				if isHelp(a) {
					_, err := fmt.Fprint(env.Stdout, c.Help)
					return err
				}
			}
			return c.Run(ctx, env, args[len(words):])
		}
	}
	if group := under(commands, args[0]); len(group) > 0 {
		if len(args) == 2 && isHelp(args[1]) {
			_, err := fmt.Fprint(env.Stdout, "Commands:\n"+table(group))
			return err
		}
		return Hint(Usage("dunlin %s needs one more word", args[0]), "dunlin %s -h lists them", args[0])
	}
	return Hint(Usage("no command %q", args[0]), "dunlin -h lists the commands")
}

func isHelp(arg string) bool { return arg == "-h" || arg == "--help" || arg == "-help" }

// under are the commands of two words that begin with word.
func under(commands []Command, word string) (group []Command) {
	for _, c := range commands {
		if strings.HasPrefix(c.Name, word+" ") {
			group = append(group, c)
		}
	}
	return group
}

// table of commands, one line each.
func table(commands []Command) string {
	var b strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-12s %s\n", c.Name, c.Short)
	}
	return b.String()
}

func overview(commands []Command) string {
	var b strings.Builder
	b.WriteString("dunlin runs WebAssembly components as event handlers, and brings them to a fleet of boards.\n\nUsage:\n  dunlin COMMAND [flags]\n\nCommands:\n")
	b.WriteString(table(commands))
	b.WriteString("\ndunlin COMMAND -h tells more, with an example.\n\nExit codes: 0 done, 1 error, 2 wrong command line, 3 pushed but a device failed or refused it, 4 pushed but\ndevices were still at it when the time was over, 130 interrupted.\n")
	return b.String()
}

// parse reads flags before and after the other arguments, which it returns.
func parse(f *flag.FlagSet, args []string) (rest []string, err error) {
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	for {
		if err := f.Parse(args); err != nil {
			return nil, Hint(Usage("%v", err), "dunlin %s -h tells its flags", f.Name())
		}
		if f.NArg() == 0 {
			return rest, nil
		}
		rest = append(rest, f.Arg(0))
		args = f.Args()[1:]
	}
}

// server is the flags of every command that speaks to a fleet server.
type server struct {
	to, tokenFile, keys string
}

func (s *server) flags(f *flag.FlagSet) {
	f.StringVar(&s.to, "to", "", "")
	f.StringVar(&s.tokenFile, "token-file", "", "")
	f.StringVar(&s.keys, "keys", "keys", "")
}

const serverHelp = `  --to URL             the fleet server (default: DUNLIN_FLEET, else the one that keys init wrote down)
  --token-file FILE    its admin token (default: DUNLIN_TOKEN_FILE, else the token itself in DUNLIN_TOKEN)
`

// connect to the server that the flags, the environment or the keys folder name.
func (s *server) connect(env *Env) (*client.Client, error) {
	if s.to == "" {
		s.to = env.Getenv("DUNLIN_FLEET")
	}
	if s.to == "" {
		memory, err := readMemory(s.keys)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		s.to = memory.URL
	}
	if s.to == "" {
		return nil, Hint(Usage("which fleet server?"), "say --to URL, or set DUNLIN_FLEET")
	}
	token, err := s.token(env)
	if err != nil {
		return nil, err
	}
	c, err := client.New(s.to, token)
	if err != nil {
		return nil, err
	}
	if c.Plain() {
		fmt.Fprintln(env.Stderr, "dunlin: warning: the admin token goes to", s.to, "in the clear; use https on a network")
	}
	return c, nil
}

func (s *server) token(env *Env) (string, error) {
	file := s.tokenFile
	if file == "" {
		file = env.Getenv("DUNLIN_TOKEN_FILE")
	}
	if file == "" {
		if t := env.Getenv("DUNLIN_TOKEN"); t != "" {
			return t, nil
		}
		return "", Hint(Usage("no admin token"), "say --token-file FILE, or set DUNLIN_TOKEN; the server made it as admin.token in its data folder")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" {
		return "", fmt.Errorf("read admin token: %s is empty", file)
	}
	return t, nil
}
