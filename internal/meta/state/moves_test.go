package state

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pontoon/internal/clusterversion"
	"pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// withRanges is a cluster of so many members at the newest version, whose first three hold ranges with these spans at these generations, r2 first; and what
// applies an entry to it.
func withRanges(t *testing.T, members uint64, spans []shard.Span, gens ...shard.Generation) (*State, func(*pb.MetaEntry) Result) {
	t.Helper()
	s := New()
	b := &pb.MetaBootstrap{ClusterId: 9, Meta: &pb.Descriptor{RangeId: 1}}
	for id := range members {
		b.Members = append(b.Members, &pb.Member{Id: id + 1, Name: "n"})
	}
	for i, span := range spans {
		d := shard.Descriptor{ID: shard.RangeID(2 + i), Generation: gens[i], Span: span}
		for on := range 3 {
			d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(3*i + on + 1), Node: shard.NodeID(on + 1)})
		}
		b.Ranges = append(b.Ranges, pb.FromDescriptor(d))
	}
	if res := s.Apply(1, 1, &pb.MetaEntry{Term: 1, Bootstrap: b}); res.Err != nil {
		t.Fatal(res.Err)
	}
	s.version = clusterversion.Newest
	index := uint64(20)
	return s, func(e *pb.MetaEntry) Result {
		index++
		e.Term = 1
		return s.Apply(index, 1, e)
	}
}

// TestOpsOfMoves: the map takes each step of a move, in order, late or doubled, and nothing that no step leaves; the op is over only with the
// replicas that it is to leave, or those that it began with.
func TestOpsOfMoves(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	s, apply := withRanges(t, 4, []shard.Span{{End: []byte("m")}, {Start: []byte("m")}}, 1, 1)
	was, _ := s.Map().Get(2)
	to := slices.IndexFunc(s.list, func(m shard.Member) bool { _, on := was.ReplicaOn(m.ID); return !on })
	if to < 0 {
		t.Fatal("r2 is on every member")
	}
	begin := func() (shard.Op, *pb.Move) {
		d, _ := s.Map().Get(2)
		from, to := was.Replicas[1].Node, s.list[to].ID
		if _, there := d.ReplicaOn(to); there {
			from, to = to, from
		}
		e, err := PlanMove(s, &pb.MoveOp{RangeId: 2, From: uint64(from), To: uint64(to)}, 1)
		if err != nil {
			t.Fatal(err)
		}
		op := apply(e).Op
		return op, &pb.Move{Op: uint64(op.ID), Generation: uint64(op.Generation), In: pb.FromReplica(op.To), Out: uint64(op.From.ID)}
	}
	lies := map[string]func(*pb.Descriptor){
		"another range": func(d *pb.Descriptor) { d.RangeId = 3 },
		"another span":  func(d *pb.Descriptor) { d.Span = &pb.Span{Start: []byte("x")} },
		"one less":      func(d *pb.Descriptor) { d.Replicas = d.Replicas[1:] },
		"one more":      func(d *pb.Descriptor) { d.Replicas = append(d.Replicas, &pb.ReplicaDesc{ReplicaId: 99, NodeId: 99}) },
		"one instead":   func(d *pb.Descriptor) { d.Replicas[0] = &pb.ReplicaDesc{ReplicaId: 99, NodeId: d.Replicas[0].NodeId} },
		"elsewhere":     func(d *pb.Descriptor) { d.Replicas[0].NodeId = 99 },
		"without a vote": func(d *pb.Descriptor) {
			d.Replicas[0].Role = pb.FromReplica(shard.Replica{Role: shard.Learner}).Role
		},
	}
	// report applies what is said of the range, after everything that it cannot be.
	report := func(d shard.Descriptor, entry func(*pb.Descriptor) *pb.MetaEntry) {
		t.Helper()
		before := s.Map()
		for name, lie := range lies {
			p := pb.FromDescriptor(d)
			lie(p)
			if res := apply(entry(p)); res.Err == nil || s.Map() != before {
				t.Fatalf("%s is believed: %v of %v", name, p, d)
			}
		}
		if res := apply(entry(pb.FromDescriptor(d))); res.Err != nil {
			t.Fatal(res.Err)
		}
		if got, _ := s.Map().Get(2); !got.Equal(&d) {
			t.Fatalf("the map has %v, want %v", got, d)
		}
	}
	for _, giveUp := range []int{0, 1, 2, 3} { // at which step; 0: never
		op, mv := begin()
		d, _ := s.Map().Get(2)
		now := moves.Shape{Desc: d}
		step := func(p *pb.Descriptor) *pb.MetaEntry {
			return &pb.MetaEntry{StepOp: &pb.MetaStepOp{Id: uint64(op.ID), Range: p}}
		}
		end := func(failure string) func(p *pb.Descriptor) *pb.MetaEntry {
			return func(p *pb.Descriptor) *pb.MetaEntry {
				return &pb.MetaEntry{EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{p}, Failure: failure}}
			}
		}
		for i := 1; now.Outcome(mv) == nil; i++ {
			if giveUp == 1 {
				now, _ = now.Rise(&pb.GenRise{Generation: mv.Generation, Op: mv.Op})
				break
			}
			next, err := now.Next(mv, giveUp == i)
			if err != nil {
				t.Fatal(err)
			}
			if now, err = now.After(next.Context(mv)); err != nil {
				t.Fatal(err)
			}
			if now.Outcome(mv) == nil {
				report(now.Desc, step)
				for _, failure := range []string{"", "given up"} { // it is on its way
					if res := apply(end(failure)(pb.FromDescriptor(now.Desc))); res.Err == nil {
						t.Fatalf("over amid: %v", now.Desc)
					}
				}
				older := now.Desc
				older.Generation = op.Generation
				if res := apply(step(pb.FromDescriptor(older))); res.Err != nil { // late, or doubled
					t.Fatal(res.Err)
				}
				if got, _ := s.Map().Get(2); !got.Equal(&now.Desc) {
					t.Fatalf("the map goes back to %v", got)
				}
			}
		}
		given := now.Outcome(mv).GetOutcome() != uint32(shard.ChangeDone)
		if given != (giveUp == 1 || giveUp == 2) {
			t.Fatalf("given up at %d: %v", giveUp, given)
		}
		right, wrong := "", "given up"
		if given {
			right, wrong = wrong, right
		}
		if res := apply(end(wrong)(pb.FromDescriptor(now.Desc))); res.Err == nil {
			t.Fatalf("given up: %v, and the opposite is believed", given)
		}
		report(now.Desc, end(right))
		if len(s.OpsUnderWay()) != 0 {
			t.Fatal("it is not over")
		}
	}
}

