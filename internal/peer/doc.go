// Package peer is what the services between nodes have in common: who a peer is, how it
// is dialled, how messages are encoded, and the one gRPC service on the peer port. The service
// for routing clients, on the client port, is here, too: it shares all of this but the trust.
//
// It owns connections and identities. It knows nothing of what travels: Raft frames belong
// to raftgroup/transport, calls and feeds to internal/peerrpc, gossip to placement/gossip.
// These implement the small interfaces that Server declares; Server checks who is calling
// and hands them the stream together with the caller's node id.
//
// Invariants: a stream reaches a service only after cluster, format and addressee were found
// to be right; what comes in on the client port is never taken for a node's; a service never blocks a sender for longer than flow control does; whoever
// starts a goroutine waits for it in Close.
package peer
