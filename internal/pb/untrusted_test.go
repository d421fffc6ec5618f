package pb

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"
)

// nested is a put within so many transactions.
func nested(txns int) *Op {
	op := &Op{Put: &PutOp{Key: []byte("a"), Value: []byte("v")}}
	for range txns {
		op = &Op{Txn: &TxnOp{Compare: []*Compare{{Key: []byte("c")}}, Failure: []*Op{op, {Range: &RangeOp{Key: []byte("b")}}}}}
	}
	return op
}

func TestUnmarshalUntrusted(t *testing.T) {
	span := &Span{Start: []byte("a"), End: []byte("a\x00")}
	want := &PeerFrame{Requests: []*PeerRequest{
		{Fence: &FenceRequest{RangeId: 3, Span: span, Read: &ReadRequest{Span: span, Revision: 4}}},
		{Read: &ReadRequest{Span: span, Revision: 4}, TimeoutMs: 5, Epoch: 6, Revision: 7},
		{Oracle: &OracleRequest{Asker: 8}},
		{Write: &WriteRequest{RangeId: 3, Op: nested(0)}},
		{Write: &WriteRequest{Op: nested(1)}},
		{Write: &WriteRequest{Op: nested(slabTxnsMax)}},
		{Write: &WriteRequest{Op: nested(slabTxnsMax + 1)}},
		{Write: &WriteRequest{Op: nested(1_000)}},
		{Prepare: &PrepareRequest{Prepare: &Prepare{}}},
		{},
		{NodeStatus: &NodeStatusRequest{}},
	}}
	for i, req := range want.Requests {
		req.Id = uint64(i) + 1
	}
	b, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := &PeerFrame{}
	if err := got.UnmarshalUntrusted(b); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	clear(b)
	if !proto.Equal(got, want) {
		t.Error("the frame refers to its bytes")
	}
	for name, f := range map[string]*PeerFrame{
		"an answer":  {Responses: []*PeerResponse{{Id: 1}}},
		"a deep one": {Requests: []*PeerRequest{{Write: &WriteRequest{Op: nested(20_000)}}}},
	} {
		b, err := f.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if err := got.UnmarshalUntrusted(b); err == nil {
			t.Errorf("%s was decoded", name)
		}
	}
	entry, err := (&Entry{Batch: &Batch{Requests: []*Op{nested(20_000)}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Entry).UnmarshalShared(entry); !errors.Is(err, errDeep) {
		t.Errorf("an entry that nests deep: %v", err)
	}
	if b, err = proto.Marshal(want); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		_ = got.UnmarshalUntrusted(b[:n]) // cut short: an error or not, but no panic
	}
}
