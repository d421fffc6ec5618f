package admission

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

var smallLimits = Limits{MaxRequestBytes: 4096, MaxTxnOps: 8}

// nested wraps op into depth transactions.
func nested(op *pb.Op, depth int) *pb.Op {
	for range depth {
		op = &pb.Op{Txn: &pb.TxnOp{Success: []*pb.Op{op}}}
	}
	return op
}

func TestOp(t *testing.T) {
	key := []byte("k")
	put := &pb.Op{Put: &pb.PutOp{Key: key, Value: []byte("v"), Lease: 7, PrevKv: true}}
	del := &pb.Op{Delete: &pb.DeleteOp{Key: []byte("x"), RangeEnd: []byte{0}, PrevKv: true}}
	get := &pb.Op{Range: &pb.RangeOp{Key: key, Limit: 3, SortOrder: 2, SortTarget: 4, MinModRevision: 1, MaxModRevision: 9, MinCreateRevision: 1, MaxCreateRevision: 9, KeysOnly: true}}
	txn := &pb.Op{Txn: &pb.TxnOp{
		Compare: []*pb.Compare{
			{Result: 1, Target: 0, Key: key, Number: 1}, {Result: 2, Target: 1, Key: key, Number: 2},
			{Target: 2, Key: key, Number: 3}, {Target: 3, Key: key, RangeEnd: []byte("z"), Value: key}, {Target: 4, Key: key, Number: 5},
		},
		Success: []*pb.Op{put, del, get}, Failure: []*pb.Op{nested(put, 3)},
	}}
	for _, op := range []*pb.Op{put, del, txn, nested(put, 8)} {
		got, err := New(smallLimits).Op(op)
		if err != nil || !proto.Equal(got, op) {
			t.Errorf("got %v, %v\nwant %v", got, err, op)
		}
	}
	for name, op := range map[string]*pb.Op{
		"nothing":            {},
		"absent":             nil,
		"a range":            get,
		"an expiry":          {ExpireLease: 7},
		"an expiry and more": {ExpireLease: 7, Put: put.Put},
		"an expiry inside":   nested(&pb.Op{ExpireLease: 7}, 2),
		"two kinds":          {Put: put.Put, Delete: del.Delete},
		"nothing inside":     nested(&pb.Op{}, 1),
		"nil inside":         nested(nil, 1),
		"an empty key":       {Put: &pb.PutOp{}},
		"an empty compare":   {Txn: &pb.TxnOp{Compare: []*pb.Compare{nil}}},
		"a sort order":       nested(&pb.Op{Range: &pb.RangeOp{Key: key, SortOrder: 3}}, 1),
		"a value to ignore":  {Put: &pb.PutOp{Key: key, Value: key, IgnoreValue: true}},
		"the same key twice": {Txn: &pb.TxnOp{Success: []*pb.Op{put, put}}},
		"too long":           {Put: &pb.PutOp{Key: key, Value: bytes.Repeat(key, 2*4096)}},
		"too deep":           nested(put, 9),
		"far too deep":       nested(put, 5000),
	} {
		if got, err := New(smallLimits).Op(op); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// FuzzOp feeds arbitrary bytes as an Op: nothing may panic, and what passes must be what it
// was, and pass again.
func FuzzOp(f *testing.F) {
	put := &pb.Op{Put: &pb.PutOp{Key: []byte("k"), Value: []byte("v")}}
	get := &pb.Op{Range: &pb.RangeOp{Key: []byte("k"), SortTarget: 1}}
	for _, seed := range []*pb.Op{
		put, {Delete: &pb.DeleteOp{Key: []byte("k"), RangeEnd: []byte{0}}}, {ExpireLease: 1},
		{Txn: &pb.TxnOp{Compare: []*pb.Compare{{Key: []byte("k"), Target: 3}}, Success: []*pb.Op{put, get}}},
		nested(put, 3), nested(nil, 2),
	} {
		addSeed(f, seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		op := &pb.Op{}
		if proto.Unmarshal(b, op) != nil {
			return
		}
		once, err := New(smallLimits).Op(op)
		if err != nil {
			return
		}
		twice, err := New(smallLimits).Op(once)
		if err != nil || !proto.Equal(once, twice) {
			t.Errorf("once %v\ntwice %v, %v", once, twice, err)
		}
		if once.GetExpireLease() != 0 || once.GetRange() != nil {
			t.Errorf("passed: %v", once)
		}
	})
}
