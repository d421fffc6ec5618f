package router_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// fake is a cluster of ranges in memory. Every range has its replicas on nodes 1, 2 and 3;
// hooks let a test refuse calls.
type fake struct {
	mu      sync.Mutex
	m       *shard.Map
	leader  map[shard.RangeID]shard.NodeID
	data    map[string][]*pb.KeyValue // versions, ascending by mod revision; a nil value marks a deletion
	rev     int64
	epoch   shard.Epoch
	compact int64
	known   int64 // of compact, to the node
	wrote   *pb.Op
	page    int64 // keys per page at most; 0: all
	silent  bool  // the oracle
	calls   []string
	refuse  func(to shard.NodeID, req *pb.PeerRequest) error
	onMap   func()
	closed  map[shard.RangeID]int64
	waited  []int64                  // by WaitClosed
	swept   map[shard.RangeID]int64  // compaction revisions of ranges
	applied map[shard.RangeID]uint64 // by the replicas of this node
	// untouched are ranges to which nothing was written, as the replicas of this node know
	untouched map[shard.RangeID]bool
	settings  uint64         // their version
	granted   *shard.Granted // what the oracle tells of whom it gave what
	since     []int64        // from where on it was asked for that
	// followed is whom the replicas of this node follow
	followed map[shard.RangeID]shard.NodeID
}

func newFake(t *testing.T, cuts ...string) *fake {
	t.Helper()
	f := &fake{leader: map[shard.RangeID]shard.NodeID{}, data: map[string][]*pb.KeyValue{}, rev: 1, epoch: 5, closed: map[shard.RangeID]int64{}}
	f.cut(t, 1, cuts...)
	return f
}

func (f *fake) cut(t *testing.T, version uint64, cuts ...string) {
	t.Helper()
	var ds []shard.Descriptor
	var start []byte
	for i, c := range append(cuts, "") {
		id := shard.FirstRangeID + shard.RangeID(i)
		ds = append(ds, shard.Descriptor{
			ID: id, Span: shard.Span{Start: start, End: []byte(c)}, Generation: shard.Generation(version),
			Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}, {ID: 3, Node: 3}},
		})
		start = []byte(c)
		f.leader[id] = shard.NodeID(i%3 + 1)
	}
	m, err := shard.NewMap(version, ds)
	if err != nil {
		t.Fatal(err)
	}
	f.m = m
}

func (f *fake) put(key, value string) int64 {
	f.rev++
	kv := &pb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: f.rev, CreateRevision: f.rev, Version: 1}
	if old := f.at(key, f.rev); old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	f.data[key] = append(f.data[key], kv)
	return f.rev
}

func (f *fake) at(key string, rev int64) *pb.KeyValue {
	var found *pb.KeyValue
	for _, kv := range f.data[key] {
		if kv.ModRevision <= rev {
			found = kv
		}
	}
	if found == nil || found.Value == nil {
		return nil
	}
	return found
}

func (f *fake) Current(context.Context) (router.Now, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent {
		return router.Now{}, shard.ErrUnavailable
	}
	return router.Now{Revision: f.rev, Epoch: f.epoch, CompactRevision: f.compact, SettingsVersion: f.settings}, nil
}

func (f *fake) CurrentFunc(cb func(router.Now, error)) { cb(f.Current(context.Background())) }

func (f *fake) GrantedFunc(since int64, cb func(router.Now, error)) {
	cb(f.Granted(context.Background(), since))
}

func (f *fake) Revision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev
}

func (f *fake) Granted(ctx context.Context, since int64) (router.Now, error) {
	now, err := f.Current(ctx)
	f.mu.Lock()
	f.since = append(f.since, since)
	if f.granted != nil {
		g := *f.granted
		g.Revision, now.Granted = now.Revision, &g
	}
	f.mu.Unlock()
	return now, err
}

func (f *fake) Map() *shard.Map { f.mu.Lock(); defer f.mu.Unlock(); return f.m }

func (f *fake) Compacted() int64 { f.mu.Lock(); defer f.mu.Unlock(); return f.known }

func (f *fake) Compact(context.Context, int64, bool) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent {
		return 0, shard.ErrUnavailable
	}
	f.calls = append(f.calls, "compact")
	return f.rev, nil
}

func (f *fake) Refresh(context.Context) error {
	if f.onMap != nil {
		f.onMap()
	}
	return nil
}

