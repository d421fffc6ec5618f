package raftgroup

import (
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Births. A group may come into being by an entry of another one, on each replica's node at another time: the child's
// state is made of the parent's, and with it the child's log begins, at BirthPosition. A state is there from the
// beginning: a replica without one is behind the log, and gets a snapshot. Only a log that begins where groups are
// born empty, at the initial position, may be replayed over nothing.
//
// Before its birth on a node a replica may wait there already, because a member has spoken to it. The birth gives it
// its state, and it keeps its term and its vote: it has promised them to somebody. A replica that has a state is left
// alone, for it has gone on since; and so is one that was here and has been given up.

// BirthPosition is where the state of a child stands when it is made.
func BirthPosition() Position { return Position{InitialIndex + 1, InitialTerm} }

// ErrReplicaHere is the reason why a replica is not born that has a state here, or has had one.
var ErrReplicaHere = errors.New("the replica is here already")

// MayBeBorn says whether a replica is to get the state with which its group begins: nil where the log says nothing of
// the group, or that the replica waits. Else it is to be left alone: the error is ErrReplicaHere where it has a state, or a
// later replica of the group is here, and ErrReplicaRemoved where it has been given up. A replica that waits is stopped
// first (StopGroup), so that nothing comes in between. AddGroup of a GroupConfig that is Born asks the same.
func MayBeBorn(log Log, id shard.RangeID, replica shard.ReplicaID) error {
	st, ok, err := log.Load(id)
	if err != nil {
		return fmt.Errorf("load the log of %v: %w", id, err)
	}
	return st.Replica.mayBeBorn(id, replica, ok)
}

// mayBeBorn answers for what is noted of a group that has a log, or has none.
func (r *Replica) mayBeBorn(id shard.RangeID, replica shard.ReplicaID, log bool) error {
	switch {
	case r.State == ReplicaRemoved:
		return r.check(&GroupConfig{ID: id, Replica: replica})
	case mutate.On(mutate.BirthOverPresent):
	case r.State == ReplicaPresent, r.State == ReplicaUnknown && log:
		return fmt.Errorf("%v: %w: replica %d has a state", id, ErrReplicaHere, r.ID)
	case r.State == ReplicaWaiting && r.ID > replica:
		return fmt.Errorf("%v: %w: replica %d is not born any more where %d is", id, ErrReplicaHere, replica, r.ID)
	}
	return nil
}

// checkBirth refuses the birth of a replica that is not to be born, or whose state is none that a group begins with.
func checkBirth(cfg *GroupConfig, st *LogState, log bool, at Position) error {
	if !cfg.Born {
		return nil
	}
	if at != BirthPosition() || cfg.Waiting || cfg.Lost {
		return fmt.Errorf("%v: %w: no group is born at index %d, term %d", cfg.ID, shard.ErrInvalid, at.Index, at.Term)
	}
	return st.Replica.mayBeBorn(cfg.ID, cfg.Replica, log)
}
