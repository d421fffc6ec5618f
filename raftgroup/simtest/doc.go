// Package simtest runs hosts of package raftgroup in one goroutine, under a virtual clock, over
// a network and on disks that lose what they are told to lose. It holds no assertions: tests
// drive a Cluster and look at its machines.
//
// Everything is deterministic once the process's randomness is (testing/cryptotest): nothing
// runs except inside a call.
package simtest
