// Package front is what serves clients on a node: the router, the watch hub, etcd's API, HTTP, the door for
// routing clients, and the ports.
//
// It owns: the ports that clients know, the feeds of ranges that are not held in this process, and the
// adapters by which the API sees the router, the leases, the members and the hub.
//
// It serves over a backend.Backend and holds no data: whether that is a host in the same process or nodes
// elsewhere shows nowhere here.
//
// Open makes everything, Run serves: metrics at once, clients when Config.Await says that there is something to
// serve. When its context ends, calls under way get a moment. Close ends what is left.
package front
