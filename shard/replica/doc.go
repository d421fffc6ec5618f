// Package replica makes a range a replicated state machine: the leader's in-flight table, the
// evaluation of requests, the fence behind linearizable reads, the deterministic apply of the
// range's log to its store, lease halves, and the feed of events.
//
// The protocol lives in pure cores that have no goroutine, clock, lock or I/O of their own:
//
//   - machine (apply.go): one log entry in, one mvcc.Change and the outcome out;
//   - leader (leader.go, table.go, predict.go, fence.go, halves.go): one term of leadership;
//     events in, actions out.
//
// Replica is the driver around them. It owns one mutex, which guards the cores, and one queue of
// actions, which are carried out in order and never under the mutex. It implements
// raftgroup.StateMachine and raftgroup.Observer.
//
// Invariants:
//
//   - A revision belongs to the leader term that asked for it; a leader core dies with its term.
//   - Batches are proposed in the order of their revisions.
//   - A request leaves the table only by being applied, or by certainly never being proposed.
//   - Apply depends on nothing but the log and the state that it made.
//
// The package does not know gRPC, etcd's wire API, or where other replicas are.
package replica
