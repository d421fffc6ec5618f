// Package machine tells what a benchmark ran on and what processes used of it: CPU time, memory and
// bytes written, from /proc. Elsewhere than on Linux it knows little and says so by errors.
//
// It owns reading and adding up; whose processes these are is the caller's business.
package machine
