// Package etcdapi speaks etcd's v3 gRPC API on top of a key-value store that it knows only
// through the small interfaces of api.go.
//
// It owns: what a request must look like (etcd's checks, limits and error texts), the
// translation between etcd's messages and ours, the watch streams of clients, response
// headers, the interceptors, and the one table (errors.go) from our errors to etcd's.
//
// It does not own: revisions, ranges, leaders or replicas. It never asks who holds what.
//
// The caller builds an API with New, makes a grpc.Server with API.ServerOptions, calls
// API.Register on it, and calls API.Close before stopping that server, so that the
// endless streams of watchers and keep-alives end.
//
// Invariants: a watch response never names a revision in its header below which something
// is still to be delivered on that watch; a request that is refused here was never handed
// to the store.
package etcdapi