// TestMovesRefused: a move that cannot be is refused with what is in the way, and with what to do.
func TestMovesRefused(t *testing.T) {
	l := newLearning(t, 5, 3)
	l.apply(&pb.MetaEntry{DrainMember: &pb.MetaDrainMember{Id: 4, Drain: true}})
	for _, tc := range []struct {
		what string
		m    *pb.MoveOp
		says string
	}{
		{"a range that is not there", &pb.MoveOp{RangeId: 9, From: 1, To: 5}, "there is no range r9"},
		{"nowhere", &pb.MoveOp{RangeId: 2}, "name the node"},
		{"from where no replica is", &pb.MoveOp{RangeId: 2, From: 5, To: 5}, "it is on 1, 2, 3"},
		{"to nobody", &pb.MoveOp{RangeId: 2, From: 1, To: 9}, "see `client members`"},
		{"to one that is drained", &pb.MoveOp{RangeId: 2, From: 1, To: 4}, "client nodes undrain"},
		{"to where a replica is", &pb.MoveOp{RangeId: 2, From: 1, To: 2}, "it is on 1, 2, 3"},
		{"of another generation", &pb.MoveOp{RangeId: 2, From: 1, To: 5, Generation: 7}, "look at the ranges again"},
	} {
		if _, err := PlanMove(l.s, tc.m, 1); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	e, err := PlanMove(l.s, &pb.MoveOp{RangeId: 2, From: 1, To: 5}, 1)
	if err != nil {
		t.Fatal(err)
	}
	op := l.apply(e).Op
	// While its replicas are changed a range is in no other op.
	for step := range 2 {
		for what, plan := range map[string]func() error{
			"moved": func() error { _, err := PlanMove(l.s, &pb.MoveOp{RangeId: 2, From: 2, To: 5}, 1); return err },
			"split": func() error { _, err := PlanSplit(l.s, &pb.SplitOp{Key: []byte("k")}, 1); return err },
		} {
			if err := plan(); !errors.Is(err, shard.ErrOpInWay) || !strings.Contains(err.Error(), "wait for its end (see `client ops`)") {
				t.Errorf("%s amid a move, at step %d: %v", what, step, err)
			}
		}
		d, _ := l.s.Map().Get(2)
		mv := &pb.Move{Op: uint64(op.ID), Generation: uint64(op.Generation), In: pb.FromReplica(op.To), Out: uint64(op.From.ID)}
		shape := moves.Shape{Desc: d}
		if step == 1 {
			shape.Done = &pb.ChangeDone{Op: uint64(op.ID), Step: uint32(moves.Learns)}
		}
		next, err := shape.Next(mv, false)
		if err != nil {
			t.Fatal(err)
		}
		l.apply(&pb.MetaEntry{StepOp: &pb.MetaStepOp{Id: uint64(op.ID), Range: pb.FromDescriptor(next.After)}})
	}
	alone := newLearning(t, 2, 1)
	if _, err := PlanMove(alone.s, &pb.MoveOp{RangeId: 2, From: 1}, 1); err == nil || !strings.Contains(err.Error(), "name a node to move it to") {
		t.Errorf("the only replica is taken away: %v", err)
	}
}
