// Package server builds a node of its parts, starts them in order and stops them in the
// reverse order. It is the only place that knows every part.
//
// It owns: the data directory and the node's identity in it, the set of local replicas, the
// dispatch of calls from other nodes, the closing of revisions, and the adapters by which the
// client API sees the router, the leases, the members and the hub.
//
// It decides nothing about consistency: those rules live in shard/replica, internal/meta and
// watchfanout.
package server
