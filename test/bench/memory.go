package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

var mappingHead = regexp.MustCompile(`^[0-9a-f]+-[0-9a-f]+ ([rwxps-]{4}) \S+ \S+ \S+ *(.*)$`)

// breakdown says what a process's PSS is made of, the largest first, from proc_pid_smaps(5).
func (p *process) breakdown() (string, error) {
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", p.cmd.Process.Pid))
	if err != nil {
		return "", err
	}
	sums, what := map[string]int64{}, ""
	for line := range strings.Lines(string(smaps)) {
		if m := mappingHead.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			what = mapping(m[1], m[2])
			continue
		}
		var kb int64
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kb); n == 1 {
			sums[what] += kb << 10
		}
	}
	names := slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Compare(sums[b], sums[a]) })
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, float64(sums[name])/1e6))
	}
	return strings.Join(parts, ", ") + " MB", nil
}

// mapping names one by its permissions and its file.
func mapping(perm, file string) string {
	switch base := filepath.Base(file); {
	case file == "" || file[0] == '[':
		return "heaps, pool and stacks"
	case base == "dunlin-agent" && perm[2] == 'x':
		return "program code"
	case base == "dunlin-agent":
		return "program data"
	case base == "store.db":
		return "store"
	case strings.HasPrefix(base, "sha256-"):
		return "compiled handlers"
	case strings.HasPrefix(file, "/memfd:"):
		return "handlers' first memory"
	}
	return "libraries"
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
