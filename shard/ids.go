package shard

import (
	"fmt"
	"slices"
)

// RangeID names a range and the Raft group that replicates it. Never reused.
type RangeID uint64

// MetaID is the group that holds the cluster's own state; user ranges have higher ids.
const MetaID RangeID = 1

// MetaVotersMax bounds how many replicas of that group vote: more make it slower, not safer.
const MetaVotersMax = 5

// MetaVoters is how many replicas of it should vote where there are so many voting members: an odd number.
func MetaVoters(members int) int {
	n := max(min(members, MetaVotersMax), 1)
	return n - (n+1)%2
}

// FirstRangeID is the id of the first user range of a new cluster.
const FirstRangeID RangeID = 2

// String renders r1, r2 and so on.
func (id RangeID) String() string { return fmt.Sprintf("r%d", uint64(id)) }

// NodeID names a node: the member id that etcd's clients see.
type NodeID uint64

// String renders the id in hexadecimal, as etcd prints member ids.
func (id NodeID) String() string { return fmt.Sprintf("%x", uint64(id)) }

// ReplicaID names a replica within its group: the id that Raft knows. Never reused in a group.
type ReplicaID uint64

// Epoch is the term of the oracle that handed out a revision.
type Epoch uint64

// Generation counts the changes of a descriptor: splits, merges, replica changes.
type Generation uint64

// Replica places one copy of a range on a node.
type Replica struct {
	ID   ReplicaID
	Node NodeID
	Role Role
}

// Role is what a replica is in its range. The numbers are those of the log.
type Role uint8

// The roles. In a joint configuration the majorities of before and of after must both agree.
const (
	Voter   Role = iota
	Learner      // gets everything, and has no vote
	Joining      // votes, in the configuration that comes
	Leaving      // votes, in the configuration that goes
)

// Votes reports whether the replica has a vote at present.
func (r Replica) Votes() bool { return r.Role != Learner }

// String is the role's name.
func (r Role) String() string {
	switch r {
	case Voter:
		return "voter"
	case Learner:
		return "learner"
	case Joining:
		return "joining"
	case Leaving:
		return "leaving"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Descriptor says what a range is and where its replicas are. Values are immutable once
// shared: whoever changes one copies it first.
type Descriptor struct {
	ID         RangeID
	Span       Span
	Generation Generation
	Replicas   []Replica
}

// Equal reports whether both say the same.
func (d *Descriptor) Equal(o *Descriptor) bool {
	return d.ID == o.ID && d.Generation == o.Generation && d.Span.Equal(o.Span) && slices.Equal(d.Replicas, o.Replicas)
}

// Cut returns both parts of the range as they are when it is cut at a key that parts its span: the left keeps the id, and both have
// the next generation. The right has the replicas of the whole until the caller gives it its own.
func (d Descriptor) Cut(at []byte, child RangeID) (left, right Descriptor) {
	d.Generation++
	left, right = d, d
	left.Span.End, right.Span.Start, right.ID = at, at, child
	return left, right
}

// ReplicaOn returns the replica that node holds.
func (d *Descriptor) ReplicaOn(node NodeID) (Replica, bool) {
	for _, r := range d.Replicas {
		if r.Node == node {
			return r, true
		}
	}
	return Replica{}, false
}

// NodeOf returns the node that holds the replica with that id; 0 when there is none, as for the
// leader of a group that has none.
func (d *Descriptor) NodeOf(id ReplicaID) NodeID {
	r, _ := d.Replica(id)
	return r.Node
}

// Replica returns the replica with that id.
func (d *Descriptor) Replica(id ReplicaID) (Replica, bool) {
	for _, r := range d.Replicas {
		if r.ID == id {
			return r, true
		}
	}
	return Replica{}, false
}

// Places is where the replicas live. The map is the caller's.
func (d *Descriptor) Places() map[ReplicaID]NodeID {
	at := make(map[ReplicaID]NodeID, len(d.Replicas))
	for _, r := range d.Replicas {
		at[r.ID] = r.Node
	}
	return at
}

// Belonged is the newest generation at which a replica is known to have belonged to the range, by a descriptor that has it or is the first without it.
func (d *Descriptor) Belonged(id ReplicaID) Generation {
	if _, member := d.Replica(id); !member {
		return max(d.Generation, 1) - 1
	}
	return d.Generation
}

// Dropped reports whether the range has given up a replica that belonged to it at a generation. Replica ids are never used twice, so it is out for good.
func (d *Descriptor) Dropped(id ReplicaID, belonged Generation) bool {
	_, member := d.Replica(id)
	return !member && d.Generation > belonged
}