func (f *fake) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.refuse != nil {
		if err := f.refuse(to, req); err != nil {
			return nil, err
		}
	}
	switch {
	case req.Fence != nil:
		f.calls = append(f.calls, fmt.Sprintf("fence r%d at n%d", req.Fence.RangeId, to))
		id := shard.RangeID(req.Fence.RangeId)
		if f.leader[id] != to {
			return nil, &shard.NotLeaderError{Range: id, Leader: f.leader[id]}
		}
		resp := &pb.FenceResponse{Index: 7}
		if req.Fence.Read != nil {
			resp.Read = f.read(req.Fence.Read)
		}
		return &pb.PeerResponse{Fence: resp}, nil
	case req.Read != nil:
		if req.Read.Revision < f.swept[shard.RangeID(req.Read.RangeId)] {
			return nil, &shard.CompactedError{Revision: f.swept[shard.RangeID(req.Read.RangeId)]}
		}
		f.calls = append(f.calls, fmt.Sprintf("read r%d at n%d index %d", req.Read.RangeId, to, req.Read.MinIndex))
		return &pb.PeerResponse{Read: f.read(req.Read)}, nil
	case req.CompactRange != nil:
		return &pb.PeerResponse{}, nil
	case req.Write != nil:
		f.calls = append(f.calls, fmt.Sprintf("write r%d at n%d", req.Write.RangeId, to))
		f.wrote = req.Write.Op
		id := shard.RangeID(req.Write.RangeId)
		if f.leader[id] != to {
			return nil, &shard.NotLeaderError{Range: id}
		}
		if req.Write.Op.Put == nil {
			return &pb.PeerResponse{Write: &pb.WriteResponse{Result: &pb.Result{}, Revision: f.rev}}, nil
		}
		rev := f.put(string(req.Write.Op.Put.Key), string(req.Write.Op.Put.Value))
		return &pb.PeerResponse{Write: &pb.WriteResponse{Result: &pb.Result{Put: &pb.PutResult{}}, Revision: rev, Wrote: true}}, nil
	}
	return nil, shard.ErrUnimplemented
}

func (f *fake) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	cb(f.Call(ctx, to, req))
}

