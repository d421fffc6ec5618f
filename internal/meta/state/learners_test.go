package state

import (
	"fmt"
	"strings"
	"testing"

	"pontoon/internal/clusterversion"
	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// learning is a state of so many voting members, of which the first voters hold the meta group, whose next moves are carried out at once.
type learning struct {
	t     *testing.T
	s     *State
	index uint64
}

func newLearning(t *testing.T, members, voters int) *learning {
	l := &learning{t: t, s: New(), index: 1}
	b := &pb.MetaBootstrap{ClusterId: 9, Meta: &pb.Descriptor{RangeId: 1, Generation: 1}}
	for id := range uint64(members) {
		b.Members = append(b.Members, &pb.Member{Id: id + 1, Name: "n", Formats: uint32(clusterversion.Newest)})
		if id < uint64(voters) {
			b.Meta.Replicas = append(b.Meta.Replicas, &pb.ReplicaDesc{ReplicaId: id + 1, NodeId: id + 1})
		}
	}
	all := pb.FromDescriptor(shard.Descriptor{ID: 2, Generation: 1})
	all.Replicas = b.Meta.Replicas
	b.Ranges = []*pb.Descriptor{all}
	if res := l.s.Apply(1, 1, &pb.MetaEntry{Term: 1, Bootstrap: b}); res.Err != nil {
		t.Fatal(res.Err)
	}
	l.s.version = clusterversion.Newest
	return l
}

func (l *learning) apply(e *pb.MetaEntry) Result {
	l.t.Helper()
	l.index++
	e.Term = 1
	res := l.s.Apply(l.index, 1, e)
	if res.Err != nil {
		l.t.Fatalf("%v: %v", e, res.Err)
	}
	return res
}

// learner adds a learner with that id, which has started unless said otherwise.
func (l *learning) learner(id uint64, started bool) {
	l.t.Helper()
	l.apply(&pb.MetaEntry{AddMember: &pb.MetaAddMember{Member: &pb.Member{Id: id, PeerUrls: []string{fmt.Sprintf("http://n%d:2380", id)}, Learner: true}}})
	if started {
		l.start(id)
	}
}

func (l *learning) start(id uint64) {
	l.apply(&pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: id, Name: "n", Formats: uint32(clusterversion.Newest)}})
}

// moves carries out what is due, one after the other, and returns what was done.
func (l *learning) moves() string {
	l.t.Helper()
	var did []string
	for m := LearnerMove(l.s); m != nil; m = LearnerMove(l.s) {
		op := l.carry(m)
		did = append(did, fmt.Sprintf("%v to %v", op.From.Node, op.To.Node))
		if len(did) > 10 {
			l.t.Fatalf("it does not end: %v", did)
		}
	}
	return strings.Join(did, ", ")
}

// carry carries out a move of the group.
func (l *learning) carry(m *pb.MoveOp) shard.Op {
	l.t.Helper()
	e, err := PlanMove(l.s, m, 1)
	if err != nil {
		l.t.Fatalf("%v: %v", m, err)
	}
	op := l.apply(e).Op
	if LearnerMove(l.s) != nil {
		l.t.Fatal("another move is due while one is under way")
	}
	mv := &pb.Move{Op: uint64(op.ID), Generation: uint64(op.Generation), In: pb.FromReplica(op.To), Out: uint64(op.From.ID)}
	for l.s.Moving().Outcome(mv) == nil {
		next, err := l.s.Moving().Next(mv, false)
		if err != nil {
			l.t.Fatal(err)
		}
		l.index++
		if err := l.s.Move(l.index, 1, next.Context(mv)); err != nil {
			l.t.Fatal(err)
		}
	}
	over := l.s.Moving().Outcome(mv)
	l.apply(&pb.MetaEntry{EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{over.Range}, EndedMs: 1}})
	if got, _ := l.s.Op(op.ID); got.Outcome() != shard.OpDone {
		l.t.Fatalf("%+v", got)
	}
	return op
}

func (l *learning) want(what, did, group string) {
	l.t.Helper()
	if got := l.moves(); got != did {
		l.t.Errorf("%s: moves %q, want %q", what, got, did)
	}
	var got []string
	for _, r := range l.s.Meta().Replicas {
		as := ""
		if r.Role != shard.Voter {
			as = " " + r.Role.String()
		}
		got = append(got, r.Node.String()+as)
	}
	if text := strings.Join(got, ", "); text != group {
		l.t.Errorf("%s: the group is on %s, want %s", what, text, group)
	}
}

