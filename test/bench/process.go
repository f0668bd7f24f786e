package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// process is one of the real programs, running by itself, with its output in a log file.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced at each line
}

func start(log, program string, args ...string) (*process, error) {
	p := &process{name: log, done: make(chan struct{}), grown: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		err = p.cmd.Start()
	}
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), out.Close(), file.Close())
	}
	go func() {
		defer close(p.done)
		defer out.Close()
		defer file.Close()
		for s := bufio.NewScanner(io.TeeReader(out, file)); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			close(p.grown)
			p.grown = make(chan struct{})
			p.mu.Unlock()
		}
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	return p, nil
}

// line waits for a line that matches, and gives its groups.
func (p *process) line(ctx context.Context, pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	for from := 0; ; {
		p.mu.Lock()
		lines, grown := p.lines[from:], p.grown
		from = len(p.lines)
		p.mu.Unlock()
		for _, l := range lines {
			if m := re.FindStringSubmatch(l); m != nil {
				return m, nil
			}
		}
		select {
		case <-grown:
		case <-p.done:
			return nil, fmt.Errorf("%s ended before it said %q", p.name, pattern)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s did not say %q: %w", p.name, pattern, context.Cause(ctx))
		}
	}
}

var complaint = regexp.MustCompile(`level=(WARN|ERROR)`)

// complaints is an error when the process logged any: then the figures are of something else than what they say.
func (p *process) complaints() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if complaint.MatchString(l) {
			return fmt.Errorf("%s says: %s", p.name, l)
		}
	}
	return nil
}

// stop ends the process as systemd would.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// command runs a program to its end and gives its standard output.
func command(ctx context.Context, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s %s: %w\n%s%s", program, args[0], err, &stdout, &stderr)
	}
	return stdout.String(), nil
}
