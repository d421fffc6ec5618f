// Package state is the meta group's replicated state: members, ranges and the ops that change them, the
// oracle's limit, leases, the compaction revision, alarms. The same entries make the same state on every replica: there is
// no goroutine, no clock, no I/O, no randomness and no dependence on map order.
//
// It does not know how entries are replicated, who proposes them, or what a client may ask. The
// owner serialises the calls.
package state
