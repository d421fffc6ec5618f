// Package processors tells how busy the processors are that a process may use.
//
// A container's limit of CPU time is what counts where there is one: a process that has used up its quota waits however
// idle the machine is, so its own limit, that of every group above it, and the machine are looked at, and the one that
// is shortest decides. The package reads Linux's files (proc(5), cgroups(7) in both versions) from a file system that it is
// given, on the caller's goroutine, and keeps nothing but the last counts.
package processors
