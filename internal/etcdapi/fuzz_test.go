package etcdapi

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/watchfanout"
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
		if checkTxn(r, 128) != nil {
			return
		}
		op := toTxnOp(r)
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
	f.Fuzz(func(t *testing.T, b []byte) {
		rng, put, del, create := &etcdserverpb.RangeRequest{}, &etcdserverpb.PutRequest{}, &etcdserverpb.DeleteRangeRequest{}, &etcdserverpb.WatchCreateRequest{}
		if proto.Unmarshal(b, rng) == nil && checkRange(rng) == nil {
			if op := outerRangeOp(rng); op.Limit < 0 || op.Revision < 0 || (op.SortTarget != 0 && op.SortOrder == 0) {
				t.Errorf("not normalised: %v", op)
			}
			_ = checkRangeStream(rng) // must not panic
		}
		if proto.Unmarshal(b, put) == nil && checkPut(put) == nil && len(putOp(put).Put.Key) == 0 {
			t.Error("a put without key passed")
		}
		if proto.Unmarshal(b, del) == nil && checkDelete(del) == nil && len(toDeleteOp(del).Key) == 0 {
			t.Error("a delete without key passed")
		}
		if proto.Unmarshal(b, create) == nil {
			if s, ok := watchSpan(create.Key, create.RangeEnd); ok && s.Empty() {
				t.Errorf("an empty watch passed: %v", s)
			}
		}
	})
}

// FuzzOutbox: responses whose events were encoded beforehand, sent together, read like those that
// were not, and the buffer comes back once.
func FuzzOutbox(f *testing.F) {
	f.Add([]byte("key"), []byte("value"), []byte("old"), 3, true, "")
	f.Add([]byte{}, make([]byte, copiedEventBytesMax), []byte{}, 1, false, "reason")
	f.Add([]byte("k"), make([]byte, outboxBytesMax/4), []byte{}, 7, false, "")
	f.Fuzz(func(t *testing.T, key, value, old []byte, n int, prev bool, reason string) {
		if n < 0 || n > 20 || !utf8.ValidString(reason) {
			return
		}
		var o outbox
		o.begin(testHeader{})
		var want []*etcdserverpb.WatchResponse
		add := func(h watchHead, events []*mvccpb.Event, encoded [][]byte) {
			if err := o.add(h, encoded...); err != nil {
				t.Fatal(err)
			}
			want = append(want, &etcdserverpb.WatchResponse{
				Header: testHeader{}.response(h.revision), WatchId: h.id, Created: h.created, Canceled: h.canceled,
				Fragment: h.fragment, CompactRevision: h.compactRevision, CancelReason: h.cancelReason, Events: events,
			})
		}
		add(watchHead{id: invalidWatchID, created: true, canceled: true, cancelReason: reason}, nil, nil)
		var events []*mvccpb.Event
		var encodedEvents [][]byte
		for i := range n {
			e := &watchfanout.Event{KV: watchfanout.KeyValue{Key: key, Value: value, ModRevision: int64(i)}, Delete: i%2 == 1}
			e.Prev = &watchfanout.KeyValue{Key: key, Value: old, Lease: 7}
			b, err := encodeEvent(e, prev)
			if err != nil {
				t.Fatal(err)
			}
			ev := &mvccpb.Event{Kv: eventKV(&e.KV), Type: mvccpb.Event_EventType(i % 2)}
			if prev {
				ev.PrevKv = eventKV(e.Prev)
			}
			events, encodedEvents = append(events, ev), append(encodedEvents, b)
			add(watchHead{id: int64(i), revision: 9, fragment: prev}, events, encodedEvents)
		}
		add(watchHead{id: int64(n), canceled: true, compactRevision: math.MaxInt64}, nil, nil)
		back := &backPool{}
		data := o.take(back)
		if data.Len() != o.size() {
			t.Errorf("%d bytes of %d", data.Len(), o.size())
		}
		o.reset()
		got := readMessages(t, data.Materialize())
		if !slices.EqualFunc(got, want, func(a, b *etcdserverpb.WatchResponse) bool { return proto.Equal(a, b) }) {
			t.Errorf("got %v, want %v", got, want)
		}
		if data.Free(); back.n != 1 {
			t.Errorf("the buffer came back %d times", back.n)
		}
	})
}

// backPool counts what comes back.
type backPool struct {
	buffers
	n int
}

func (p *backPool) Put(*[]byte) { p.n++ }

// FuzzWatchRequest: what is decoded into the same memory reads like what is not.
func FuzzWatchRequest(f *testing.F) {
	for _, r := range []*etcdserverpb.WatchRequest{
		{},
		{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key: []byte("a"), RangeEnd: []byte("b"), WatchId: 3, Filters: []etcdserverpb.WatchCreateRequest_FilterType{1}, PrevKv: true,
		}}},
		{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: &etcdserverpb.WatchCreateRequest{}}},
		{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: 3}}},
		{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...))
	}
	var req watchRequest
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &etcdserverpb.WatchRequest{}
		wantErr := proto.Unmarshal(b, want)
		err := newCodec(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &req)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("got %v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		got := req.other
		if req.creates {
			got = &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: req.create}}
		}
		if !proto.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// readMessages takes apart what went over a connection.
func readMessages(t *testing.T, b []byte) (got []*etcdserverpb.WatchResponse) {
	t.Helper()
	for len(b) > 0 {
		size := int(binary.BigEndian.Uint32(b[1:]))
		r := &etcdserverpb.WatchResponse{}
		if err := proto.Unmarshal(b[messagePrefixBytes:messagePrefixBytes+size], r); err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
		b = b[messagePrefixBytes+size:]
	}
	return got
}

// testHeader has numbers that take all the room there is.
type testHeader struct{}

func (testHeader) ClusterID() uint64 { return math.MaxUint64 }
func (testHeader) MemberID() uint64  { return math.MaxUint64 - 1 }
func (testHeader) Term() uint64      { return math.MaxUint64 - 2 }
func (testHeader) Revision() int64   { return math.MaxInt64 }

func (h testHeader) response(rev int64) *etcdserverpb.ResponseHeader {
	if rev == 0 {
		rev = h.Revision()
	}
	return &etcdserverpb.ResponseHeader{ClusterId: h.ClusterID(), MemberId: h.MemberID(), RaftTerm: h.Term(), Revision: rev}
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

func ExampleVersion() {
	fmt.Println(Version)
	// Output: 3.7.3
}