func (f *fake) read(r *pb.ReadRequest) *pb.ReadResponse {
	span := pb.ToSpan(r.Span)
	var keys []string
	for k := range f.data {
		if span.Contains([]byte(k)) && f.at(k, r.Revision) != nil {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	resp := &pb.ReadResponse{Count: int64(len(keys))}
	if r.SkipCount {
		resp.Count = -1
	}
	if r.CountOnly {
		return resp
	}
	if r.Reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		kv := f.at(k, r.Revision)
		if r.MinModRevision > 0 && kv.ModRevision < r.MinModRevision {
			continue
		}
		n := int64(len(resp.Kvs)) + resp.EncodedKeys
		if (r.Limit > 0 && n == r.Limit) || (f.page > 0 && n == f.page) {
			resp.Resume = []byte(k)
			break
		}
		if r.Encoded {
			resp.Encoded, resp.Last = pb.AppendRangeKey(resp.Encoded, kv), kv.Key
			resp.EncodedKeys++
			continue
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp
}

// ClosedRevision, WaitClosed and Self make the fake node 2's local replicas.
func (f *fake) ClosedRevision(ids []shard.RangeID) (int64, bool) {
	low := int64(1 << 60)
	for _, id := range ids {
		c, ok := f.closed[id]
		if !ok {
			return 0, false
		}
		low = min(low, c)
	}
	return low, true
}
func (f *fake) WaitClosed(ctx context.Context, _ []shard.RangeID, rev int64) error {
	f.waited = append(f.waited, rev)
	return context.DeadlineExceeded
}
func (f *fake) Untouched(ids []shard.RangeID) bool {
	return !slices.ContainsFunc(ids, func(id shard.RangeID) bool { return !f.untouched[id] })
}
func (f *fake) Applied(id shard.RangeID) uint64 { return f.applied[id] }
func (f *fake) Self() shard.NodeID              { return 2 }

func (f *fake) Leader(id shard.RangeID) shard.NodeID { return f.followed[id] }

func (f *fake) router(t *testing.T, local bool) *router.Router {
	t.Helper()
	cfg := router.Config{Peers: f, Cluster: f, Patience: 2 * time.Second, Backoff: time.Millisecond, Parallel: 1, CompactParallel: 1}
	if local {
		cfg.Local = f
	}
	r, err := router.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func names(kvs []*pb.KeyValue) string {
	var b bytes.Buffer
	for _, kv := range kvs {
		fmt.Fprintf(&b, "%s ", kv.Key)
	}
	return b.String()
}

func mustRange(t *testing.T, r *router.Router, op *pb.RangeOp) *router.RangeResult {
	t.Helper()
	res, err := r.Range(t.Context(), op, false)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func filled(t *testing.T) *fake {
	f := newFake(t, "g", "n", "t")
	for i, k := range []string{"a", "h", "b", "o", "z", "c", "p", "i"} {
		f.put(k, string(rune('9'-i)))
	}
	return f
}

var all = []byte{0}

func TestRangeOverManyRanges(t *testing.T) {
	f := filled(t)
	for _, tc := range []struct {
		name  string
		op    *pb.RangeOp
		page  int64
		keys  string
		count int64
		more  bool
	}{
		{"all", &pb.RangeOp{Key: all, RangeEnd: all}, 0, "a b c h i o p z ", 8, false},
		{"in pages of one", &pb.RangeOp{Key: all, RangeEnd: all}, 1, "a b c h i o p z ", 8, false},
		{"limit within the first", &pb.RangeOp{Key: all, RangeEnd: all, Limit: 2}, 0, "a b ", 8, true},
		{"limit over ranges", &pb.RangeOp{Key: all, RangeEnd: all, Limit: 6}, 2, "a b c h i o ", 8, true},
		{"limit is all", &pb.RangeOp{Key: all, RangeEnd: all, Limit: 8}, 0, "a b c h i o p z ", 8, false},
		{"count only", &pb.RangeOp{Key: all, RangeEnd: all, CountOnly: true}, 0, "", 8, false},
		{"descending", &pb.RangeOp{Key: all, RangeEnd: all, SortOrder: 2}, 2, "z p o i h c b a ", 8, false},
		{"descending, limited", &pb.RangeOp{Key: all, RangeEnd: all, SortOrder: 2, Limit: 4}, 1, "z p o i ", 8, true},
		{"by mod revision", &pb.RangeOp{Key: all, RangeEnd: all, SortTarget: 3, SortOrder: 1, Limit: 3}, 0, "a h b ", 8, true},
		{"by value, descending", &pb.RangeOp{Key: all, RangeEnd: all, SortTarget: 4, SortOrder: 2, KeysOnly: true, Limit: 2}, 0, "a h ", 8, true},
		{"filtered, counted in full", &pb.RangeOp{Key: all, RangeEnd: all, MinModRevision: 6}, 0, "c i p z ", 8, false},
		{"a span in the middle", &pb.RangeOp{Key: []byte("c"), RangeEnd: []byte("o")}, 0, "c h i ", 3, false},
		{"an old revision", &pb.RangeOp{Key: all, RangeEnd: all, Revision: 4}, 0, "a b h ", 3, false},
		{"an empty span", &pb.RangeOp{Key: []byte("x"), RangeEnd: []byte("b")}, 0, "", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.page = tc.page
			res := mustRange(t, f.router(t, false), tc.op)
			if got := names(res.KVs); got != tc.keys || res.Count != tc.count || res.More != tc.more {
				t.Errorf("got %q count %d more %v, want %q count %d more %v", got, res.Count, res.More, tc.keys, tc.count, tc.more)
			}
			if res.Revision != f.rev {
				t.Errorf("header revision %d, want the current one, %d", res.Revision, f.rev)
			}
		})
	}
}

// TestAListIsCountedOnce: a client that lists page by page at one revision is told how many are left, which
// only the first page is counted for; whatever is written meanwhile, and in both forms of keys.
func TestAListIsCountedOnce(t *testing.T) {
	for _, encoded := range []bool{false, true} {
		f := filled(t)
		r := f.router(t, false)
		read := r.Range
		if encoded {
			read = r.RangeEncoded
		}
		op := &pb.RangeOp{Key: []byte("a"), RangeEnd: all, Limit: 2}
		var pages []string
		for more := true; more; {
			res, err := read(t.Context(), op, false)
			if err != nil {
				t.Fatal(err)
			}
			kvs := decoded(t, res)
			pages = append(pages, fmt.Sprintf("%s%d %v", names(kvs), res.Count, res.More))
			if op.Revision == 0 {
				op.Revision = res.Revision
				f.calls = nil
			}
			op.Key = append(bytes.Clone(kvs[len(kvs)-1].Key), 0)
			f.put("b", "again")
			f.put("q", "new")
			more = res.More
		}
		if got := fmt.Sprint(pages); got != "[a b 8 true c h 6 true i o 4 true p z 2 false]" {
			t.Errorf("pages %s", got)
		}
		// No range is asked but for its keys: c and h, i and o, p and z lie in two each.
		if len(f.calls) != 6 {
			t.Errorf("calls of the later pages: %v", f.calls)
		}
		op.Key, f.calls = []byte("bb"), nil
		if res, err := read(t.Context(), op, false); err != nil || res.Count != 6 || len(f.calls) != 2 {
			t.Errorf("a page that follows none: %v, %v, %v", res, err, f.calls)
		}
	}
}

// TestPagesOfAListGoToSeveralNodes: a node that has not served the page before counts what its own pages
// have not told it: at each revision, once.
func TestPagesOfAListGoToSeveralNodes(t *testing.T) {
	f := filled(t)
	nodes := []*router.Router{f.router(t, false), f.router(t, false)}
	for _, tc := range []struct {
		rev     int64
		pages   string
		keysMax int // in a range
	}{
		{5, "[a 4 true b 3 true h 2 true o 1 false]", 2},
		{9, "[a 8 true b 7 true c 6 true h 5 true i 4 true o 3 true p 2 true z 1 false]", 3},
	} {
		op := &pb.RangeOp{Key: []byte("a"), RangeEnd: all, Limit: 1, Revision: tc.rev}
		f.calls = nil
		var pages []string
		for i, more := 0, true; more; i++ {
			res := mustRange(t, nodes[i%len(nodes)], op)
			pages = append(pages, fmt.Sprintf("%s%d %v", names(res.KVs), res.Count, res.More))
			op.Key = append(bytes.Clone(res.KVs[len(res.KVs)-1].Key), 0)
			more = res.More
		}
		if got := fmt.Sprint(pages); got != tc.pages {
			t.Errorf("pages at %d: %s, want %s", tc.rev, got, tc.pages)
		}
		perRange := map[string]int{}
		for _, c := range f.calls {
			perRange[c]++
		}
		for c, n := range perRange {
			if n > len(nodes)+tc.keysMax {
				t.Errorf("%d times %q: each page of its keys asks for them, and each node once for their number", n, c)
			}
		}
	}
}

// decoded returns the keys of a result in either form.
func decoded(t *testing.T, res *router.RangeResult) []*pb.KeyValue {
	t.Helper()
	kvs := res.KVs
	for _, b := range res.Encoded {
		var m etcdserverpb.RangeResponse
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		for _, kv := range m.Kvs {
			kvs = append(kvs, &pb.KeyValue{Key: kv.Key})
		}
	}
	return kvs
}

func TestRangePages(t *testing.T) {
	f := filled(t)
	f.page = 2
	var pages []string
	var last *router.RangeResult
	err := f.router(t, false).RangePages(t.Context(), &pb.RangeOp{Key: all, RangeEnd: all, Limit: 7}, false, 100, func(r *router.RangeResult) error {
		pages = append(pages, names(r.KVs))
		last = r
		f.put("aa", "written while the pages are read") // must not show
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(pages); got != "[a b  c  h i  o p ]" {
		t.Errorf("pages %s", got)
	}
	if last.Count != 8 || !last.More {
		t.Errorf("last page: count %d more %v", last.Count, last.More)
	}
}

func TestReadRestartsOnStaleEpochAndOwnCompaction(t *testing.T) {
	f := filled(t)
	n := 0
	f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
		if n++; n == 1 {
			f.epoch, f.rev = 6, 1000
			return shard.ErrStaleEpoch
		}
		if n == 2 {
			f.compact = 900
			return &shard.CompactedError{Revision: 900}
		}
		return nil
	}
	res := mustRange(t, f.router(t, false), &pb.RangeOp{Key: []byte("a")})
	if names(res.KVs) != "a " || res.Revision != 1000 {
		t.Errorf("got %s at %d", names(res.KVs), res.Revision)
	}
}

// TestHazard13CompactedOnlyForNamedRevisions: a read that named no revision never hears that
// its revision was compacted; one that did always does.
func TestHazard13CompactedOnlyForNamedRevisions(t *testing.T) {
	f := filled(t)
	f.compact = 5
	r := f.router(t, false)
	var compacted *shard.CompactedError
	if _, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte("a"), Revision: 4}, false); !errors.As(err, &compacted) || compacted.Revision != 5 {
		t.Errorf("below the compaction revision: %v", err)
	}
	if _, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte("a"), Revision: 5}, false); err != nil {
		t.Errorf("at the compaction revision: %v", err)
	}
	if _, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte("a"), Revision: f.rev + 1}, false); !errors.Is(err, shard.ErrFutureRevision) {
		t.Errorf("in the future: %v", err)
	}
}

