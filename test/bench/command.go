package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"

	"dunlin.dev/dunlin/test/process"
)

var complaint = regexp.MustCompile(`level=(WARN|ERROR)`)

// complaints is an error when a process logged any: then the figures are of something else than what they say.
func complaints(p *process.Process) error {
	for _, l := range p.Lines() {
		if complaint.MatchString(l) {
			return fmt.Errorf("%s says: %s", p, l)
		}
	}
	return nil
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
