// Package restore makes the beginning of a cluster out of a file of etcd's: a bootstrap that is not empty.
//
// Every first member is given the same file and makes the files of its own replicas of it, at the position where groups begin; nothing travels. Where
// ranges are cut, who holds them and what leases there are is a function of the file, the members and what was asked for, so all members come to the same.
// The digest of all that is part of the cluster's id: members that begin with different content never speak to each other.
//
// It knows two sources: a directory that `etcdutl snapshot restore` has made, or a clean stop of etcd has left, and one that `client snapshot
// restore` has made (package manifest). It owns nothing behind a node's first start.
package restore
