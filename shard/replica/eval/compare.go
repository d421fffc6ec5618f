package eval

import (
	"bytes"
	"cmp"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// The numbers of etcd's wire enums, as pb.Compare and pb.RangeOp carry them.
const (
	resultEqual = iota
	resultGreater
	resultLess
	resultNotEqual
)

// What a compare looks at.
const (
	TargetVersion = iota
	targetCreate
	targetMod
	TargetValue
	TargetLease
)

// UnknownRevision marks, in predicted state, a revision that has not been allocated:
// unknownRevision+b stands for "some revision above b".
const UnknownRevision = int64(1) << 62

// verdict of a compare against state that may be predicted.
type verdict uint8

const (
	no verdict = iota
	yes
	undetermined // depends on a revision that has not been allocated
)

// comparesHold evaluates a conjunction as etcd does: every key of every compared range must
// satisfy its compare.
func comparesHold(v View, cs []*pb.Compare) (verdict, error) {
	all := yes
	for _, c := range cs {
		one, err := compareHolds(v, c)
		if err != nil || one == no {
			return no, err
		}
		if one == undetermined {
			all = undetermined
		}
	}
	return all, nil
}

func compareHolds(v View, c *pb.Compare) (verdict, error) {
	if len(c.RangeEnd) == 0 {
		read := v.Head
		if c.Target == TargetValue {
			read = v.Get
		}
		kv, ok, err := read(c.Key)
		if err != nil {
			return no, err
		}
		if !ok {
			return compareMissing(c), nil
		}
		return compareKV(c, &kv), nil
	}
	found, all := false, yes
	err := v.Scan(shard.FromEtcd(c.Key, c.RangeEnd), c.Target != TargetValue, func(kv *shard.KeyValue) bool {
		found = true
		switch compareKV(c, kv) {
		case no:
			all = no
		case undetermined:
			all = undetermined
		}
		return all != no
	})
	if err != nil {
		return no, err
	}
	if !found {
		return compareMissing(c), nil
	}
	return all, nil
}

// compareMissing compares where no key exists: numbers as zero, and a value never, because the
// wire has no way to name a missing one.
func compareMissing(c *pb.Compare) verdict {
	if c.Target == TargetValue {
		return no
	}
	return compareKV(c, &shard.KeyValue{})
}

func compareKV(c *pb.Compare, kv *shard.KeyValue) verdict {
	var order int
	switch c.Target {
	case TargetValue:
		order = bytes.Compare(kv.Value, c.Value)
	case TargetVersion:
		order = cmp.Compare(kv.Version, c.Number)
	case TargetLease:
		order = cmp.Compare(kv.Lease, c.Number)
	case targetCreate, targetMod:
		rev := kv.ModRevision
		if c.Target == targetCreate {
			rev = kv.CreateRevision
		}
		if rev >= UnknownRevision && c.Number > rev-UnknownRevision {
			return undetermined
		}
		order = cmp.Compare(rev, c.Number)
	}
	holds := true
	switch c.Result {
	case resultEqual:
		holds = order == 0
	case resultNotEqual:
		holds = order != 0
	case resultGreater:
		holds = order > 0
	case resultLess:
		holds = order < 0
	}
	if holds {
		return yes
	}
	return no
}
