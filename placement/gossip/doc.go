// Package gossip tells who is alive, and what nodes say about themselves.
//
// It adapts memberlist: packets and streams of its protocol travel over the peers' gRPC
// connections, so there is no port of its own and the peer port's TLS covers them. Each node
// spreads its name and address, a summary of its load, and which ranges it leads.
//
// All of it is hints, right most of the time and eventually: nothing may depend on them for
// safety. What must be agreed is in the meta group.
//
// Invariants: memberlist's callbacks only copy into bounded places, because they run under its
// lock; OnChange runs on one goroutine, in order; what arrives is bounded before it is kept.
package gossip
