package state

import (
	"testing"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestOpsOfMerges: a merge is over with one range of both, or, given up, with the left risen, and the right, if that has been frozen or has risen; whichever
// of the two was the newer before. Nothing else is believed.
func TestOpsOfMerges(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	for _, gens := range [][2]shard.Generation{{5, 5}, {9, 2}, {2, 9}} {
		for _, thawed := range []shard.Generation{0, 1, 2} { // how far the right has come; 0: the merge is done
			s, apply := withRanges(t, 3, []shard.Span{{End: []byte("m")}, {Start: []byte("m"), End: []byte("t")}, {Start: []byte("t")}}, gens[0], gens[1], 1)
			e, err := PlanMerge(s, []byte("m"), "test", 1)
			if err != nil {
				t.Fatal(err)
			}
			op := apply(e).Op
			if op.Range != 2 || op.Child != 3 || op.Generation != gens[0] || op.ChildGeneration != gens[1] {
				t.Fatalf("begun: %+v", op)
			}
			left, right := s.Map().Lookup(nil), s.Map().Lookup([]byte("m"))
			of := func(d shard.Descriptor, change func(*shard.Descriptor)) shard.Descriptor {
				change(&d)
				return d
			}
			to := func(gen shard.Generation) func(*shard.Descriptor) {
				return func(d *shard.Descriptor) { d.Generation = gen }
			}
			both := of(left, func(d *shard.Descriptor) { d.Span.End, d.Generation = right.Span.End, max(gens[0], gens[1]+1)+1 })
			risen, thaw := of(left, to(gens[0]+1)), of(right, to(gens[1]+thawed))
			lies := map[string]struct {
				failure string
				ds      []shard.Descriptor
			}{
				"nothing":                {"why", nil},
				"done, and the left":     {"", []shard.Descriptor{risen}},
				"done at an old one":     {"", []shard.Descriptor{of(both, to(max(gens[0], gens[1])))}},
				"done beyond the right":  {"", []shard.Descriptor{of(both, func(d *shard.Descriptor) { d.Span.End = nil })}},
				"given up and both":      {"why", []shard.Descriptor{both}},
				"the left not risen":     {"why", []shard.Descriptor{left, thaw}},
				"the right as it was":    {"why", []shard.Descriptor{risen, right}},
				"the right alone":        {"why", []shard.Descriptor{thaw}},
				"another right":          {"why", []shard.Descriptor{risen, of(thaw, func(d *shard.Descriptor) { d.ID = 4 })}},
				"the right over a third": {"why", []shard.Descriptor{risen, of(thaw, func(d *shard.Descriptor) { d.Span.End = nil })}},
			}
			end := func(failure string, ds ...shard.Descriptor) error {
				return apply(&pb.MetaEntry{EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: pb.FromDescriptors(ds), Failure: failure}}).Err
			}
			before := s.Map()
			for name, lie := range lies {
				if err := end(lie.failure, lie.ds...); err == nil || s.Map() != before {
					t.Fatalf("at %v: %s is believed: %v", gens, name, lie.ds)
				}
			}
			failure, ds := "", []shard.Descriptor{both}
			if thawed > 0 {
				failure, ds = "why", []shard.Descriptor{risen, thaw}
			}
			if err := end(failure, ds...); err != nil || len(s.OpsUnderWay()) != 0 {
				t.Fatalf("at %v: %v is not believed: %v", gens, ds, err)
			}
			for _, d := range ds {
				if got, _ := s.Map().Get(d.ID); !got.Equal(&d) {
					t.Fatalf("the map has %v, want %v", got, d)
				}
			}
			if _, known := s.Map().Get(3); known != (thawed > 0) {
				t.Fatalf("the map has the right: %v", known)
			}
		}
	}
}
