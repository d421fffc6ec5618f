package eval

import (
	"bytes"
	"cmp"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// rangeAt answers a range read with etcd's meaning of limit, count, more, filters and order.
func rangeAt(v View, r *pb.RangeOp) (*pb.RangeResult, error) {
	span := shard.FromEtcd(r.Key, r.RangeEnd)
	out := &pb.RangeResult{}
	if r.CountOnly {
		n, err := v.Count(span)
		out.Count = n
		return out, err
	}
	if len(r.RangeEnd) == 0 {
		kv, ok, err := v.Get(r.Key)
		if err != nil || !ok {
			return out, err
		}
		out.Count = 1
		if passesRangeFilters(r, &kv) {
			out.Kvs = []*pb.KeyValue{pb.FromKeyValue(&kv)}
		}
	} else if err := collectRange(v, span, r, out); err != nil {
		return nil, err
	}
	sortKVs(out.Kvs, r.SortTarget, r.SortOrder)
	if r.Limit > 0 && int64(len(out.Kvs)) > r.Limit {
		out.Kvs = out.Kvs[:r.Limit]
		out.More = true
	}
	if r.KeysOnly {
		for _, kv := range out.Kvs {
			kv.Value = nil
			if r.SortTarget != sortByValue {
				kv.Lease = 0 // as in etcd, whose index knows none
			}
		}
	}
	return out, nil
}

func collectRange(v View, span shard.Span, r *pb.RangeOp, out *pb.RangeResult) error {
	inKeyOrder := r.SortOrder == sortNone && r.SortTarget == sortByKey ||
		r.SortTarget == sortByKey && r.SortOrder == sortAscend
	enough := int64(-1)
	if inKeyOrder && r.Limit > 0 {
		enough = r.Limit + 1
	}
	keysOnly := r.KeysOnly && r.SortTarget != sortByValue
	cut := false
	err := v.Scan(span, keysOnly, func(kv *shard.KeyValue) bool {
		out.Count++
		if passesRangeFilters(r, kv) {
			out.Kvs = append(out.Kvs, pb.FromKeyValue(kv))
		}
		cut = enough > 0 && int64(len(out.Kvs)) >= enough
		return !cut
	})
	if err == nil && cut {
		out.Count, err = v.Count(span)
	}
	return err
}

// passesRangeFilters applies the revision filters of a range read.
func passesRangeFilters(r *pb.RangeOp, kv *shard.KeyValue) bool {
	return (r.MaxModRevision == 0 || kv.ModRevision <= r.MaxModRevision) &&
		(r.MinModRevision == 0 || kv.ModRevision >= r.MinModRevision) &&
		(r.MaxCreateRevision == 0 || kv.CreateRevision <= r.MaxCreateRevision) &&
		(r.MinCreateRevision == 0 || kv.CreateRevision >= r.MinCreateRevision)
}

const (
	sortNone = iota
	sortAscend
	sortDescend
)

const (
	sortByKey = iota
	sortByVersion
	sortByCreate
	sortByMod
	sortByValue
)

// sortKVs orders keys that come in key order. Equal ones keep their order, and etcd's descending
// order is the ascending one's comparison reversed.
func sortKVs(kvs []*pb.KeyValue, target, order int32) {
	if target != sortByKey && order == sortNone {
		order = sortAscend
	}
	if order == sortNone || target == sortByKey && order == sortAscend {
		return
	}
	sign := 1
	if order == sortDescend {
		sign = -1
	}
	slices.SortStableFunc(kvs, func(a, b *pb.KeyValue) int {
		switch target {
		case sortByVersion:
			return sign * cmp.Compare(a.Version, b.Version)
		case sortByCreate:
			return sign * cmp.Compare(a.CreateRevision, b.CreateRevision)
		case sortByMod:
			return sign * cmp.Compare(a.ModRevision, b.ModRevision)
		case sortByValue:
			return sign * bytes.Compare(a.Value, b.Value)
		default:
			return sign * bytes.Compare(a.Key, b.Key)
		}
	})
}
