package main

import (
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

	"dunlin.dev/dunlin/test/process"
)

var mappingHead = regexp.MustCompile(`^[0-9a-f]+-[0-9a-f]+ ([rwxps-]{4}) \S+ \S+ \S+ *(.*)$`)

// breakdown says what a process's PSS is made of, the largest first, from proc_pid_smaps(5).
func breakdown(p *process.Process) (string, error) {
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", p.PID()))
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
func watch(ctx context.Context, p *process.Process, d time.Duration) (process.Usage, error) {
	var pss, anonymous, file, private []int64
	for end := time.Now().Add(d); time.Now().Before(end); {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return process.Usage{}, context.Cause(ctx)
		}
		u, err := p.Memory()
		if err != nil {
			return process.Usage{}, err
		}
		pss, anonymous, file, private = append(pss, u.PSS), append(anonymous, u.Anonymous), append(file, u.File), append(private, u.Private)
	}
	return process.Usage{PSS: quantile(pss, 0.5), Anonymous: quantile(anonymous, 0.5), File: quantile(file, 0.5), Private: quantile(private, 0.5)}, nil
}
