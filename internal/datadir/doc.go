// Package datadir guards a node's data directory: who may use it, whose it is, and which format
// it has.
//
// It owns the lock file and the identity file at the top of the directory; everything below
// belongs to others. A directory is opened by one process at a time, for as long as that process
// lives, and refused when it belongs to another cluster, has another format or is damaged.
package datadir
