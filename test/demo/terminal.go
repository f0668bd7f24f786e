package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// takeTerminal lets ctrl-c reach this process alone: make would take it for a failure of the demo. Without a terminal it does
// nothing. giveBack undoes it.
func takeTerminal() (giveBack func()) {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return func() {}
	}
	fd := int(tty.Fd())
	before, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || before != unix.Getpgrp() || unix.Setpgid(0, 0) != nil {
		tty.Close()
		return func() {}
	}
	signal.Ignore(syscall.SIGTTOU) // what a process outside the foreground gets for asking
	_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp())
	return func() {
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, before)
		tty.Close()
	}
}
