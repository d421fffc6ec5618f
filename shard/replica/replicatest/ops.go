package replicatest

import (
	"errors"
	"fmt"
	"strings"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// The numbers of etcd's compares.
const (
	compareVersion = 0
	compareMod     = 2
)

// ErrName renders an error, without the hint of one that names the leader.
func ErrName(err error) string {
	var nl *shard.NotLeaderError
	if errors.As(err, &nl) {
		return "not leader"
	}
	return err.Error()
}

// ResultString renders a result in a line.
func ResultString(r *pb.Result) string {
	switch {
	case r == nil:
		return "-"
	case r.Put != nil:
		if r.Put.PrevKv != nil {
			return fmt.Sprintf("put@%d prev %s@%d", r.Revision, r.Put.PrevKv.Value, r.Put.PrevKv.ModRevision)
		}
		return fmt.Sprintf("put@%d", r.Revision)
	case r.Delete != nil:
		return fmt.Sprintf("deleted %d@%d", r.Delete.Deleted, r.Revision)
	case r.Range != nil:
		var kvs []string
		for _, kv := range r.Range.Kvs {
			kvs = append(kvs, fmt.Sprintf("%s=%s@%d", kv.Key, kv.Value, kv.ModRevision))
		}
		return fmt.Sprintf("range@%d[%s] count %d more %v", r.Revision, strings.Join(kvs, " "), r.Range.Count, r.Range.More)
	case r.Txn != nil:
		var rs []string
		for _, x := range r.Txn.Results {
			rs = append(rs, ResultString(x))
		}
		return fmt.Sprintf("txn %v {%s}", r.Txn.Succeeded, strings.Join(rs, ", "))
	}
	return "nothing"
}

// Put writes a key and asks for what it held.
func Put(key, value string) *pb.Op {
	return &pb.Op{Put: &pb.PutOp{Key: []byte(key), Value: []byte(value), PrevKv: true}}
}

// PutLease writes a key with a lease.
func PutLease(key, value string, lease int64) *pb.Op {
	return &pb.Op{Put: &pb.PutOp{Key: []byte(key), Value: []byte(value), Lease: lease}}
}

// Del deletes a key, or a span if end is not empty.
func Del(key, end string) *pb.Op {
	return &pb.Op{Delete: &pb.DeleteOp{Key: []byte(key), RangeEnd: []byte(end)}}
}

// Get reads a key.
func Get(key string) *pb.Op { return &pb.Op{Range: &pb.RangeOp{Key: []byte(key)}} }

// Txn is a transaction; cmp may be nil.
func Txn(cmp *pb.Compare, then, els []*pb.Op) *pb.Op {
	t := &pb.TxnOp{Success: then, Failure: els}
	if cmp != nil {
		t.Compare = []*pb.Compare{cmp}
	}
	return &pb.Op{Txn: t}
}

// IfMod holds if the key was last written at rev.
func IfMod(key string, rev int64) *pb.Compare {
	return &pb.Compare{Target: compareMod, Key: []byte(key), Number: rev}
}

// IfVersion holds if the key has version v.
func IfVersion(key string, v int64) *pb.Compare {
	return &pb.Compare{Target: compareVersion, Key: []byte(key), Number: v}
}

// Cas is what an API server does: put if the key is at rev, else read it.
func Cas(key, value string, rev int64) *pb.Op {
	return Txn(IfMod(key, rev), []*pb.Op{Put(key, value)}, []*pb.Op{Get(key)})
}

// Nested2 writes e if c is at its first version.
func Nested2() *pb.Op { return Txn(IfVersion("c", 1), []*pb.Op{Put("e", "then")}, nil) }

// TestDesc is a range of three replicas over all keys.
var TestDesc = shard.Descriptor{
	ID: 2, Generation: 1,
	Replicas: []shard.Replica{{ID: 1, Node: 11}, {ID: 2, Node: 12}, {ID: 3, Node: 13}},
}