func put(key string) *pb.Op { return &pb.Op{Put: &pb.PutOp{Key: []byte(key), Value: []byte("v")}} }

func TestWriteFindsTheLeader(t *testing.T) {
	f := newFake(t, "m")
	f.leader[shard.FirstRangeID] = 3
	r := f.router(t, false)
	for range 2 {
		if _, err := r.Write(t.Context(), put("a")); err != nil {
			t.Fatal(err)
		}
	}
	want := "[write r2 at n1 write r2 at n2 write r2 at n3 write r2 at n3]"
	if got := fmt.Sprint(f.calls); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}

// The replica of this node knows the leader, unless it is the one that has just failed.
func TestLocalReplicaNamesTheLeader(t *testing.T) {
	f := newFake(t)
	f.leader[shard.FirstRangeID] = 3
	f.followed = map[shard.RangeID]shard.NodeID{shard.FirstRangeID: 3}
	r := f.router(t, true)
	if _, err := r.Write(t.Context(), put("a")); err != nil {
		t.Fatal(err)
	}
	lost := true
	f.refuse = func(to shard.NodeID, _ *pb.PeerRequest) error {
		switch {
		case to == 3 && lost:
			lost = false
			return shard.ErrAmbiguous
		case to == 3:
			return shard.ErrUnavailable
		}
		return nil
	}
	if _, err := r.Write(t.Context(), put("a")); !errors.Is(err, shard.ErrAmbiguous) {
		t.Fatalf("got %v", err)
	}
	f.leader[shard.FirstRangeID], f.followed[shard.FirstRangeID] = 2, 2 // an election since
	if _, err := r.Write(t.Context(), put("a")); err != nil {
		t.Fatal(err)
	}
	f.leader[shard.FirstRangeID], f.followed[shard.FirstRangeID] = 2, 3 // it follows one that is gone
	r.LearnLeader(shard.FirstRangeID, 0)
	if _, err := r.Write(t.Context(), put("a")); err != nil {
		t.Fatal(err)
	}
	want := "[write r2 at n3 write r2 at n2 write r2 at n1 write r2 at n2]" // refused ones are not recorded
	if got := fmt.Sprint(f.calls); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}

