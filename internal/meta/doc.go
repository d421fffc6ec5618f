// Package meta runs the meta group: the Raft group that holds the cluster's own state.
//
// Meta is the replica of one node. It is the group's state machine, and on the leader the
// revision oracle, the lease service and the driver of compactions, of ending leases and of ops: changes of
// the range map. It also begins ops by itself: it has ranges cut that have become too large. Who asks uses package metaclient.
//
// What is decided is decided in the packages below it, which are pure: state holds what the log
// says, oracle counts revisions, lease times leases. This package adds the lock (core), the snapshot
// file (machine), confirmation of the leadership (leaderReads), proposals, the calls, and what a leader does by
// itself: each is a type with its own events, which Meta puts together under the one lock.
//
// Invariants:
//   - Nothing is answered from a leader's memory unless the leadership was confirmed after the request
//     came: by a leader lease that is valid then, or by a quorum round begun since.
//   - The oracle is silent until a limit entry of its own term has applied.
//   - A lease is forgotten only after every range that may hold its keys has dropped them.
//   - A range is in one op at a time, and an op is over only when its outcome is in the map.
//   - No lock is held while the host or a callback is called.
//
// Caller's duties: add the group to the host with Meta as StateMachine and Observer, call Retire
// before a clean stop, and close the host before Close.
package meta
