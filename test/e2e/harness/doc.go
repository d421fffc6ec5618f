// Package harness starts clusters of real server processes on loopback, hurts them, and runs
// genuine etcdctl against them. It drives bin/node and, to prove that a test is right, the etcd
// binary itself: the two take the same flags.
//
// It owns processes, ports and directories, and ends every process that it began: on Close, and
// by the kernel when the test program dies. It makes no assertion.
package harness
