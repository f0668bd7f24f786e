// Package process runs the real programs by themselves, for what shows or measures them.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is what a process gets to stop, before it is killed.
const patience = 15 * time.Second

// Process is a program that runs, with its output in a log file. It ends with the program that started it, however that ends.
type Process struct {
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended and its output is read

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced at each line
}

// Start a program; its standard output and error are appended to the file log.
func Start(log, program string, args ...string) (*Process, error) {
	p := &Process{log: log, done: make(chan struct{}), grown: make(chan struct{}), cmd: exec.Command(program, args...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		err = p.cmd.Start()
	}
	in.Close()
	if err != nil {
		out.Close()
		file.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go p.follow(out, file)
	return p, nil
}

func (p *Process) follow(out, file *os.File) {
	defer close(p.done)
	defer file.Close()
	defer out.Close()
	for r := bufio.NewReader(io.TeeReader(out, file)); ; {
		line, err := r.ReadString('\n')
		if err != nil && line == "" {
			break
		}
		p.mu.Lock()
		p.lines = append(p.lines, strings.TrimSuffix(line, "\n"))
		close(p.grown)
		p.grown = make(chan struct{})
		p.mu.Unlock()
	}
	_ = p.cmd.Wait() // how it ended is in its log
}

// String names the process by its program.
func (p *Process) String() string { return filepath.Base(p.cmd.Path) }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Lines are what it has written so far.
func (p *Process) Lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// Line waits for a line that matches, of all that it has written, and gives the groups of the first one. It is an error that
// the process ended without it.
func (p *Process) Line(ctx context.Context, pattern string) ([]string, error) {
	return p.LineAfter(ctx, 0, pattern)
}

// LineAfter is Line without the first lines.
func (p *Process) LineAfter(ctx context.Context, first int, pattern string) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for from := first; ; {
		ended := p.ended() // before the last look
		p.mu.Lock()
		lines, grown := p.lines[from:], p.grown
		from = len(p.lines)
		p.mu.Unlock()
		for _, l := range lines {
			if m := re.FindStringSubmatch(l); m != nil {
				return m, nil
			}
		}
		if ended {
			return nil, fmt.Errorf("%s ended before it said %q; see %s", p, pattern, p.log)
		}
		select {
		case <-grown:
		case <-p.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s did not say %q; see %s: %w", p, pattern, p.log, context.Cause(ctx))
		}
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Stop ends the process as a service manager would, and waits for its end; nil stops nothing.
func (p *Process) Stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Kill ends the process as a power cut would, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Usage of memory in bytes.
type Usage struct{ PSS, Anonymous, File, Private int64 }

// Memory reads what the process uses: proc_pid_smaps_rollup(5).
func (p *Process) Memory() (Usage, error) {
	b, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID()), "Pss", "Anonymous", "Pss_File", "Private_Clean", "Private_Dirty")
	if err != nil {
		return Usage{}, err
	}
	return Usage{b[0], b[1], b[2], b[3] + b[4]}, nil
}

// ForgetPeak makes Peak begin anew: proc_pid_clear_refs(5).
func (p *Process) ForgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID()), []byte("5"), 0)
}

// Peak is the most memory that the process ever had resident, or had since ForgetPeak, in bytes: proc_pid_status(5).
func (p *Process) Peak() (int64, error) {
	b, err := kilobytes(fmt.Sprintf("/proc/%d/status", p.PID()), "VmHWM")
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// Wakes counts how often the threads of the process pid have woken, those that have ended left out: proc_pid_status(5).
func Wakes(pid int) (int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, file := range files {
		status, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended just now
		}
		if err != nil {
			return 0, err
		}
		m := regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s+(\d+)$`).FindSubmatch(status)
		if m == nil {
			return 0, fmt.Errorf("read %s: it has no voluntary_ctxt_switches", file)
		}
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		sum += n // each ended a sleep
	}
	return sum, nil
}

// CPU is the time that the process pid has run for, in the kernel's ticks of 10 ms: utime and stime of proc_pid_stat(5).
func CPU(pid int) (time.Duration, error) {
	file := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	fields := strings.Fields(string(text[strings.LastIndex(string(text), ")")+1:])) // the name before may hold anything
	if len(fields) < 13 {
		return 0, fmt.Errorf("read %s: %d fields", file, len(fields))
	}
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum, nil
}

// kilobytes reads the values of lines "Name:   123 kB", in bytes.
func kilobytes(path string, names ...string) ([]int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := make([]int64, len(names))
	for i, name := range names {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB$`).FindSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("read %s: it has no %s", path, name)
		}
		if _, err := fmt.Sscan(string(m[1]), &values[i]); err != nil {
			return nil, fmt.Errorf("read %s: %s: %w", path, name, err)
		}
		values[i] <<= 10
	}
	return values, nil
}

// Written is the number of bytes that the process pid has given the kernel to write to a disk: write_bytes of proc_pid_io(5).
func Written(pid int) (int64, error) {
	file := fmt.Sprintf("/proc/%d/io", pid)
	facts, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^write_bytes: (\d+)$`).FindSubmatch(facts)
	if m == nil {
		return 0, fmt.Errorf("read %s: it has no write_bytes", file)
	}
	return strconv.ParseInt(string(m[1]), 10, 64)
}
