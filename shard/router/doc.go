// Package router is the routing client: it turns a request of etcd's shape into calls on
// the ranges that hold the keys, and their answers into one.
//
// It owns: key to range to leader, retries of what certainly was not applied, the two steps
// of a linearizable read (the oracle's current revision, then a fence on every range), paging,
// sorting and counting over ranges, and serializable reads from local replicas.
//
// It does not own: how a range is replicated or stored, the etcd wire API, connections. It
// must not import Raft, bbolt or gRPC, so that a Go program can link it.
//
// Callers own the requests that they pass, and must not change them before the call returns.
// Results are the caller's, but their byte slices may be shared with caches: read only.
//
// Inside, caller brings a call to the leader of a range, reader chooses the revision of a read, a snapshot
// gathers what the parts of it have, and a partRead reads the pages of one range.
//
// The same Router serves a node's gateway and Go programs that link it.
package router