func TestAmbiguousWriteIsNeverRepeated(t *testing.T) {
	f := newFake(t)
	tries := 0
	f.refuse = func(shard.NodeID, *pb.PeerRequest) error { tries++; return shard.ErrAmbiguous }
	_, err := f.router(t, false).Write(t.Context(), put("a"))
	if !errors.Is(err, shard.ErrAmbiguous) || tries != 1 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

func TestPatienceEndsCertainFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.refuse = func(shard.NodeID, *pb.PeerRequest) error { return shard.ErrUnavailable }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := f.router(t, false).Write(ctx, put("a"))
		if !errors.Is(err, shard.ErrTimeout) || errors.Is(err, shard.ErrAmbiguous) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWriteOverRangesGoesToTheAnchor(t *testing.T) {
	for name, op := range map[string]*pb.Op{
		"delete":  {Delete: &pb.DeleteOp{Key: []byte("a"), RangeEnd: []byte("z")}},
		"txn":     {Txn: &pb.TxnOp{Success: []*pb.Op{put("z"), put("a")}}},
		"compare": {Txn: &pb.TxnOp{Compare: []*pb.Compare{{Key: []byte("z")}}, Success: []*pb.Op{put("a")}}},
		"nested":  {Txn: &pb.TxnOp{Success: []*pb.Op{put("a"), {Txn: &pb.TxnOp{Failure: []*pb.Op{put("z")}}}}}},
	} {
		f := newFake(t, "m")
		var sent []string
		f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
			sent = append(sent, fmt.Sprintf("r%d multi %v", req.Write.GetRangeId(), req.Write.GetMulti()))
			return shard.ErrAmbiguous
		}
		if _, err := f.router(t, false).Write(t.Context(), op); !errors.Is(err, shard.ErrAmbiguous) {
			t.Errorf("%s: %v", name, err)
		}
		if len(sent) != 1 || sent[0] != "r2 multi true" {
			t.Errorf("%s: sent %v", name, sent)
		}
	}
}

// A compaction is one question: once it has been decided nothing may fail any more, and the header has
// the revision that was current at that point.
func TestCompactTellsTheRevisionOfItsDecision(t *testing.T) {
	f := newFake(t, "m")
	r := f.router(t, false)
	f.mu.Lock()
	f.rev = 9
	f.mu.Unlock()
	if rev, err := r.Compact(t.Context(), 1, false); err != nil || rev != 9 || len(f.calls) != 1 {
		t.Errorf("%d, %v, calls %v", rev, err, f.calls)
	}
	f.mu.Lock()
	f.silent = true
	f.mu.Unlock()
	if _, err := r.Compact(t.Context(), 1, false); err == nil || len(f.calls) != 1 {
		t.Errorf("without a meta group: %v, calls %v", err, f.calls)
	}
}

func TestRemapOnWrongRange(t *testing.T) {
	f := newFake(t, "m")
	first := true
	f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
		if first {
			first = false
			return &shard.WrongRangeError{Range: shard.RangeID(req.Write.RangeId)}
		}
		return nil
	}
	f.onMap = func() { f.mu.Lock(); defer f.mu.Unlock(); f.cut(t, 2, "b", "m") }
	if _, err := f.router(t, false).Write(t.Context(), put("c")); err != nil {
		t.Fatal(err)
	}
	if got := f.calls[len(f.calls)-1]; got != "write r3 at n2" {
		t.Errorf("last call %s", got)
	}
}

// TestHazard11SerializableReadsAtTheLowestClosedRevision: over several ranges a local snapshot
// is the one at which every local replica is final.
func TestHazard11SerializableReadsAtTheLowestClosedRevision(t *testing.T) {
	f := filled(t)
	for i, c := range []int64{9, 4, 7, 8} {
		f.closed[shard.FirstRangeID+shard.RangeID(i)] = c
	}
	res, err := f.router(t, true).Range(t.Context(), &pb.RangeOp{Key: all, RangeEnd: all}, true)
	if err != nil {
		t.Fatal(err)
	}
	if names(res.KVs) != "a b h " || res.Revision != 4 {
		t.Errorf("got %s at %d", names(res.KVs), res.Revision)
	}
	for _, c := range f.calls {
		if !bytes.Contains([]byte(c), []byte("at n2")) {
			t.Errorf("asked another node: %s", c)
		}
	}
}

// TestSerializableReadWhereNobodyWasHeard: a node is cut off before it has heard of any closed revision. Of ranges to which nothing was written it
// knows what they held at revision 1, once it has waited to hear more. If one of them was written to, no revision is known at which all are final.
func TestSerializableReadWhereNobodyWasHeard(t *testing.T) {
	f := newFake(t, "b", "m", "t")
	f.silent = true
	f.untouched = map[shard.RangeID]bool{}
	for i := range shard.RangeID(4) {
		f.closed[shard.FirstRangeID+i], f.untouched[shard.FirstRangeID+i] = 0, true
	}
	r := f.router(t, true)
	for name, op := range map[string]*pb.RangeOp{"one key": {Key: []byte("a")}, "all": {Key: all, RangeEnd: all}} {
		f.waited = nil
		res, err := r.Range(t.Context(), op, true)
		if err != nil || len(res.KVs) != 0 || res.Revision != 1 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		if !slices.Equal(f.waited, []int64{1}) {
			t.Errorf("%s: waited for %v", name, f.waited)
		}
	}
	f.untouched[shard.FirstRangeID+1] = false
	if res, err := r.Range(t.Context(), &pb.RangeOp{Key: all, RangeEnd: all}, true); err == nil {
		t.Errorf("a range is not final anywhere, and the answer is %+v", res)
	}
}

func TestFurtherPagesMayComeFromAnyReplica(t *testing.T) {
	f := filled(t)
	f.page = 1
	f.refuse = func(to shard.NodeID, req *pb.PeerRequest) error {
		if req.Read != nil && to == 1 {
			return shard.ErrUnavailable
		}
		return nil
	}
	res := mustRange(t, f.router(t, false), &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("g")})
	if names(res.KVs) != "a b c " {
		t.Errorf("got %s", names(res.KVs))
	}
	if !slices.Contains(f.calls, "read r2 at n2 index 7") {
		t.Errorf("calls %v", f.calls)
	}
}

