package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// usage is a process's memory in bytes: proc_pid_smaps_rollup(5).
type usage struct{ pss, anonymous, file int64 }

// memory reads it.
func (p *process) memory() (usage, error) {
	kb, err := fields(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid), "Pss", "Anonymous", "Pss_File")
	if err != nil {
		return usage{}, err
	}
	return usage{kb[0] << 10, kb[1] << 10, kb[2] << 10}, nil
}

// peak is the most memory that the process ever had resident, in bytes.
func (p *process) peak() (int64, error) {
	kb, err := fields(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmHWM")
	if err != nil {
		return 0, err
	}
	return kb[0] << 10, nil
}

// fields reads "Name:   123 kB" lines.
func fields(path string, names ...string) ([]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, values := 0, make([]int64, len(names))
	s := bufio.NewScanner(f)
	for s.Scan() {
		for i, name := range names {
			if rest, ok := strings.CutPrefix(s.Text(), name+":"); ok {
				if _, err := fmt.Sscanf(rest, "%d kB", &values[i]); err != nil {
					return nil, fmt.Errorf("read %s: %q: %w", path, s.Text(), err)
				}
				found++
			}
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if found != len(names) {
		return nil, fmt.Errorf("read %s: it has not all of %v", path, names)
	}
	return values, nil
}

// watch samples a process's memory once a second and gives the medians.
func (p *process) watch(ctx context.Context, d time.Duration) (usage, error) {
	var pss, anonymous, file []int64
	for end := time.Now().Add(d); time.Now().Before(end); {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return usage{}, context.Cause(ctx)
		}
		u, err := p.memory()
		if err != nil {
			return usage{}, err
		}
		pss, anonymous, file = append(pss, u.pss), append(anonymous, u.anonymous), append(file, u.file)
	}
	return usage{quantile(pss, 0.5), quantile(anonymous, 0.5), quantile(file, 0.5)}, nil
}
