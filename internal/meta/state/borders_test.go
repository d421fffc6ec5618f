package state

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestBordersAreBounded: so many borders stay and no more, in number and bytes; those whose time is over do not count.
func TestBordersAreBounded(t *testing.T) {
	s := laidOut(t, 1)
	s.version = clusterversion.Newest
	for name, stay := range map[string][]Border{"number": make([]Border, BordersMax), "bytes": make([]Border, 5000)} {
		for i := range stay {
			stay[i] = Border{fmt.Appendf(nil, "%08d", i), 100}
			if name == "bytes" {
				stay[i].Key = append(stay[i].Key, bytes.Repeat([]byte("x"), 4000)...)
			}
		}
		s.stay = stay
		if _, err := PlanSplit(s, &pb.SplitOp{Key: []byte("k"), StickyS: -1}, 99); !errors.Is(err, shard.ErrTooManyRequests) {
			t.Errorf("%s: one more: %v", name, err)
		}
		if _, err := PlanSplit(s, &pb.SplitOp{Key: []byte("k")}, 99); err != nil {
			t.Errorf("%s: one that need not stay: %v", name, err)
		}
		if _, err := PlanSplit(s, &pb.SplitOp{Key: []byte("k"), StickyS: -1}, 100); err != nil {
			t.Errorf("%s: once their time is over: %v", name, err)
		}
	}
}

// TestBordersOfASnapshot: one that no state can have is refused, and how the key space was cut at first is not forgotten.
func TestBordersOfASnapshot(t *testing.T) {
	s := laidOut(t, 3)
	m := s.Image().rest
	for name, bs := range map[string][]*pb.MetaBorder{
		"twice": {{Key: []byte("a"), UntilMs: 1}, {Key: []byte("a"), UntilMs: 1}}, "in no order": {{Key: []byte("b"), UntilMs: 1}, {Key: []byte("a"), UntilMs: 1}},
		"without a key": {{UntilMs: 1}}, "for no time": {{Key: []byte("a")}},
	} {
		m.Borders = bs
		raw, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(raw); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("a border %s: %v", name, err)
		}
	}
	raw, err := s.Image().Marshal()
	if err == nil {
		s, err = Restore(raw)
	}
	if err != nil || s.FirstRanges() != 3 {
		t.Errorf("%v: %d ranges at first", err, s.FirstRanges())
	}
}

// TestBordersOfAMerge: a border that somebody merges away by hand does not stay; one that is not merged away does.
func TestBordersOfAMerge(t *testing.T) {
	s := laidOut(t, 3)
	s.version = clusterversion.Newest
	right := s.Map().Lookup([]byte{0xff})
	s.stay = []Border{{[]byte("a"), shard.Forever}, {right.Span.Start, shard.Forever}}
	e, err := PlanMerge(s, right.Span.Start, "by hand", 1)
	if err != nil {
		t.Fatal(err)
	}
	e.Term = 1
	op := s.Apply(20, 1, e).Op
	left, _ := s.Map().Get(op.Range)
	left.Span.End, left.Generation = right.Span.End, max(left.Generation, right.Generation)+1
	if res := s.Apply(21, 1, &pb.MetaEntry{Term: 1, EndOp: &pb.MetaEndOp{Id: uint64(op.ID), Ranges: []*pb.Descriptor{pb.FromDescriptor(left)}, EndedMs: 5}}); res.Err != nil {
		t.Fatal(res.Err)
	}
	if b := s.Borders(); len(b) != 1 || string(b[0].Key) != "a" {
		t.Errorf("%v", b)
	}
}
