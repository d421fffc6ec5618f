// Package httpapi is the HTTP side of a node: version, health, metrics, profiles and the list of
// ranges, the split of one port between HTTP and gRPC, and listeners that no failure to accept ends.
//
// It owns paths and formats, which are etcd's where etcd has them. It does not know what makes a
// node healthy or where ranges live: the caller hands in Health and Ranges. It starts a goroutine
// for each connection only while the connection's protocol is unknown.
package httpapi
