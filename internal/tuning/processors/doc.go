// Package processors tells how busy the machine's processors are, and how much of their time the process may use.
//
// A container's limit is what counts where there is one: a process that has used up its quota waits however idle the
// machine is. Every control group from the process's own upwards counts, in both versions. The package reads Linux's
// files (proc(5), cgroups(7)) from a file system that it is given, on the caller's goroutine, and keeps nothing but the last
// counts.
package processors
