package main

import (
	"bufio"
	"fmt"
	"os"
)

// pss is a process's proportional share of memory: proc_pid_smaps_rollup(5).
func pss(pid int) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return "not known"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int
		if n, _ := fmt.Sscanf(s.Text(), "Pss: %d kB", &kb); n == 1 {
			return fmt.Sprintf("%.1f MB", float64(kb)/1000)
		}
	}
	return "not known"
}
