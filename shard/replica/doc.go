// Package replica makes a range a replicated state machine.
//
// It is the driver: it owns the store, the goroutines, the clock and one mutex. The mutex guards the pure cores
// that hold the protocol:
//
//   - eval: what a request means;
//   - apply: one entry of the log in, one mvcc.Change and the outcome out;
//   - lead: one term of leadership; events in, actions out.
//
// The actions of the cores go through one queue. They are executed in order and never under the mutex. Replica
// implements raftgroup.StateMachine and raftgroup.Observer. Any replica, not only the leader's, serves reads at
// an index that it has applied, the history, and the feed of events.
//
// Invariants:
//
//   - Apply depends on nothing but the log and the state that it made.
//   - What is read without the mutex is published in such an order that no reader sees an index without its
//     content.
//
// The package does not know gRPC, etcd's wire API, or where other replicas are.
package replica