// TestFurtherPagesAreReadHere: from the second page on a read stays on its node, if the replica there has
// applied what the leader's fence named (hazard 2: not before).
func TestFurtherPagesAreReadHere(t *testing.T) {
	for _, tc := range []struct {
		applied uint64
		want    string
	}{{7, "read r2 at n2 index 7"}, {6, "read r2 at n1 index 7"}} {
		f := filled(t)
		f.page, f.applied = 1, map[shard.RangeID]uint64{2: tc.applied}
		res := mustRange(t, f.router(t, true), &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("g")})
		if names(res.KVs) != "a b c " {
			t.Errorf("got %s", names(res.KVs))
		}
		if !slices.Contains(f.calls, tc.want) {
			t.Errorf("applied %d: calls %v", tc.applied, f.calls)
		}
	}
}

// TestSerializableReadAfterAnAnswer: what this node has told a client is waited for; what was told of one
// range in that range alone, and what others than the router have told in all.
func TestSerializableReadAfterAnAnswer(t *testing.T) {
	f := filled(t)
	for id := range shard.RangeID(4) {
		f.closed[shard.FirstRangeID+id] = 1
	}
	r := f.router(t, true)
	read := func(key string) []int64 {
		t.Helper()
		f.waited = nil
		if _, err := r.Range(t.Context(), &pb.RangeOp{Key: []byte(key)}, true); err != nil {
			t.Fatal(err)
		}
		return f.waited
	}
	if a, z := read("a"), read("z"); len(a)+len(z) != 0 {
		t.Errorf("nothing was told, and %v and %v were waited for", a, z)
	}
	put, err := r.Write(t.Context(), put("a"))
	if err != nil {
		t.Fatal(err)
	}
	if a, z := read("a"), read("z"); !slices.Equal(a, []int64{put.Revision}) || len(z) != 0 {
		t.Errorf("after a put at %d, %v and %v were waited for", put.Revision, a, z)
	}
	r.NoteAcked(put.Revision + 2)
	r.NoteAcked(put.Revision + 1)
	r.NoteAcked(0)
	for _, key := range []string{"a", "z"} {
		if got := read(key); !slices.Equal(got, []int64{put.Revision + 2}) {
			t.Errorf("after an answer at %d, %s waited for %v", put.Revision+2, key, got)
		}
	}
}

// TestFutureRevisionIsNotClosed: a serializable read names a revision that nobody has handed out. The
// node's replicas must not be asked to close it: a write that gets it later would come too late.
func TestFutureRevisionIsNotClosed(t *testing.T) {
	f := filled(t)
	for i := range 4 {
		f.closed[shard.FirstRangeID+shard.RangeID(i)] = f.rev
	}
	_, err := f.router(t, true).Range(t.Context(), &pb.RangeOp{Key: []byte("a"), Revision: f.rev + 3}, true)
	if !errors.Is(err, shard.ErrFutureRevision) {
		t.Errorf("got %v", err)
	}
	for _, rev := range f.waited {
		if rev > f.rev {
			t.Errorf("waited for %d, but the newest revision is %d", rev, f.rev)
		}
	}
}

// TestSerializableReadBelowACompaction: one local replica lags, another has been compacted above what
// the first has closed. No local snapshot is left, however often one looks: the oracle is asked.
func TestSerializableReadBelowACompaction(t *testing.T) {
	f := filled(t)
	for i, c := range []int64{9, 4, 7, 8} {
		f.closed[shard.FirstRangeID+shard.RangeID(i)] = c
	}
	f.swept = map[shard.RangeID]int64{shard.FirstRangeID: 6}
	res, err := f.router(t, true).Range(t.Context(), &pb.RangeOp{Key: all, RangeEnd: all}, true)
	if err != nil {
		t.Fatal(err)
	}
	if res.Revision != f.rev {
		t.Errorf("answered at %d, not %d", res.Revision, f.rev)
	}
}

// TestSerializableReadBelowAKnownCompaction: what this node has been told or has acknowledged holds for its
// replicas, which may not have heard of it: for each way to read, and for a revision that the client named.
func TestSerializableReadBelowAKnownCompaction(t *testing.T) {
	f := filled(t)
	for i := range int64(4) {
		f.closed[shard.FirstRangeID+shard.RangeID(i)] = f.rev
	}
	f.known, f.silent = 6, true // nobody needs to be asked
	r := f.router(t, true)
	ops := map[string]*pb.RangeOp{
		"key":    {Key: []byte("a")},
		"all":    {Key: all, RangeEnd: all},
		"count":  {Key: all, RangeEnd: all, CountOnly: true},
		"limit":  {Key: all, RangeEnd: all, Limit: 1},
		"sorted": {Key: all, RangeEnd: all, SortTarget: 3, SortOrder: 2},
	}
	ways := map[string]func(*pb.RangeOp) error{
		"Range":        func(op *pb.RangeOp) error { _, err := r.Range(t.Context(), op, true); return err },
		"RangeEncoded": func(op *pb.RangeOp) error { _, err := r.RangeEncoded(t.Context(), op, true); return err },
		"RangePages": func(op *pb.RangeOp) error {
			return r.RangePages(t.Context(), op, true, 1, func(*router.RangeResult) error { return nil })
		},
	}
	for name, op := range ops {
		for way, read := range ways {
			var compacted *shard.CompactedError
			op.Revision = 5
			if err := read(op); !errors.As(err, &compacted) || compacted.Revision != 6 {
				t.Errorf("%s of %s below: %v", way, name, err)
			}
			for _, rev := range []int64{0, 6} {
				op.Revision = rev
				if err := read(op); err != nil {
					t.Errorf("%s of %s at %d: %v", way, name, rev, err)
				}
			}
		}
	}
}

