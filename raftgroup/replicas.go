package raftgroup

import (
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// What a node holds is written down with the Raft log, and nothing else says it: neither a map nor a flag. A replica
// id that has been given up leaves a tombstone before anything of the replica is deleted. Under the old id it
// would have acknowledged entries and given votes that it knows nothing of.

// ErrReplicaRemoved is returned by AddGroup for a replica id that this node has given up.
var ErrReplicaRemoved = errors.New("the replica has been removed from this node")

// RemoveGroup stops a group, writes a tombstone for its replica id, and forgets its log with the same write. done is
// called once that is durable, from any goroutine, and not if the host is closed before: from then on the state may
// be deleted, and another replica of the group, with a higher id, may be added. One that does not run, because it could not be
// opened or is being rebuilt, is removed alike; nobody may be adding it meanwhile. shard.ErrUnavailable: the log has no note of a replica.
// It must not be called by the group's state machine or observer.
func (h *Host) RemoveGroup(id shard.RangeID, done func()) error {
	g := h.group(id)
	if g == nil {
		return removeStopped(h, id, done)
	}
	h.groups.Delete(id)
	g.stop(shard.ErrStopped)
	g.awaitIdle()
	g.members.leave(h.nodes)
	tombstone := &Replica{Group: id, ID: g.cfg.Replica, State: ReplicaRemoved}
	h.writer.push(appendTask{g: g, update: &Update{Group: id, Remove: true, Replica: tombstone}, then: done})
	return nil
}

// removeStopped is RemoveGroup for a group that does not run.
func removeStopped(h *Host, id shard.RangeID, done func()) error {
	st, _, err := h.cfg.Log.Load(id)
	switch {
	case err != nil:
		return fmt.Errorf("load the log of %v: %w", id, err)
	case st.Replica.ID == 0:
		return fmt.Errorf("%w: no replica of %v is here", shard.ErrUnavailable, id)
	}
	tombstone := st.Replica
	tombstone.State = ReplicaRemoved
	h.writer.push(appendTask{update: &Update{Group: id, Remove: true, Replica: &tombstone}, then: done})
	return nil
}

// ForgetTombstone forgets the tombstone of a group that is nowhere any more: nobody can add this node to it again.
// done is called as by RemoveGroup.
func (h *Host) ForgetTombstone(id shard.RangeID, done func()) error {
	st, ok, err := h.cfg.Log.Load(id)
	if err != nil {
		return fmt.Errorf("load the log of %v: %w", id, err)
	}
	if ok || st.Replica.State != ReplicaRemoved {
		return fmt.Errorf("%w: %v has no tombstone", shard.ErrInvalid, id)
	}
	h.writer.push(appendTask{update: &Update{Group: id, Remove: true}, then: done})
	return nil
}

// check refuses to add another replica than the one that is noted, or one that has been given up.
func (r *Replica) check(cfg *GroupConfig) error {
	switch {
	case r.State == ReplicaUnknown:
		return nil
	case r.State == ReplicaRemoved:
		if cfg.Replica <= r.ID && !mutate.On(mutate.TombstoneIgnored) {
			return fmt.Errorf("%v: %w: replica %d, and %d is the highest that was here", cfg.ID, ErrReplicaRemoved, cfg.Replica, r.ID)
		}
	case cfg.Replica != r.ID:
		return fmt.Errorf("%v: %w: replica %d is here, not %d", cfg.ID, shard.ErrInvalid, r.ID, cfg.Replica)
	}
	return nil
}

// note is what is to be noted of a replica that is added with such a state, nil: it is noted already.
func (r *Replica) note(cfg *GroupConfig, applied uint64) *Replica {
	want := Replica{Group: cfg.ID, ID: cfg.Replica, State: ReplicaPresent}
	if applied == 0 && (r.State == ReplicaWaiting || cfg.Waiting && r.State != ReplicaPresent) {
		want.State = ReplicaWaiting
	}
	if *r == want {
		return nil
	}
	*r = want
	return &want
}
