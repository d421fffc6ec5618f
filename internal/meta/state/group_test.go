package state

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/clusterversion"
	"pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestOpsOfTheGroup: the meta group changes by its own log alone. A report of an op of its own must say what that has; a damaged log is
// told from a report that is refused; and a snapshot has all of it.
func TestOpsOfTheGroup(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	w := newWorld(t, 1)
	w.s.group.Desc = shard.Descriptor{ID: shard.MetaID, Generation: 1, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}}}
	e, err := PlanMove(w.s, &pb.MoveOp{RangeId: uint64(shard.MetaID), From: uint64(w.s.Meta().Replicas[0].Node)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	res := w.apply(e)
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	op := res.Op
	if op.Range != shard.MetaID || op.From != w.s.Meta().Replicas[0] {
		t.Fatalf("begun: %+v", op)
	}
	mv := &pb.Move{Op: uint64(op.ID), Generation: uint64(op.Generation), Out: uint64(op.From.ID)}
	move := func() {
		t.Helper()
		next, err := w.s.Moving().Next(mv, false)
		if err != nil {
			t.Fatal(err)
		}
		w.index++
		version := w.s.Map().Version()
		if err := w.s.Move(w.index, 1, next.Context(mv)); err != nil {
			t.Fatal(err)
		}
		if v := w.s.Map().Version(); v != version+1 {
			t.Errorf("the map is at version %d, after %d", v, version)
		}
	}
	end := func(d shard.Descriptor) error {
		return w.apply(&pb.MetaEntry{EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{pb.FromDescriptor(d)}, EndedMs: 2}}).Err
	}
	move()
	if r, _ := w.s.group.Desc.Replica(op.From.ID); r.Role != shard.Leaving {
		t.Errorf("it is %v", r.Role)
	}
	done, err := w.s.Moving().Next(mv, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := end(done.After); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("the end of a move that is not at its end: %v", err)
	}
	if other := w.s.Meta(); w.s.Move(w.index+1, 1, &pb.MoveStep{After: pb.FromDescriptor(other), Done: &pb.ChangeDone{}}) == nil {
		t.Error("a change of the configuration leaves the generation as it is, and nobody minds")
	}
	w.index++
	move()
	if w.s.Moving().At(mv) != moves.Done {
		t.Errorf("it is at %d", w.s.Moving().At(mv))
	}
	raw, err := w.s.Image().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Restore(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := back.Moving(), w.s.Moving(); !got.Desc.Equal(&want.Desc) || !proto.Equal(got.Done, want.Done) {
		t.Errorf("restored as %+v, was %+v", got, want)
	}
	if err := end(w.s.Meta()); err != nil {
		t.Error(err)
	}
	if got, _ := w.s.Op(op.ID); got.Outcome() != shard.OpDone {
		t.Errorf("over: %+v", got)
	}
	for _, e := range []*pb.MetaEntry{
		{BeginOp: &pb.MetaBeginOp{Op: pb.FromOp(&shard.Op{Kind: shard.OpSplit, Range: shard.MetaID, Generation: w.s.Meta().Generation, Key: []byte("k")})}},
		{GenRise: &pb.GenRise{Generation: 1}},
	} {
		if res := w.apply(e); !errors.Is(res.Err, shard.ErrInvalid) {
			t.Errorf("%v: %v", e, res.Err)
		}
	}
	w.s.version = clusterversion.First
	if _, err := PlanMove(w.s, &pb.MoveOp{RangeId: uint64(shard.MetaID), To: 9}, 1); !errors.Is(err, shard.ErrUnimplemented) {
		t.Errorf("in an old cluster: %v", err)
	}
}
