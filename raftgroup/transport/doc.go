// Package transport carries Raft frames and snapshots between nodes.
//
// It owns one long-lived stream of frames per pair of nodes with a bounded queue in front of
// it, and one short stream per snapshot on a connection of its own. It implements
// raftgroup.Sender; what it receives goes to a Handler, which is raftgroup.Host.
//
// It does not know what a frame means, and it promises nothing that Raft does not need:
// frames may be dropped (the handler is told that the peer is unreachable), they arrive at
// most once and, while a stream lasts, in order.
//
// Invariants: Send never blocks and calls nothing back on the caller's goroutine; a snapshot's
// data is handed out only after its checksum was verified, and its result is reported exactly
// once.
package transport
