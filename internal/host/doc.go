// Package host is what holds data on a node: the shared Raft log, the groups, the replica of the meta group
// and those of ranges, and what looks after them.
//
// It owns: the files of the data directory but the identity, the set of local replicas and their repair, the
// dispatch of calls from other nodes, the closing of revisions, the source of feeds, gossip, and the peer port.
//
// Open opens everything, and what it has opened is closed in the reverse order, by Close, or by Open when a
// later step fails. Between them Run drives it: nothing takes part in the cluster before that. No part is given
// to another later than at its birth; where two need one another, one of them is told of this Host, whose
// fields are all set when Run begins.
//
// It does not know how clients are served: a front does that, over Backend. It decides nothing about
// consistency: those rules live in shard/replica and internal/meta.
package host
