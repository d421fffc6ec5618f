// Package recipes offers etcd's Lock and Election services, for clients that do not bring these recipes themselves.
//
// It owns: whose request a call of a recipe is. The services are etcd's own, from packages of its server that stand on clientv3 alone; they
// ask for keys, leases and watches over a connection that they are given, with what the caller has said of itself: its token, and
// whether it wants a leader. So a lock is refused to whoever may not write its key.
//
// What a recipe waits for ends with its caller.
package recipes
