package raftgroup

import (
	"context"
	"fmt"

	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Mover is what the leader of a group needs of its host to move replicas, as package moves says: *Host.
type Mover interface {
	Status(id shard.RangeID) (Status, bool)
	// ChangeConfig proposes a change of the configuration, which Apply gets with its context.
	ChangeConfig(id shard.RangeID, term uint64, c ConfChange, dropped func(error)) error
	// Behind tells what a replica lacks to get a vote, or "".
	Behind(id shard.RangeID, term uint64, replica shard.ReplicaID, entries uint64, done func(why string)) error
}

// moveKind is the change of the configuration that brings a move's step.
func moveKind(next *moves.Next) ChangeKind {
	switch {
	case next.Step == moves.Joint:
		return EnterJoint
	case next.In != 0:
		return AddLearner
	case next.Out != 0:
		return RemoveLearner
	}
	return LeaveJoint
}

// ProposeMove proposes the next step of a move in a term, from the configuration that is in force. dropped is called, perhaps before ProposeMove returns,
// where the step is not in the log and never will be by this proposal: see ChangeConfig.
func ProposeMove(m Mover, id shard.RangeID, term uint64, next *moves.Next, mv *pb.Move, dropped func(error)) {
	with, err := next.Context(mv).MarshalVT()
	st, here := m.Status(id)
	switch {
	case err == nil && !here:
		err = shard.ErrUnavailable
	case err == nil:
		err = m.ChangeConfig(id, term, ConfChange{Kind: moveKind(next), In: next.In, Out: next.Out, From: st.Conf.Index, Context: with}, dropped)
	}
	if err != nil {
		dropped(err)
	}
}

// LearnerLacks says what the learner that a step makes a voter lacks for that, or "". It blocks until the host has answered or ctx ends.
func LearnerLacks(ctx context.Context, m Mover, id shard.RangeID, term uint64, next *moves.Next) string {
	said := make(chan string, 1)
	if err := m.Behind(id, term, next.In, moves.LearnerBehindMax, func(why string) { said <- why }); err != nil {
		return err.Error()
	}
	select {
	case why := <-said:
		if why != "" {
			why = fmt.Sprintf("the new replica on node %v %s", next.After.NodeOf(next.In), why)
		}
		return why
	case <-ctx.Done():
		return ctx.Err().Error()
	}
}
