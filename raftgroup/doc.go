// Package raftgroup hosts many Raft groups in one process. Entries are opaque bytes.
//
// It owns scheduling, quiescence, proofs of leadership, leases, log truncation and the passage
// of snapshots. It does not own the bytes of an entry, the network, or the disk: those are
// StateMachine, Sender and Log, declared here and implemented elsewhere.
//
// How a group runs. Every group has two places in the schedule: its steps (Raft itself) and its
// applies (the state machine). A place is never in two workers at once, so neither needs a lock
// of its own, and a slow apply delays nobody's steps. A third party, the log writer, takes the
// appends of all groups and makes them durable with one write.
//
// What is beside Raft in a group are parts with their own state, which the step worker tells of what happens:
// voteLease and campaign (who votes and who campaigns when), notices (of commits), quiescence, appends (to
// the log writer), snapshots, rebuild (of a replica that has lost its state), truncation and handover.
// What groups are held here, and how one begins, is beside them: replicas.go, birth.go, strangers.go.
// members is the configuration that Raft has: whatever walks the other replicas reads it there.
//
// The order that safety rests on is in one function, (*group).handleReady:
//
//  1. the term and role are published, so that proofs of leadership see them;
//  2. messages to other replicas leave (appends may leave before the own write is durable);
//  3. entries, term and vote go to the log writer; what depends on them (votes, acknowledgements)
//     leaves only after the write;
//  4. committed entries that are durable here go to the state machine.
//
// Invariants:
//
//   - proposals are never forwarded: what is proposed for a term is appended in it or dropped;
//   - the log is never truncated above what the state machine holds durably;
//   - a proof of leadership counts from its sending, and an answer counts only from a replica
//     that knows of no higher term;
//   - an idle group costs nothing per tick.
//
// The caller adds groups, calls Run (or Step in a simulation), hands in what arrives from other
// nodes, and closes the host before it closes the log.
package raftgroup
