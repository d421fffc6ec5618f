package moves

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func shapeOn(nodes ...shard.NodeID) Shape {
	d := shard.Descriptor{ID: 7, Generation: 3, Span: shard.Span{Start: []byte("a"), End: []byte("b")}}
	for i, n := range nodes {
		d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(i + 1), Node: n})
	}
	return Shape{Desc: d}
}

func render(s Shape) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", s.Desc.Generation)
	for _, r := range s.Desc.Replicas {
		fmt.Fprintf(&b, " %d@%v", r.ID, r.Node)
		if r.Role != shard.Voter {
			fmt.Fprintf(&b, "(%v)", r.Role)
		}
	}
	return b.String()
}

// TestMoves: what each kind of move makes of a group, step by step, forward and where it is given up on the way. Whoever takes the next
// step needs no more than the shape.
func TestMoves(t *testing.T) {
	in := func(node uint64) *pb.ReplicaDesc { return &pb.ReplicaDesc{ReplicaId: 9, NodeId: node} }
	for _, c := range []struct {
		name   string
		mv     *pb.Move
		giveUp int // at which step; 0: never
		want   []string
		over   shard.ChangeOutcome
	}{
		{"one for another", &pb.Move{Op: 4, Generation: 3, In: in(4), Out: 2}, 0,
			[]string{"4: 1@1 2@2 3@3 9@4(learner)", "5: 1@1 2@2(leaving) 3@3 9@4(joining)", "6: 1@1 3@3 9@4"}, shard.ChangeDone},
		{"one more", &pb.Move{Op: 4, Generation: 3, In: in(4)}, 0,
			[]string{"4: 1@1 2@2 3@3 9@4(learner)", "5: 1@1 2@2 3@3 9@4(joining)", "6: 1@1 2@2 3@3 9@4"}, shard.ChangeDone},
		{"one less", &pb.Move{Op: 4, Generation: 3, Out: 1}, 0, []string{"4: 1@1(leaving) 2@2 3@3", "5: 2@2 3@3"}, shard.ChangeDone},
		{"given up with a learner", &pb.Move{Op: 4, Generation: 3, In: in(4), Out: 2}, 2,
			[]string{"4: 1@1 2@2 3@3 9@4(learner)", "5: 1@1 2@2 3@3"}, shard.ChangeGivenUp},
		{"too late to give up", &pb.Move{Op: 4, Generation: 3, In: in(4), Out: 2}, 3,
			[]string{"4: 1@1 2@2 3@3 9@4(learner)", "5: 1@1 2@2(leaving) 3@3 9@4(joining)", "6: 1@1 3@3 9@4"}, shard.ChangeDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shapeOn(1, 2, 3)
			for i, want := range c.want {
				if s.Outcome(c.mv) != nil {
					t.Fatalf("over at step %d", i)
				}
				next, err := s.Next(c.mv, c.giveUp == i+1)
				if err != nil {
					t.Fatal(err)
				}
				before := render(s)
				after, err := s.After(next.Context(c.mv))
				if err != nil {
					t.Fatal(err)
				}
				if got := render(after); got != want || render(s) != before {
					t.Errorf("step %d leads to %s, want %s; it was %s and is %s", i, got, want, before, render(s))
				}
				if _, err := after.After(next.Context(c.mv)); !errors.Is(err, shard.ErrCorrupt) {
					t.Errorf("step %d once more: %v", i, err)
				}
				s = after
			}
			if over := s.Outcome(c.mv); over.GetOutcome() != uint32(c.over) {
				t.Errorf("it came to %v", over)
			}
			if _, err := s.Next(c.mv, false); !errors.Is(err, shard.ErrInvalid) {
				t.Errorf("one more step: %v", err)
			}
			if later := (&pb.Move{Op: 5, Generation: 3}); s.Outcome(later).GetOutcome() != uint32(shard.ChangeGivenUp) {
				t.Error("an op of an earlier generation may yet apply")
			}
		})
	}
}

