package pb

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func drawOp(t *rapid.T, depth int) *Op {
	some := rapid.SliceOfN(rapid.Byte(), 0, 9)
	switch kind := rapid.IntRange(0, 5).Draw(t, "kind"); {
	case kind == 0:
		return &Op{Range: &RangeOp{Key: some.Draw(t, "key"), Limit: 3}}
	case kind == 1:
		return &Op{Delete: &DeleteOp{Key: some.Draw(t, "key"), PrevKv: true}}
	case kind == 2:
		return &Op{ExpireLease: 7, ExpireGrant: 8}
	case kind == 3 || depth == 0:
		return &Op{Put: &PutOp{Key: some.Draw(t, "key"), Value: some.Draw(t, "value"), Lease: 3, PrevKv: true}}
	}
	txn := &TxnOp{}
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		txn.Compare = append(txn.Compare, &Compare{Result: 1, Target: 2, Key: some.Draw(t, "key"), Value: some.Draw(t, "value")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "success") {
		txn.Success = append(txn.Success, drawOp(t, depth-1))
	}
	for range rapid.IntRange(0, 2).Draw(t, "failure") {
		txn.Failure = append(txn.Failure, drawOp(t, depth-1))
	}
	return &Op{Txn: txn}
}

func drawResult(t *rapid.T, depth int) *Result {
	res := &Result{Revision: rapid.Int64Range(0, 3).Draw(t, "revision")}
	switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
	case kind == 0:
		res.Put = &PutResult{PrevKv: &KeyValue{Key: []byte("k"), Value: []byte("v")}}
	case kind == 1:
		res.Put = &PutResult{}
	case kind == 2 && depth > 0:
		res.Txn = &TxnResult{Succeeded: true, Results: []*Result{drawResult(t, depth-1)}}
	}
	return res
}

// damage makes some of what is encoded come twice, in pieces or wrong, as no encoder would have it; wrong
// says that it may be nothing that package proto would decode.
func damage(t *rapid.T, b []byte) (damaged []byte, wrong bool) {
	switch rapid.IntRange(0, 4).Draw(t, "damage") {
	case 0:
		return b[:rapid.IntRange(0, len(b)).Draw(t, "length")], false
	case 1:
		return append(bytes.Clone(b), b...), false
	case 2:
		b = bytes.Clone(b)
		for range rapid.IntRange(0, 3).Draw(t, "flips") {
			if len(b) > 0 {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "to")
			}
		}
		return b, true
	}
	return b, false
}

// sameAs fails unless what was decoded here is what generated code makes of the same bytes, which does not
// look into fields that it skips.
func sameAs(t *rapid.T, b []byte, wrong bool, got proto.Message, err error, generated interface {
	proto.Message
	UnmarshalVT([]byte) error
}) {
	if wantErr := generated.UnmarshalVT(b); wantErr != nil && err == nil || wantErr == nil && err != nil && !wrong {
		t.Fatalf("generated code says %v, not %v", wantErr, err)
	}
	if err == nil && !proto.Equal(got, generated) {
		t.Fatalf("got %v, want %v", got, generated)
	}
}

// TestDecodeAsGenerated: what is decoded by hand is what generated code decodes, whatever the bytes.
func TestDecodeAsGenerated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &Entry{Term: 3, ProposalId: 5, Closed: 9}
		f := &PeerFrame{}
		if rapid.Bool().Draw(t, "batch") {
			e.Batch = &Batch{FirstRevision: 4}
		} else {
			e.CompactTo = &CompactTo{Revision: 8}
		}
		for range rapid.IntRange(0, 3).Draw(t, "requests") {
			op := drawOp(t, 2)
			if e.Batch != nil {
				e.Batch.Requests = append(e.Batch.Requests, op)
			}
			f.Requests = append(f.Requests, &PeerRequest{Id: 4, Write: &WriteRequest{RangeId: 3, Op: op}},
				&PeerRequest{Write: &WriteRequest{}}, &PeerRequest{TimeoutMs: 4, Oracle: &OracleRequest{Asker: 3}})
			f.Responses = append(f.Responses, &PeerResponse{Id: 4, Write: &WriteResponse{Revision: 3, Result: drawResult(t, 1)}},
				&PeerResponse{Epoch: 4, Error: &Error{Code: 3}}, &PeerResponse{Write: &WriteResponse{}})
		}
		b, err := e.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		b, wrong := damage(t, b)
		got := &Entry{}
		sameAs(t, b, wrong, got, got.UnmarshalShared(b), &Entry{})

		if b, err = f.MarshalVT(); err != nil {
			t.Fatal(err)
		}
		b, wrong = damage(t, b)
		sent := bytes.Clone(b)
		frame := &PeerFrame{}
		err = frame.UnmarshalFrame(sent)
		clear(sent) // the frame keeps nothing of it
		sameAs(t, b, wrong, frame, err, &PeerFrame{})
	})
}

// TestDecodeAllocations: the messages of operations that come together are allocated together.
func TestDecodeAllocations(t *testing.T) {
	e := &Entry{Batch: &Batch{}}
	put := &Op{Put: &PutOp{Key: []byte("key"), Value: []byte("value")}}
	for range 50 {
		e.Batch.Requests = append(e.Batch.Requests, put)
	}
	b, err := e.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = new(Entry).UnmarshalShared(b) }); n > 8 {
		t.Errorf("%v allocations for a batch of 50", n)
	}
	request, err := (&PeerRequest{Id: 3, Write: &WriteRequest{RangeId: 4, Op: put}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = decodeRequest(request) }); n > 2 {
		t.Errorf("%v allocations for a put", n)
	}
	response, err := (&PeerResponse{Id: 3, Write: &WriteResponse{Revision: 4, Result: &Result{Put: &PutResult{}}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = decodeResponse(response) }); n > 1 {
		t.Errorf("%v allocations for the answer to a put", n)
	}
}

func BenchmarkDecodeEntry(b *testing.B) {
	put := &Op{Put: &PutOp{Key: []byte("key/of/a/put"), Value: make([]byte, 256)}}
	txn := &Op{Txn: &TxnOp{Compare: []*Compare{{Key: put.Put.Key, Target: 2}}, Success: []*Op{put}}}
	for name, op := range map[string]*Op{"put": put, "txn": txn} {
		e := &Entry{Term: 5, Epoch: 4, Batch: &Batch{FirstRevision: 10}}
		for range 8 {
			e.Batch.Requests = append(e.Batch.Requests, op)
		}
		raw, err := e.MarshalVT()
		if err != nil {
			b.Fatal(err)
		}
		b.Run("op="+name+"/by=hand", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = new(Entry).UnmarshalShared(raw)
			}
		})
		b.Run("op="+name+"/by=generated", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = new(Entry).UnmarshalVTUnsafe(raw)
			}
		})
	}
}
