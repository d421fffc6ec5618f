// Package etcdshim hands out the routing client as etcd's own Go client: a *clientv3.Client
// whose key-value requests go straight to the leaders of the ranges. An existing program changes
// one line, clientv3.New to etcdshim.New, and keeps everything else.
//
//	cli, err := etcdshim.New(clientv3.Config{Endpoints: []string{"10.0.0.1:2379"}})
//
// Get, Put, Delete, Txn and Compact are routed in this process: one hop instead of two, and what
// is on the way to one node at the same time shares a stream. Watches, leases, members,
// maintenance and serializable reads go over the ordinary connection to the endpoints, because
// there they cost no hop more, or are about the contacted node.
//
// It owns: finding the cluster through the endpoints, the connections to the nodes' client
// ports, and the choice between the two ways. It does not own: routing (shard/router), asking the
// meta group (internal/meta), etcd's checks and errors (internal/etcdapi). It stands below
// shard/router because that is what it hands out and where a user looks for it, but above those
// three in the order of imports.
//
// Invariants: a request is sent again over the ordinary connection only if it certainly was not
// applied, or only reads. Nothing that the nodes refuse to a client is ever needed: they believe
// neither revisions nor epochs that a client states.
//
// Close the client to release everything; no goroutine outlives that.
package etcdshim