// TestLearnersThatStay: the meta group has replicas that go on learning. They come and go in one step, get a vote without learning first, in the place of
// another one if wanted, and are left alone by every other move.
func TestLearnersThatStay(t *testing.T) {
	learner := func(id uint64, role shard.Role) *pb.ReplicaDesc {
		return &pb.ReplicaDesc{ReplicaId: id, NodeId: id, Role: uint32(role)}
	}
	for _, c := range []struct {
		name   string
		mv     *pb.Move
		giveUp bool
		want   []string
		over   shard.ChangeOutcome
	}{
		{"one comes", &pb.Move{In: learner(9, shard.Learner)}, false, []string{"4: 1@1 2@2 8@8(learner) 9@9(learner)"}, shard.ChangeDone},
		{"one goes", &pb.Move{Out: 8}, false, []string{"4: 1@1 2@2"}, shard.ChangeDone},
		{"it gets a vote", &pb.Move{In: learner(8, shard.Joining)}, false, []string{"4: 1@1 2@2 8@8(joining)", "5: 1@1 2@2 8@8"}, shard.ChangeDone},
		{"it takes a place", &pb.Move{In: learner(8, shard.Joining), Out: 1}, false, []string{"4: 1@1(leaving) 2@2 8@8(joining)", "5: 2@2 8@8"}, shard.ChangeDone},
		{"another move", &pb.Move{In: learner(9, shard.Voter), Out: 1}, false,
			[]string{"4: 1@1 2@2 8@8(learner) 9@9(learner)", "5: 1@1(leaving) 2@2 8@8(learner) 9@9(joining)", "6: 2@2 8@8(learner) 9@9"}, shard.ChangeDone},
		{"another move, given up", &pb.Move{In: learner(9, shard.Voter), Out: 1}, true,
			[]string{"4: 1@1 2@2 8@8(learner) 9@9(learner)", "5: 1@1 2@2 8@8(learner)"}, shard.ChangeGivenUp},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := metaShape()
			c.mv.Op, c.mv.Generation = 4, 3
			for i, want := range c.want {
				next, err := s.Next(c.mv, c.giveUp && i == 1)
				if err != nil {
					t.Fatal(err)
				}
				if s, err = s.After(next.Context(c.mv)); err != nil || render(s) != want {
					t.Fatalf("step %d leads to %s, %v, want %s", i, render(s), err, want)
				}
			}
			if over := s.Outcome(c.mv); over.GetOutcome() != uint32(c.over) {
				t.Errorf("it came to %v", over)
			}
		})
	}
	for what, mv := range map[string]*pb.Move{
		"a learner in a voter's place":   {In: learner(9, shard.Learner), Out: 1},
		"in a learner's place":           {In: learner(9, shard.Voter), Out: 8},
		"a second replica on its node":   {In: &pb.ReplicaDesc{ReplicaId: 9, NodeId: 8}},
		"a vote for one that has one":    {In: learner(2, shard.Joining)},
		"a vote for one that is not":     {In: learner(9, shard.Joining)},
		"a vote for another of its node": {In: &pb.ReplicaDesc{ReplicaId: 9, NodeId: 8, Role: uint32(shard.Joining)}},
	} {
		mv.Op, mv.Generation = 4, 3
		if next, err := metaShape().Next(mv, false); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: %+v, %v", what, next, err)
		}
	}
	if _, err := shapeOn(1, 2, 3).Next(&pb.Move{Op: 4, Generation: 3, In: learner(9, shard.Learner)}, false); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a range has a learner that stays: %v", err)
	}
	one := metaShape()
	one.Desc.Replicas = one.Desc.Replicas[1:]
	if _, err := one.Next(&pb.Move{Op: 4, Generation: 3, Out: 2}, false); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("the last voter leaves: %v", err)
	}
	ranged := shapeOn(1, 2, 3)
	ranged.Desc.Replicas[2].Role = shard.Learner
	if _, err := ranged.Next(&pb.Move{Op: 4, Generation: 3, Out: 1}, false); !errors.Is(err, ErrJoint) {
		t.Errorf("a range with a learner is moved once more: %v", err)
	}
}

// metaShape is a meta group with two voters, and one replica that learns on node 8.
func metaShape() Shape {
	s := shapeOn(1, 2)
	s.Desc.ID, s.Desc.Span = shard.MetaID, shard.Span{}
	s.Desc.Replicas = append(s.Desc.Replicas, shard.Replica{ID: 8, Node: 8, Role: shard.Learner})
	return s
}

// TestMovesRefused: what a group does not allow.
func TestMovesRefused(t *testing.T) {
	s := shapeOn(1, 2, 3)
	for what, mv := range map[string]*pb.Move{
		"another generation":    {Op: 4, Generation: 4, Out: 1},
		"nobody":                {Op: 4, Generation: 3},
		"who is not there":      {Op: 4, Generation: 3, Out: 8},
		"to where one is":       {Op: 4, Generation: 3, In: &pb.ReplicaDesc{ReplicaId: 9, NodeId: 2}},
		"an id that is in use":  {Op: 4, Generation: 3, In: &pb.ReplicaDesc{ReplicaId: 2, NodeId: 4}},
		"a replica on no node":  {Op: 4, Generation: 3, In: &pb.ReplicaDesc{ReplicaId: 9}},
		"two at the same place": {Op: 4, Generation: 3, In: &pb.ReplicaDesc{ReplicaId: 9, NodeId: 1}, Out: 1},
	} {
		if next, err := s.Next(mv, false); err == nil {
			t.Errorf("%s: %+v", what, next)
		}
	}
	if _, err := shapeOn(1).Next(&pb.Move{Op: 4, Generation: 3, Out: 1}, false); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("the last one leaves: %v", err)
	}
	joint := shapeOn(1, 2)
	joint.Desc.Replicas[1].Role = shard.Joining
	if _, err := joint.Next(&pb.Move{Op: 4, Generation: 3, Out: 1}, false); !errors.Is(err, ErrJoint) {
		t.Errorf("in a joint configuration: %v", err)
	}
	up, err := s.Rise(&pb.GenRise{Generation: 3, Op: 4})
	if err != nil || up.Desc.Generation != 4 || up.Outcome(&pb.Move{Op: 4, Generation: 3}).GetOutcome() != uint32(shard.ChangeGivenUp) {
		t.Errorf("raised to %+v, %v", up, err)
	}
	if _, err := up.Rise(&pb.GenRise{Generation: 3, Op: 4}); !errors.Is(err, ErrGeneration) {
		t.Errorf("raised twice: %v", err)
	}
}