// TestTxnBelowACompaction: ranges hear of a compaction after it has been acknowledged, so that they are
// asked for nothing below it. The branch that is not taken may name what it likes, as in etcd.
func TestTxnBelowACompaction(t *testing.T) {
	f := filled(t)
	f.compact = 6
	r := f.router(t, false)
	read := func(rev int64) *pb.Op { return &pb.Op{Range: &pb.RangeOp{Key: []byte("a"), Revision: rev, Limit: 3}} }
	txn := func(success, failure []*pb.Op) *pb.Op {
		return &pb.Op{Txn: &pb.TxnOp{Success: success, Failure: failure}}
	}
	op := txn([]*pb.Op{read(0), read(5), put("b"), read(6)}, []*pb.Op{read(7), txn(nil, []*pb.Op{read(1)})})
	was := proto.CloneOf(op)
	if _, err := r.Write(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(op, was) {
		t.Errorf("the caller's request was changed to %v", op)
	}
	want := txn([]*pb.Op{read(0), read(-1), put("b"), read(6)}, []*pb.Op{read(7), txn(nil, []*pb.Op{read(-1)})})
	if !proto.Equal(f.wrote, want) {
		t.Errorf("asked the range for %v", f.wrote)
	}
	f.silent = true // who names no revision asks nobody
	if _, err := r.Write(t.Context(), txn([]*pb.Op{read(0), put("b")}, nil)); err != nil {
		t.Error(err)
	}
	if _, err := r.Write(t.Context(), txn([]*pb.Op{read(6)}, nil)); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("nobody knows of compactions: %v", err)
	}
}

// TestARangeThatIsAlwaysElsewhere: a map that never becomes right. Nobody spins, nobody goes on asking who
// gave the wrong answer, and in the end the client hears that it may try again.
func TestARangeThatIsAlwaysElsewhere(t *testing.T) {
	for name, call := range map[string]func(context.Context, *router.Router) error{
		"Write": func(ctx context.Context, r *router.Router) error { _, err := r.Write(ctx, put("b")); return err },
		"Range": func(ctx context.Context, r *router.Router) error {
			_, err := r.Range(ctx, &pb.RangeOp{Key: all, RangeEnd: all}, false)
			return err
		},
		"one key": func(ctx context.Context, r *router.Router) error {
			_, err := r.Range(ctx, &pb.RangeOp{Key: []byte("b")}, false)
			return err
		},
		"RangePages": func(ctx context.Context, r *router.Router) error {
			return r.RangePages(ctx, &pb.RangeOp{Key: all, RangeEnd: all}, false, 1, func(*router.RangeResult) error { return nil })
		},
		"LeaseKeys": func(ctx context.Context, r *router.Router) error {
			_, err := r.LeaseKeys(ctx, 1, []shard.Span{shard.All})
			return err
		},
		"HashKV": func(ctx context.Context, r *router.Router) error { _, err := r.HashKV(ctx, 0, true); return err },
		"ExpireLease": func(ctx context.Context, r *router.Router) error {
			_, err := r.ExpireLease(ctx, 1, 1, []shard.Span{shard.All})
			return err
		},
		"CompactRanges": func(ctx context.Context, r *router.Router) error { return r.CompactRanges(ctx, 2, false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := filled(t)
				attempts, asked := 0, map[shard.NodeID]int{}
				f.refuse = func(to shard.NodeID, _ *pb.PeerRequest) error {
					attempts++
					asked[to]++
					return &shard.WrongRangeError{}
				}
				r := f.router(t, false)
				r.LearnLeader(shard.FirstRangeID, 3)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if err := call(ctx, r); !errors.Is(err, shard.ErrTimeout) && !errors.Is(err, shard.ErrUnavailable) {
					t.Errorf("ended with %v", err)
				}
				if attempts < 4 || attempts > 1000 {
					t.Errorf("%d attempts", attempts)
				}
				if r.Leader(shard.FirstRangeID) == 3 {
					t.Error("who answered for the wrong range is still taken for its leader")
				}
			})
		})
	}
}

