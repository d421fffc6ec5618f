package apply

import (
	"fmt"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// Who holds a range changes by entries of its own log, one step at a time:
//
//	voters a, b, c --> a, b, c and learner d --> joint {a, b, d | a, b, c} --> a, b, d
//	                          |
//	                          +--> a, b, c: given up
//
// Each is a change of the group's configuration, and what it makes of the descriptor travels as its context: a replica has both or
// neither. What the range knows of the op says how far it is, so whoever leads goes on from there.

// MoveStep is how far a move is. The numbers are those of the log.
type MoveStep uint32

// The steps that a range remembers.
const (
	MoveBegins  MoveStep = iota // nothing has been changed
	MoveLearns                  // the new replica is a learner
	MoveJoint                   // it is a voter, and the old one is still
	MoveDone                    // the old one has left
	MoveGivenUp                 // the learner has left
)

// Move is what the next step of a move is.
type Move struct {
	Next    MoveStep         // that it brings
	In, Out shard.ReplicaID  // who comes and who leaves, 0: nobody
	After   shard.Descriptor // as the step leaves the range
}

// MoveAt says how far a move is in the range as it is, or that the range has become another before anything was done: then nothing ever will be.
func MoveAt(m *Shape, mv *pb.Move) MoveStep {
	switch {
	case m.Done.GetOp() == mv.Op && m.Done.Step != 0:
		return MoveStep(m.Done.Step)
	case m.Desc.Generation > shard.Generation(mv.Generation):
		return MoveGivenUp
	}
	return MoveBegins
}

// NextMove is the step that a move takes next, forward or, with giveUp, back where that is still possible. shard.ErrInvalid: the range is
// none that can be moved like this. It must not be asked once the move is over.
func NextMove(m *Shape, mv *pb.Move, giveUp bool) (Move, error) {
	in, out := pb.ToReplica(mv.In), shard.ReplicaID(mv.Out)
	s := Move{In: in.ID, Out: out, After: m.Desc}
	s.After.Generation++
	s.After.Replicas = slices.Clone(m.Desc.Replicas)
	switch at := MoveAt(m, mv); {
	case at == MoveBegins:
		if err := checkMove(m, mv); err != nil {
			return s, err
		}
		if in.ID == 0 { // nobody has to learn
			return s.joint(), nil
		}
		in.Role = shard.Learner
		s.Next, s.Out, s.After.Replicas = MoveLearns, 0, append(s.After.Replicas, in)
		return s, nil
	case at == MoveLearns && giveUp:
		s.Next, s.In, s.Out = MoveGivenUp, 0, in.ID
		s.After.Replicas = slices.DeleteFunc(s.After.Replicas, func(r shard.Replica) bool { return r.ID == in.ID })
		return s, nil
	case at == MoveLearns:
		return s.joint(), nil
	case at == MoveJoint:
		s.Next, s.In, s.Out = MoveDone, 0, 0
		s.After.Replicas = slices.DeleteFunc(s.After.Replicas, func(r shard.Replica) bool { return r.Role == shard.Leaving })
		for i := range s.After.Replicas {
			s.After.Replicas[i].Role = shard.Voter
		}
		return s, nil
	}
	return s, fmt.Errorf("%w: the move is over", shard.ErrInvalid)
}

// joint makes it the step in which both have a vote.
func (s Move) joint() Move {
	s.Next = MoveJoint
	for i := range s.After.Replicas {
		switch r := &s.After.Replicas[i]; r.ID {
		case s.In:
			r.Role = shard.Joining
		case s.Out:
			r.Role = shard.Leaving
		}
	}
	return s
}

// checkMove says why a move cannot begin.
func checkMove(m *Shape, mv *pb.Move) error {
	in, out := pb.ToReplica(mv.In), shard.ReplicaID(mv.Out)
	_, there := m.Desc.ReplicaOn(in.Node)
	switch {
	case m.checkChange(mv.Generation) != nil:
		return m.checkChange(mv.Generation)
	case m.joint():
		return errJoint
	case in.ID == 0 && out == 0, out != 0 && m.Desc.NodeOf(out) == 0, out != 0 && in.ID == 0 && len(m.Desc.Replicas) == 1:
		return fmt.Errorf("%w: replica %d cannot leave %v for replica %d", shard.ErrInvalid, out, m.Desc.ID, in.ID)
	case in.ID != 0 && (in.Node == 0 || there || m.Desc.NodeOf(in.ID) != 0):
		return fmt.Errorf("%w: a replica of %v cannot come to node %v", shard.ErrInvalid, m.Desc.ID, in.Node)
	}
	return nil
}

// joint reports whether the replicas are being changed.
func (m *Shape) joint() bool {
	return slices.ContainsFunc(m.Desc.Replicas, func(r shard.Replica) bool { return r.Role != shard.Voter })
}

// decideMove takes in what came with a change of the configuration. It is never refused: who leads proposes none while another change of
// the descriptor may be on its way.
func decideMove(m *Machine, d *Decision, context []byte) error {
	step := &pb.MoveStep{}
	if err := step.UnmarshalVT(context); err != nil {
		return fmt.Errorf("context of a change of the configuration: %w", err)
	}
	after := pb.ToDescriptor(step.After)
	if after.ID != m.Desc.ID || !after.Span.Equal(m.Desc.Span) || after.Generation != m.Desc.Generation+1 {
		return fmt.Errorf("%w: a change of the configuration makes %v at generation %d of %v at %d", shard.ErrCorrupt, after.ID, after.Generation, m.Desc.ID, m.Desc.Generation)
	}
	d.Moved = step
	d.reshape = &reshape{desc: after, done: step.Done}
	d.Change.State = append(d.Change.State, DescUpdate(after), mvcc.StateUpdate{Key: stateDone, Value: Marshal(step.Done)})
	return nil
}
