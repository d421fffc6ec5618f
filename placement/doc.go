// Package placement holds what the meta group decides, as pure state machines: no goroutine, no
// clock, no I/O, no randomness and no dependence on map order.
//
//   - State is the meta group's replicated state: members, ranges, the oracle's limit, leases,
//     the compaction revision, alarms. Same entries, same state, on every replica.
//   - Oracle is the counter that hands out revisions on the meta group's leader, under the limit
//     that State holds.
//   - Lessor times leases on the leader; State knows which leases there are.
//   - PlanBootstrap lays out a new cluster.
//
// It does not know how entries are replicated, who proposes them, or what a client may ask.
// Values of these types are not safe for concurrent use: their owner serialises the calls.
package placement