// TestACompactionGoesByKeys: a range that has been cut refuses what it does not hold, and then its parts are asked, and
// nobody else again (hazard 40).
func TestACompactionGoesByKeys(t *testing.T) {
	for _, physical := range []bool{false, true} {
		f := newFake(t, "c", "m")
		said := map[shard.RangeID][]shard.Span{}
		held := map[shard.RangeID]shard.Span{}
		next, err := f.m.Split(3, []byte("g"), 9, f.m.Lookup([]byte("d")).Replicas)
		if err != nil {
			t.Fatal(err)
		}
		for d := range next.All() {
			held[d.ID] = d.Span
		}
		f.leader[9] = 1
		f.onMap = func() { f.mu.Lock(); f.m = next; f.mu.Unlock() }
		f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
			id, span := shard.RangeID(req.CompactRange.RangeId), pb.ToSpan(req.CompactRange.Span)
			if !held[id].ContainsSpan(span) {
				return &shard.WrongRangeError{Range: id}
			}
			said[id] = append(said[id], span)
			return nil
		}
		r, err := router.New(router.Config{Peers: f, Cluster: f, CompactParallel: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.CompactRanges(t.Context(), 1, physical); err != nil {
			t.Fatal(err)
		}
		for id, span := range held {
			if got := said[id]; len(got) != 1 || !got[0].Equal(span) {
				t.Errorf("%v has said so of %v, it holds %v", id, got, span)
			}
		}
	}
}

// TestAnExpiryStatesItsSpan: of what the lease was attached to, so much as the range has by the map (hazard 39).
func TestAnExpiryStatesItsSpan(t *testing.T) {
	f := newFake(t, "c", "m")
	var got []*pb.WriteRequest
	f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
		got = append(got, req.Write)
		return shard.ErrInvalid // enough has been seen
	}
	r := f.router(t, false)
	span := func(from, to string) shard.Span { return shard.Span{Start: []byte(from), End: []byte(to)} }
	for _, spans := range [][]shard.Span{{span("d", "e"), span("f", "g")}, {span("d", "e"), span("x", "y")}} {
		if _, err := r.ExpireLease(t.Context(), 7, 3, spans); !errors.Is(err, shard.ErrInvalid) {
			t.Fatal(err)
		}
	}
	if len(got) != 2 || !pb.ToSpan(got[0].Op.ExpireSpan).Equal(span("d", "g")) || got[0].Multi {
		t.Fatalf("in one range: %v", got)
	}
	if got[1].Op.ExpireSpan != nil || !got[1].Multi || len(got[1].Spans) != 2 {
		t.Errorf("in two: %v", got[1]) // whoever coordinates states the span of each participant
	}
}

// TestPhysicalCompactionIsWaitedFor: as in etcd whoever waits for the space hears of nothing else before its own
// time is over, however many ranges there are and however late they come to it.
func TestPhysicalCompactionIsWaitedFor(t *testing.T) {
	cuts := make([]string, 399)
	for i := range cuts {
		cuts[i] = fmt.Sprintf("k%03d", i)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, cuts...)
		left := map[uint64]int{}
		f.refuse = func(_ shard.NodeID, req *pb.PeerRequest) error {
			id := req.CompactRange.RangeId
			if left[id]++; left[id] <= 3 {
				return shard.ErrTimeout
			}
			return nil
		}
		r := f.router(t, false)
		if err := r.CompactRanges(t.Context(), 1, true); err != nil {
			t.Error(err)
		}
		if len(left) != 400 {
			t.Errorf("%d ranges were asked", len(left))
		}
		clear(left)
		if err := r.CompactRanges(t.Context(), 1, false); !errors.Is(err, shard.ErrTimeout) {
			t.Errorf("one that nobody waits for: %v", err)
		}
		f.refuse = func(shard.NodeID, *pb.PeerRequest) error { return shard.ErrTimeout }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.CompactRanges(ctx, 1, true); !errors.Is(err, shard.ErrTimeout) || ctx.Err() == nil {
			t.Errorf("without an end: %v after %v", err, ctx.Err())
		}
	})
}

// TestACompactionAsksManyRangesAtOnce: what waits together shares the writes of the log, and a bound says how many wait.
func TestACompactionAsksManyRangesAtOnce(t *testing.T) {
	cuts := make([]string, 399)
	for i := range cuts {
		cuts[i] = fmt.Sprintf("k%03d", i)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, cuts...)
		h := &holding{fake: f, gate: make(chan struct{})}
		r, err := router.New(router.Config{Peers: h, Cluster: f})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.CompactRanges(t.Context(), 1, false) }()
		synctest.Wait()
		if n := h.open.Load(); n != 256 {
			t.Errorf("%d ranges are asked at once, want 256", n)
		}
		close(h.gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := h.open.Load(); n != 400 {
			t.Errorf("%d requests for 400 ranges", n)
		}
	})
}

// holding counts the requests and answers none before the gate is open.
type holding struct {
	*fake
	open atomic.Int64
	gate chan struct{}
}

func (h *holding) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	h.open.Add(1)
	<-h.gate
	return h.fake.Call(ctx, to, req)
}

// TestTxnWithoutKeys: nothing is asked but whether it is a transaction; inner ones are answered too.
func TestTxnWithoutKeys(t *testing.T) {
	r := newFake(t).router(t, false)
	op := &pb.Op{Txn: &pb.TxnOp{Success: []*pb.Op{{Txn: &pb.TxnOp{}}, {Txn: &pb.TxnOp{Success: []*pb.Op{{Txn: &pb.TxnOp{}}}}}}}}
	res, err := r.Write(t.Context(), op)
	if err != nil {
		t.Fatal(err)
	}
	got := res.Result.Txn.Results
	if len(got) != 2 || !got[0].Txn.Succeeded || len(got[1].Txn.Results) != 1 {
		t.Errorf("answered %v", res.Result)
	}
}
