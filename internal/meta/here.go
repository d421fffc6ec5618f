package meta

import (
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// Here is the group's replica on a node, and what is known of its place in the group.
type Here struct {
	*Meta
	Self  shard.ReplicaID
	Heard shard.Descriptor // where the group was, as it was opened with
}

// Belonged is the newest generation of the group at which the replica is known to have belonged to it.
func (h *Here) Belonged() shard.Generation {
	own, _ := h.Descriptor()
	return belonged(h.Self, own, h.Heard)
}

// belonged is that of a replica whose state has the descriptor own, and that was opened with heard. That, too, may be without it: a node that has stopped
// between the removal and the end of its files remembers where the group was then.
func belonged(self shard.ReplicaID, own, heard shard.Descriptor) shard.Generation {
	if _, member := own.Replica(self); member {
		return own.Generation
	}
	return heard.Belonged(self)
}

// Places is where the group's replicas live, nil as long as the state does not say. The state's file may be older than what the node has saved of that:
// nobody is hidden by either.
func (h *Here) Places(saved shard.Descriptor) map[shard.ReplicaID]shard.NodeID {
	d, known := h.Descriptor()
	if !known {
		return nil
	}
	at := d.Places()
	for _, r := range saved.Replicas {
		if _, known := at[r.ID]; !known && saved.Generation > d.Generation {
			at[r.ID] = r.Node
		}
	}
	return at
}

// Beginning is how a node's replica of the group comes to be open.
type Beginning struct {
	Self     shard.ReplicaID  // 0: none does
	Desc     shard.Descriptor // the group's, as far as it is known
	First    bool             // it is one of those that the group was laid out with
	Waits    bool             // it has had no state yet
	Campaign bool             // it should lead first
	Removed  bool             // none does, and what is left of its files is to be deleted: the tombstone was written before
}

// Begin says how it comes to be open when the node starts. list is what the node's log has; first is where the group was laid out, and saved where it was as far as a
// former life of the node knew. The log says which replica is here. Only where it lists nothing at all, at the first start of a cluster, the layout does
// (hazard 46).
func Begin(node shard.NodeID, list []raftgroup.Replica, first, saved shard.Descriptor) Beginning {
	by, named := first.ReplicaOn(node)
	i := slices.IndexFunc(list, func(r raftgroup.Replica) bool { return r.Group == shard.MetaID })
	switch {
	case mutate.On(mutate.StartByFlags) && named, len(list) == 0 && named:
		return Beginning{Self: by.ID, Desc: first, First: true, Campaign: first.Replicas[0].ID == by.ID}
	case i < 0:
		return Beginning{}
	case list[i].State == raftgroup.ReplicaRemoved:
		return Beginning{Removed: true}
	case mutate.On(mutate.MetaSavedDeletes) && saved.NodeOf(list[i].ID) == 0:
		return Beginning{}
	}
	how := Beginning{Self: list[i].ID, Desc: first, First: true, Waits: list[i].State == raftgroup.ReplicaWaiting}
	if how.Self == 0 { // the log is older than such notes
		how.Self = by.ID
	}
	if how.Self != by.ID {
		how.Desc, how.First = saved, false
	}
	return how
}

// Elsewhere is what a node answers that has no replica of the group: where they are, as far as it knows. It may be a node that somebody remembers.
func Elsewhere(node shard.NodeID, known shard.Descriptor, lead shard.NodeID) *pb.PeerResponse {
	nl := &shard.NotLeaderError{Range: shard.MetaID}
	if !mutate.On(mutate.MetaKnownSilent) {
		nl.Known = []shard.Descriptor{known}
		if lead != node {
			nl.Leader = lead
		}
	}
	return &pb.PeerResponse{Error: pb.ErrorToPB(nl)}
}
