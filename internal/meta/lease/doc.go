// Package lease knows what a lease is, and times leases on the leader of the meta group, as pure
// values: no goroutine, no clock, no I/O, no randomness and no dependence on map order.
//
//   - Lease is what the log says of one.
//   - Lessor has the remaining time of each while this replica leads. A new leader gives every
//     lease its full TTL.
//
// It does not know which leases there are (package state does), who asks, or how the keys of a
// lease are deleted. Values are not safe for concurrent use: their owner serialises the calls.
package lease
