package harness

import "syscall"

// childAttr puts a server into a process group of its own, so that a terminal's Ctrl-C reaches
// only the parent, and lets the kernel end it when the parent dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
