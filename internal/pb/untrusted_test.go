package pb

import (
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
	reqs := map[string]struct {
		req     *PeerRequest
		shallow bool
	}{
		"a read":       {&PeerRequest{Fence: &FenceRequest{RangeId: 3, Span: span, Read: &ReadRequest{Span: span, Revision: 4}}}, true},
		"a page":       {&PeerRequest{Read: &ReadRequest{Span: span, Revision: 4}, TimeoutMs: 5, Epoch: 6, Revision: 7}, true},
		"a question":   {&PeerRequest{Oracle: &OracleRequest{Asker: 8}}, true},
		"a put":        {&PeerRequest{Write: &WriteRequest{RangeId: 3, Op: nested(0)}}, true},
		"a txn":        {&PeerRequest{Write: &WriteRequest{Op: nested(1)}}, true},
		"nested":       {&PeerRequest{Write: &WriteRequest{Op: nested(untrustedTxnsMax)}}, true},
		"nested more":  {&PeerRequest{Write: &WriteRequest{Op: nested(untrustedTxnsMax + 1)}}, false},
		"a prepare":    {&PeerRequest{Prepare: &PrepareRequest{Prepare: &Prepare{}}}, false},
		"nothing":      {&PeerRequest{}, true},
		"a node's own": {&PeerRequest{NodeStatus: &NodeStatusRequest{}}, false},
	}
	want := &PeerFrame{}
	id := uint64(0)
	for name, c := range reqs {
		id++
		c.req.Id = id
		want.Requests = append(want.Requests, c.req)
		b, err := proto.Marshal(c.req)
		if err != nil {
			t.Fatal(err)
		}
		if shallow(b) != c.shallow {
			t.Errorf("%s: shallow is %v", name, shallow(b))
		}
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
	if b, err = proto.Marshal(want); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		_ = got.UnmarshalUntrusted(b[:n]) // cut short: an error or not, but no panic
	}
}
