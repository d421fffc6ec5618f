package admission

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// FuzzTxn feeds arbitrary bytes as a transaction through the checks and the translation:
// nothing may panic, and what passes must be translated completely.
func FuzzTxn(f *testing.F) {
	key := []byte("k")
	put := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: key}}}
	del := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte("x"), RangeEnd: []byte{0}}}}
	get := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: key}}}
	inner := &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{put}, Failure: []*etcdserverpb.RequestOp{del}}
	for _, seed := range []*etcdserverpb.TxnRequest{
		{}, inner,
		{
			Compare: []*etcdserverpb.Compare{{Key: key, Target: etcdserverpb.Compare_VALUE, TargetUnion: &etcdserverpb.Compare_Value{Value: key}}},
			Success: []*etcdserverpb.RequestOp{get, {Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: inner}}},
		},
		{Success: []*etcdserverpb.RequestOp{{}}},
	} {
		addSeed(f, seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &etcdserverpb.TxnRequest{}
		if proto.Unmarshal(b, r) != nil {
			return
		}
		admitted, err := New(Limits{MaxRequestBytes: 1 << 20, MaxTxnOps: 128}).Txn(r)
		if err != nil {
			return
		}
		op := admitted.Txn
		if len(op.Compare) != len(r.Compare) || !complete(op.Success, r.Success) || !complete(op.Failure, r.Failure) {
			t.Errorf("lost something of %v", r)
		}
	})
}

// addSeed adds a message to a target's corpus.
func addSeed(f *testing.F, m proto.Message) {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
}

func complete(ops []*pb.Op, reqs []*etcdserverpb.RequestOp) bool {
	return slices.EqualFunc(ops, reqs, func(o *pb.Op, r *etcdserverpb.RequestOp) bool {
		return (o.Range != nil) == (r.GetRequestRange() != nil) && (o.Put != nil) == (r.GetRequestPut() != nil) &&
			(o.Delete != nil) == (r.GetRequestDeleteRange() != nil) && (o.Txn != nil) == (r.GetRequestTxn() != nil)
	})
}

// FuzzRequests does the same for the single requests, and for watches.
func FuzzRequests(f *testing.F) {
	f.Add([]byte("\x0a\x01k"))
	d := New(smallLimits)
	f.Fuzz(func(t *testing.T, b []byte) {
		rng, put, del, create := &etcdserverpb.RangeRequest{}, &etcdserverpb.PutRequest{}, &etcdserverpb.DeleteRangeRequest{}, &etcdserverpb.WatchCreateRequest{}
		if proto.Unmarshal(b, rng) == nil {
			op, err := d.Range(rng)
			if err == nil && (op.Limit < 0 || op.Revision < 0 || (op.SortTarget != 0 && op.SortOrder == 0)) {
				t.Errorf("not normalised: %v", op)
			}
			if _, err2 := d.RangeStream(rng); err != nil && err2 == nil {
				t.Errorf("a stream may ask what a range may not: %v", rng)
			}
		}
		if proto.Unmarshal(b, put) == nil {
			if op, err := d.Put(put); err == nil && len(op.Put.Key) == 0 {
				t.Error("a put without key passed")
			}
		}
		if proto.Unmarshal(b, del) == nil {
			if op, err := d.DeleteRange(del); err == nil && len(op.Delete.Key) == 0 {
				t.Error("a delete without key passed")
			}
		}
		if proto.Unmarshal(b, create) == nil {
			if w, err := d.Watch(create); err == nil && (w.Span.Empty() || w.Start < 0) {
				t.Errorf("an empty watch passed: %v", w)
			}
		}
	})
}

// TestDoor: the same request by etcd's API and by a routing client is refused by the same rules.
func TestDoor(t *testing.T) {
	d := New(smallLimits)
	key, long := []byte("k"), bytes.Repeat([]byte("v"), 3*smallLimits.MaxRequestBytes)
	put := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: key}}}
	many := slices.Repeat([]*etcdserverpb.RequestOp{put}, smallLimits.MaxTxnOps+1)
	for name, tc := range map[string]struct {
		req  proto.Message
		op   *pb.Op
		want error
	}{
		"no key":           {&etcdserverpb.PutRequest{}, &pb.Op{Put: &pb.PutOp{}}, rpctypes.ErrGRPCEmptyKey},
		"too large":        {&etcdserverpb.PutRequest{Key: key, Value: long}, &pb.Op{Put: &pb.PutOp{Key: key, Value: long}}, rpctypes.ErrGRPCRequestTooLarge},
		"no key to delete": {&etcdserverpb.DeleteRangeRequest{}, &pb.Op{Delete: &pb.DeleteOp{}}, rpctypes.ErrGRPCEmptyKey},
		"twice":            {&etcdserverpb.TxnRequest{Success: many[:2]}, &pb.Op{Txn: &pb.TxnOp{Success: toOps(many[:2])}}, rpctypes.ErrGRPCDuplicateKey},
		"too many":         {&etcdserverpb.TxnRequest{Success: many}, &pb.Op{Txn: &pb.TxnOp{Success: toOps(many)}}, rpctypes.ErrGRPCTooManyOps},
	} {
		var err error
		switch r := tc.req.(type) {
		case *etcdserverpb.PutRequest:
			_, err = d.Put(r)
		case *etcdserverpb.DeleteRangeRequest:
			_, err = d.DeleteRange(r)
		case *etcdserverpb.TxnRequest:
			_, err = d.Txn(r)
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		_, err = d.Call(&pb.PeerRequest{Write: &pb.WriteRequest{RangeId: 2, Op: tc.op}})
		if !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), rpctypes.ErrorDesc(tc.want)) {
			t.Errorf("%s, by a routing client: %v, want %v", name, err, tc.want)
		}
	}
	if err := d.LeaseGrant(&etcdserverpb.LeaseGrantRequest{TTL: leaseTTLMax + 1}); !errors.Is(err, rpctypes.ErrGRPCLeaseTTLTooLarge) {
		t.Errorf("a lease for ever: %v", err)
	}
}

// TestDeletesAreSearched compares the ordered search with a plain one.
func TestDeletesAreSearched(t *testing.T) {
	keys := []string{"a", "b", "c", "d"}
	ends := []string{"", "b", "c", "e", "\x00"}
	var spans []shard.Span
	for _, k := range keys {
		for _, e := range ends {
			spans = append(spans, shard.FromEtcd([]byte(k), []byte(e)))
		}
	}
	for i := range spans {
		for j := range spans {
			for l := range spans {
				w := &writes{}
				w.addDeletes(spans[i], spans[j])
				w.deletesKey("a") // puts the first two in order
				w.addDeletes(spans[l])
				for _, k := range append(keys, "a\x00", "bb", "z", "0") {
					want := spans[i].Contains([]byte(k)) || spans[j].Contains([]byte(k)) || spans[l].Contains([]byte(k))
					if got := w.deletesKey(k); got != want {
						t.Fatalf("%v %v %v: %q: %v, want %v", spans[i], spans[j], spans[l], k, got, want)
					}
				}
			}
		}
	}
}
