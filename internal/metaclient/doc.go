// Package metaclient asks the leader of the meta group, wherever that is: for revisions, leases, the
// range map and the cluster's settings. It is what nodes, front ends and routing clients use, and it
// knows nothing of Raft.
//
// Client is put together of parts, each with its own events and lock: caller brings a call to the leader,
// views keeps the range map and the members, oracle batches requests for revisions, leases calls the lessor.
//
// Invariants:
//   - An answer of the oracle below the highest epoch that this client has seen is discarded.
//   - What must not be done twice is not sent again after an outcome that is not known.
//   - Requests of many callers share a call. None is answered by a call that began before it came.
//   - No lock is held while a call is made or a callback is called. Config.Members alone is told under the lock
//     of the view, so that it hears of views in order.
package metaclient
