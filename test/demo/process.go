package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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

func start(dir, name, program string, args ...string) (*process, error) {
	p := &process{name: name, done: make(chan struct{}), grown: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer log.Close()
		for s := bufio.NewScanner(out); s.Scan(); {
			fmt.Fprintln(log, s.Text())
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			close(p.grown)
			p.grown = make(chan struct{})
			p.mu.Unlock()
		}
	}()
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		_ = w.Close()
		close(p.done)
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
			return nil, fmt.Errorf("%s ended before it said %q; see %s.log", p.name, pattern, p.name)
		case <-ctx.Done():
			return nil, fmt.Errorf("%s did not say %q: %w", p.name, pattern, context.Cause(ctx))
		}
	}
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
