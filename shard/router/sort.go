package router

import (
	"bytes"
	"cmp"
	"slices"

	"pontoon/internal/pb"
)

// The values of RangeOp.SortOrder and SortTarget, which are etcd's.
const (
	sortNone    = 0
	sortAscend  = 1
	sortDescend = 2

	sortByKey     = 0
	sortByVersion = 1
	sortByCreate  = 2
	sortByMod     = 3
	sortByValue   = 4
)

// sorted reports whether the answer is in another order than ascending by key.
func sorted(op *pb.RangeOp) bool {
	return sortsElsewhere(op) || (op.SortTarget == sortByKey && op.SortOrder == sortDescend)
}

// sortsElsewhere reports whether all keys must be at hand before the first is known. A
// target without an order means ascending, as in etcd.
func sortsElsewhere(op *pb.RangeOp) bool { return op.SortTarget != sortByKey }

// filtered reports whether the answer leaves out keys by revision.
func filtered(op *pb.RangeOp) bool {
	return op.MinModRevision != 0 || op.MaxModRevision != 0 || op.MinCreateRevision != 0 || op.MaxCreateRevision != 0
}

// sortKVs orders kvs, which are ascending by key, stably by the target.
func sortKVs(kvs []*pb.KeyValue, op *pb.RangeOp) {
	var by func(a, b *pb.KeyValue) int
	switch op.SortTarget {
	case sortByVersion:
		by = func(a, b *pb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case sortByCreate:
		by = func(a, b *pb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case sortByMod:
		by = func(a, b *pb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case sortByValue:
		by = func(a, b *pb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return
	}
	if op.SortOrder == sortDescend {
		up := by
		by = func(a, b *pb.KeyValue) int { return up(b, a) }
	}
	slices.SortStableFunc(kvs, by)
}
