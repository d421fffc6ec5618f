package apply

import (
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestAwaitedBy: a frozen range is needed by its left neighbour until that is past the merge, and by whatever that may still have to be cut off, and by nobody
// who has come to hold the keys since.
func TestAwaitedBy(t *testing.T) {
	m := &Shape{Desc: shard.Descriptor{ID: 3, Generation: 8, Span: shard.Span{Start: []byte("m"), End: []byte("t")}},
		Frozen: &pb.Freeze{Op: 5, Left: 2, LeftGeneration: 6, LeftStart: []byte("d")}}
	for _, c := range []struct {
		what string
		d    shard.Descriptor
		want bool
	}{
		{"the left, which has to apply it yet", shard.Descriptor{ID: 2, Generation: 6, Span: shard.Span{Start: []byte("d"), End: []byte("m")}}, true},
		{"the left, behind", shard.Descriptor{ID: 2, Generation: 3, Span: shard.Span{Start: []byte("d"), End: []byte("z")}}, true},
		{"the left, past it", shard.Descriptor{ID: 2, Generation: 7, Span: shard.Span{Start: []byte("d"), End: []byte("m")}}, false},
		{"what the left is to be cut off", shard.Descriptor{ID: 7, Generation: 2, Span: shard.Span{Start: []byte("a"), End: []byte("m")}}, true},
		{"what has its first key since", shard.Descriptor{ID: 9, Generation: 12, Span: shard.Span{Start: []byte("a"), End: []byte("h")}}, false},
		{"what was cut off it since", shard.Descriptor{ID: 9, Generation: 10, Span: shard.Span{Start: []byte("g"), End: []byte("m")}}, false},
		{"itself", m.Desc, false},
	} {
		if got := m.AwaitedBy(c.d); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	left := &Shape{Done: &pb.ChangeDone{Op: 5, Merged: 3}}
	if !m.PartOf(left) || m.PartOf(&Shape{}) || m.PartOf(&Shape{Done: &pb.ChangeDone{Op: 6, Merged: 3}}) || m.PartOf(&Shape{Done: &pb.ChangeDone{Op: 5}}) {
		t.Error("it is part of the left once that has merged it by the same op, and only then")
	}
}