// TestLearnersFollowed: the meta group has a replica that learns where a learner is among the members, keeps it while it may come to vote, and
// drops what nobody needs.
func TestLearnersFollowed(t *testing.T) {
	l := newLearning(t, 3, 3)
	l.want("at first", "", "1, 2, 3")
	l.learner(11, false)
	l.want("before it has started", "", "1, 2, 3")
	l.start(11)
	l.want("a learner", "0 to b", "1, 2, 3, b learner")
	l.learner(12, true)
	l.learner(13, true)
	l.learner(14, true)
	l.want("too many learners", "0 to c, 0 to d", "1, 2, 3, b learner, c learner, d learner")
	l.apply(&pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: 11}})
	l.want("four members vote, and another learner needs the place", "b to 0, 0 to e", "1, 2, 3, c learner, d learner, e learner")
	l.apply(&pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: 12}})
	l.want("five may vote, and it stays for that", "", "1, 2, 3, c learner, d learner, e learner")
	l.apply(&pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: 13}})
	l.carry(&pb.MoveOp{RangeId: 1, To: 12})
	l.want("six may, and four do", "", "1, 2, 3, c, d learner, e learner")
	l.carry(&pb.MoveOp{RangeId: 1, To: 13})
	l.apply(&pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: 14}})
	l.want("enough vote", "e to 0", "1, 2, 3, c, d")
	l.learner(15, true)
	l.want("a learner beside five voters", "0 to f", "1, 2, 3, c, d, f learner")
	l.apply(&pb.MetaEntry{DrainMember: &pb.MetaDrainMember{Id: 15, Drain: true}})
	l.want("it is to be emptied", "f to 0", "1, 2, 3, c, d")
	l.apply(&pb.MetaEntry{DrainMember: &pb.MetaDrainMember{Id: 15}})
	l.want("and not any more", "0 to f", "1, 2, 3, c, d, f learner")
	l.apply(&pb.MetaEntry{RemoveMember: &pb.MetaRemoveMember{Id: 15}})
	if _, there := l.s.Member(15); !there {
		t.Error("it is forgotten with a replica on it")
	}
	l.want("it is removed", "f to 0", "1, 2, 3, c, d")
	if ids := l.s.Forgettable(); len(ids) != 1 || ids[0] != 15 {
		t.Errorf("forgettable: %v", ids)
	}
}

// TestLearnersOfASmallCluster: one member becomes three, one learner after the other; both go on learning until the planner lets them vote.
func TestLearnersOfASmallCluster(t *testing.T) {
	l := newLearning(t, 1, 1)
	l.learner(11, true)
	l.want("a learner", "0 to b", "1, b learner")
	l.apply(&pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: 11}})
	l.want("two members", "", "1, b learner")
	l.learner(12, true)
	l.want("another learner", "0 to c", "1, b learner, c learner")
	l.apply(&pb.MetaEntry{PromoteMember: &pb.MetaPromoteMember{Id: 12}})
	l.want("three members", "", "1, b learner, c learner")
}

// TestLearnersAndMoves: what a move of the group by hand may be beside replicas that learn.
func TestLearnersAndMoves(t *testing.T) {
	l := newLearning(t, 4, 3)
	l.learner(11, true)
	l.want("a learner", "0 to b", "1, 2, 3, b learner")
	for what, m := range map[string]*pb.MoveOp{
		"a learner elsewhere":          {RangeId: 1, From: 11, To: 4},
		"a learner in a voter's place": {RangeId: 1, From: 1, To: 4, Learner: true},
		"a learner of a range":         {RangeId: 2, To: 4, Learner: true},
		"a learner where one votes":    {RangeId: 1, To: 1, Learner: true},
	} {
		if _, err := PlanMove(l.s, m, 1); err == nil {
			t.Errorf("%s is not refused", what)
		}
	}
	e, err := PlanMove(l.s, &pb.MoveOp{RangeId: 1, From: 1, To: 11}, 1)
	if err != nil {
		t.Fatal(err)
	}
	op := l.apply(e).Op
	mv := &pb.Move{Op: uint64(op.ID), Generation: uint64(op.Generation), In: pb.FromReplica(op.To), Out: uint64(op.From.ID)}
	next, err := l.s.Moving().Next(mv, false)
	if err != nil || next.Step != moves.Joint {
		t.Errorf("who learns already learns once more: %+v, %v", next, err)
	}
	// Given up before anything was done it leaves what there was.
	l.apply(&pb.MetaEntry{GenRise: &pb.GenRise{Generation: uint64(op.Generation), Op: uint64(op.ID)}})
	l.apply(&pb.MetaEntry{EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{pb.FromDescriptor(l.s.Meta())}, Failure: "test", EndedMs: 1}})
	l.want("given up", "", "1, 2, 3, b learner")
}
