package moves

import (
	"errors"
	"fmt"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Reasons for which a change of a descriptor has no effect. The group goes on as it is.
var (
	// ErrGeneration: the change was decided for a descriptor that is not this one any more, or not yet.
	ErrGeneration = errors.New("the range has another generation than the change was decided for")
	// ErrJoint: the replicas are being changed.
	ErrJoint = errors.New("the range's replicas are being changed")
)

// Step is how far a move is. The numbers are those of the log.
type Step uint32

// The steps that a group remembers.
const (
	Begins  Step = iota // nothing has been changed
	Learns              // the new replica is a learner
	Joint               // it is a voter, and the old one is still
	Done                // the old one has left
	GivenUp             // the learner has left
)

// LearnerBehindMax is how many entries a learner may lack and be made a voter: what it lacks holds up a majority that needs it.
const LearnerBehindMax = 1000

// Shape is what a group is. Values are immutable once shared.
type Shape struct {
	Desc shard.Descriptor
	Done *pb.ChangeDone // what became of the last change of the descriptor; nil: there was none
}

// Next is what the next step of a move is.
type Next struct {
	Step    Step             // that it brings
	In, Out shard.ReplicaID  // who comes and who leaves, 0: nobody
	After   shard.Descriptor // as the step leaves the group
}

// At says how far a move is in the group as it is, or that the group has become another before anything was done: then nothing ever
// will be.
func (s Shape) At(mv *pb.Move) Step {
	switch {
	case s.Done.GetOp() == mv.Op && s.Done.Step != 0:
		return Step(s.Done.Step)
	case s.Desc.Generation > shard.Generation(mv.Generation):
		return GivenUp
	}
	return Begins
}

// Next is the step that a move takes next, forward or, with giveUp, back where that is still possible. shard.ErrInvalid: the group is
// none that can be moved like this. It must not be asked once the move is over.
func (s Shape) Next(mv *pb.Move, giveUp bool) (Next, error) {
	in, out := pb.ToReplica(mv.In), shard.ReplicaID(mv.Out)
	n := Next{In: in.ID, Out: out, After: s.Desc}
	n.After.Generation++
	n.After.Replicas = slices.Clone(s.Desc.Replicas)
	switch at := s.At(mv); {
	case at == Begins:
		if err := s.check(mv); err != nil {
			return n, err
		}
		gone, _ := s.Desc.Replica(out)
		switch {
		case in.ID == 0 && gone.Role == shard.Learner: // which no majority needs
			n.Step, n.After.Replicas = Done, without(n.After.Replicas, out)
			return n, nil
		case in.ID == 0, in.Role == shard.Joining: // nobody has to learn
			return n.joint(), nil
		}
		n.Step, n.Out = Learns, 0
		if in.Role == shard.Learner { // and stays one
			n.Step = Done
		}
		in.Role = shard.Learner
		n.After.Replicas = append(n.After.Replicas, in)
		return n, nil
	case at == Learns && giveUp:
		n.Step, n.In, n.Out, n.After.Replicas = GivenUp, 0, in.ID, without(n.After.Replicas, in.ID)
		return n, nil
	case at == Learns:
		return n.joint(), nil
	case at == Joint:
		n.Step, n.In, n.Out = Done, 0, 0
		n.After.Replicas = slices.DeleteFunc(n.After.Replicas, func(r shard.Replica) bool { return r.Role == shard.Leaving })
		for i := range n.After.Replicas {
			if r := &n.After.Replicas[i]; r.Role == shard.Joining {
				r.Role = shard.Voter
			}
		}
		return n, nil
	}
	return n, fmt.Errorf("%w: the move is over", shard.ErrInvalid)
}

func without(replicas []shard.Replica, id shard.ReplicaID) []shard.Replica {
	return slices.DeleteFunc(replicas, func(r shard.Replica) bool { return r.ID == id })
}

// Context is what travels with the step's change of the configuration.
func (n *Next) Context(mv *pb.Move) *pb.MoveStep {
	return &pb.MoveStep{After: pb.FromDescriptor(n.After), Done: &pb.ChangeDone{Op: mv.Op, Step: uint32(n.Step)}}
}

// joint makes it the step in which both have a vote.
func (n Next) joint() Next {
	n.Step = Joint
	for i := range n.After.Replicas {
		switch r := &n.After.Replicas[i]; r.ID {
		case n.In:
			r.Role = shard.Joining
		case n.Out:
			r.Role = shard.Leaving
		}
	}
	return n
}

// check says why a move cannot begin.
func (s Shape) check(mv *pb.Move) error {
	in, out := pb.ToReplica(mv.In), shard.ReplicaID(mv.Out)
	here, there := s.Desc.ReplicaOn(in.Node)
	learns := there && here.ID == in.ID && here.Role == shard.Learner
	gone, _ := s.Desc.Replica(out)
	if err := s.CheckChange(mv.Generation); err != nil {
		return err
	}
	switch {
	case in.ID == 0 && out == 0, out != 0 && s.Desc.NodeOf(out) == 0, out != 0 && in.ID == 0 && s.onlyVoter(gone), in.ID != 0 && gone.Role == shard.Learner:
		return fmt.Errorf("%w: replica %d cannot leave %v for replica %d", shard.ErrInvalid, out, s.Desc.ID, in.ID)
	case in.Role == shard.Joining && learns:
	case in.Role == shard.Learner && (out != 0 || s.Desc.ID != shard.MetaID), in.Role == shard.Joining,
		in.ID != 0 && (in.Node == 0 || there || s.Desc.NodeOf(in.ID) != 0):
		return fmt.Errorf("%w: a replica of %v cannot come to node %v", shard.ErrInvalid, s.Desc.ID, in.Node)
	}
	return nil
}

// CheckGeneration refuses a change of another generation.
func (s Shape) CheckGeneration(gen uint64) error {
	if shard.Generation(gen) != s.Desc.Generation && !mutate.On(mutate.ChangeAnyGeneration) {
		return fmt.Errorf("%w: %d, not %d", ErrGeneration, s.Desc.Generation, gen)
	}
	return nil
}

// CheckChange refuses a change of another generation, and any while the replicas are being changed.
func (s Shape) CheckChange(gen uint64) error {
	if err := s.CheckGeneration(gen); err != nil {
		return err
	}
	if s.joint() {
		return ErrJoint
	}
	return nil
}

// onlyVoter reports whether a replica is the only one that votes.
func (s Shape) onlyVoter(r shard.Replica) bool {
	return r.Role != shard.Learner && !slices.ContainsFunc(s.Desc.Replicas, func(o shard.Replica) bool { return o.ID != r.ID && o.Role != shard.Learner })
}

// joint reports whether the replicas are being changed. The meta group alone has learners that stay.
func (s Shape) joint() bool {
	return slices.ContainsFunc(s.Desc.Replicas, func(r shard.Replica) bool {
		return r.Role != shard.Voter && (r.Role != shard.Learner || s.Desc.ID != shard.MetaID)
	})
}

// Leaves reports whether a replica is the one that the group is about to lose, or has lost.
func (s Shape) Leaves(id shard.ReplicaID) bool {
	r, member := s.Desc.Replica(id)
	return !member || r.Role == shard.Leaving
}

// After is the shape behind a change of the configuration with that context. The change is never refused: who leads proposes none while
// another change of the descriptor may be on its way. So what does not follow upon this shape is shard.ErrCorrupt.
func (s Shape) After(step *pb.MoveStep) (Shape, error) {
	d := pb.ToDescriptor(step.After)
	if d.ID != s.Desc.ID || !d.Span.Equal(s.Desc.Span) || d.Generation != s.Desc.Generation+1 {
		return s, fmt.Errorf("%w: a change of the configuration makes %v at generation %d of %v at %d", shard.ErrCorrupt, d.ID, d.Generation, s.Desc.ID, s.Desc.Generation)
	}
	return Shape{Desc: d, Done: step.Done}, nil
}

// Rise is the shape behind an entry that raises the generation, so that the op which it names can never begin.
func (s Shape) Rise(g *pb.GenRise) (Shape, error) {
	if err := s.CheckGeneration(g.Generation); err != nil {
		return s, err
	}
	s.Desc.Generation++
	s.Done = &pb.ChangeDone{Op: g.Op}
	return s, nil
}

// Outcome is what became of a move: nil, if it is not over here.
func (s Shape) Outcome(mv *pb.Move) *pb.ChangeResponse {
	resp := &pb.ChangeResponse{Range: pb.FromDescriptor(s.Desc)}
	switch s.At(mv) {
	case Done:
		resp.Outcome = uint32(shard.ChangeDone)
	case GivenUp:
		resp.Outcome = uint32(shard.ChangeGivenUp)
	default:
		return nil
	}
	return resp
}

// Stepped is the answer where a move has come nearer, or, with why, where it waits.
func (s Shape) Stepped(why string) *pb.ChangeResponse {
	outcome := shard.ChangeStepped
	if why != "" {
		outcome = shard.ChangeWaits
	}
	return &pb.ChangeResponse{Range: pb.FromDescriptor(s.Desc), Outcome: uint32(outcome), Waiting: why}
}
