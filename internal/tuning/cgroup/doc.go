// Package cgroup finds the control groups that limit what the process may have of processors or memory, in both versions (cgroups(7)): its own and those
// above, as far as they can be seen. What their files say is the caller's to read.
package cgroup
