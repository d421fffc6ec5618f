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

	"pontoon/shard"
)

// FuzzResponseBuffer: responses whose events were encoded beforehand, sent together, read like those that
// were not, and the buffer comes back once.
func FuzzResponseBuffer(f *testing.F) {
	f.Add([]byte("key"), []byte("value"), []byte("old"), 3, true, "")
	f.Add([]byte{}, make([]byte, copiedEventBytesMax), []byte{}, 1, false, "reason")
	f.Add([]byte("k"), make([]byte, responseBytesMax/4), []byte{}, 7, false, "")
	f.Fuzz(func(t *testing.T, key, value, old []byte, n int, prev bool, reason string) {
		if n < 0 || n > 20 || !utf8.ValidString(reason) {
			return
		}
		var o responseBuffer
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
			e := &shard.Event{KV: shard.KeyValue{Key: key, Value: value, ModRevision: int64(i)}, Delete: i%2 == 1}
			e.Prev = &shard.KeyValue{Key: key, Value: old, Lease: 7}
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

func ExampleVersion() {
	fmt.Println(Version)
	// Output: 3.7.3
}

// TestClientVersionsAreBounded: what clients claim to be does not grow the metrics without end.
func TestClientVersionsAreBounded(t *testing.T) {
	var v versions
	labels := map[string]bool{}
	for i := range 10 * clientVersionsMax {
		labels[v.label(fmt.Sprintf("3.%d", i))] = true
	}
	if len(labels) != clientVersionsMax+1 || !labels["unknown"] || v.label("3.0") != "3.0" || v.label("x") != "unknown" {
		t.Errorf("%d labels", len(labels))
	}
}
