package router_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// movingKeys is how many keys there are in a moving cluster.
const movingKeys = 24

func movingKey(i int) string { return fmt.Sprintf("k%02d", i) }

// moving is a cluster whose ranges are cut and joined, whose leaders move, whose oracle is replaced and whose keys are
// written, between any two calls. It holds the router to what makes a read sound: a range is read behind a fence of its
// own log, at that revision, or here up to what is closed.
type moving struct {
	*fake
	t      *testing.T
	rnd    *rand.Rand
	ranges *shard.Map                         // as the ranges' logs have it; the fake's map is the view's
	child  map[shard.RangeID]shard.Descriptor // that a range has cut off last
	fences map[shard.RangeID][]movingFence
	index  uint64
	next   shard.RangeID
	final  map[string]int64 // by key: up to where the replicas of this node have been closed

	pins  []movingPin
	cutAt int64 // no cut is below
}

type movingFence struct {
	index uint64
	span  shard.Span
	rev   int64
}

func newMoving(t *testing.T, seed uint64) *moving {
	m := &moving{
		fake: newFake(t, movingKey(8), movingKey(16)), t: t, rnd: rand.New(rand.NewPCG(seed, 1)), next: 100,
		child: map[shard.RangeID]shard.Descriptor{}, fences: map[shard.RangeID][]movingFence{}, final: map[string]int64{},
	}
	m.ranges = m.fake.m
	m.swept = map[shard.RangeID]int64{}
	for i := range movingKeys {
		m.put(movingKey(i), "first")
	}
	for d := range m.ranges.All() {
		m.close(d, m.rev)
	}
	return m
}

// move lets something happen, or nothing.
func (m *moving) move() {
	key := movingKey(m.rnd.IntN(movingKeys))
	d := m.ranges.Lookup([]byte(key))
	switch m.rnd.IntN(24) {
	case 0, 1, 2, 3:
		if next, err := m.ranges.Split(d.ID, []byte(key), m.next, d.Replicas); err == nil {
			m.ranges = next
			m.child[d.ID], _ = next.Get(m.next)
			m.leader[m.next], m.closed[m.next] = shard.NodeID(m.rnd.IntN(3)+1), m.closed[d.ID]
			m.next++
		}
	case 4:
		for right := range m.ranges.All() {
			if bytes.Equal(right.Span.Start, d.Span.End) && len(right.Span.Start) > 0 {
				if next, err := m.ranges.Merge(d.ID, right.ID); err == nil {
					m.ranges = next
					m.closed[d.ID] = min(m.closed[d.ID], m.closed[right.ID])
					delete(m.child, d.ID)
					delete(m.closed, right.ID)
				}
				break
			}
		}
	case 5, 6:
		m.leader[d.ID] = shard.NodeID(m.rnd.IntN(3) + 1)
	case 7, 8, 9, 10:
		m.put(key, fmt.Sprint(m.rev))
	case 11:
		m.rev++
		m.data[key] = append(m.data[key], &pb.KeyValue{Key: []byte(key), ModRevision: m.rev})
	case 12:
		m.epoch++
		m.rev += 3
	case 13, 14:
		m.close(d, m.rev-int64(m.rnd.IntN(4)))
	case 15:
		m.fake.m = m.ranges
	}
}

func (m *moving) close(d shard.Descriptor, rev int64) {
	m.closed[d.ID] = max(m.closed[d.ID], rev)
	for i := range movingKeys {
		if key := movingKey(i); d.Span.Contains([]byte(key)) {
			m.final[key] = max(m.final[key], rev)
		}
	}
}

// isFinal reports whether the replicas here have been closed up to rev wherever a key of the span was.
func (m *moving) isFinal(s shard.Span, rev int64) bool {
	for key, final := range m.final {
		if s.Contains([]byte(key)) && final < rev {
			return false
		}
	}
	return true
}

func (m *moving) known(id shard.RangeID) (known []shard.Descriptor) {
	if d, ok := m.ranges.Get(id); ok {
		known = append(known, d)
		if c, ok := m.child[id]; ok {
			known = append(known, c)
		}
	}
	return known
}

// Refresh does not always find what ranges know of themselves already.
func (m *moving) Refresh(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rnd.IntN(3) > 0 {
		m.fake.m = m.ranges
	}
	return nil
}

func (m *moving) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.move()
	switch {
	case req.Fence != nil:
		return m.fence(to, req.Fence)
	case req.Read != nil:
		return m.readAt(to, req.Read)
	case req.Hash != nil:
		return m.hash(req.Hash)
	case req.LeaseKeys != nil:
		return m.leaseKeys(to, req.LeaseKeys)
	}
	return m.export(to, req)
}

func (m *moving) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	cb(m.Call(ctx, to, req))
}

// answer tells who was routed by an older descriptor what has become of the range.
func (m *moving) answer(id, gen uint64, resp *pb.PeerResponse) (*pb.PeerResponse, error) {
	if d, _ := m.ranges.Get(shard.RangeID(id)); shard.Generation(gen) < d.Generation {
		resp.Learned = pb.FromDescriptors(m.known(d.ID))
	}
	return resp, nil
}

func (m *moving) holds(id uint64, s *pb.Span) error {
	d, ok := m.ranges.Get(shard.RangeID(id))
	if !ok || !d.Span.ContainsSpan(pb.ToSpan(s)) {
		return &shard.WrongRangeError{Range: shard.RangeID(id), Known: m.known(shard.RangeID(id))}
	}
	return nil
}

func (m *moving) leads(to shard.NodeID, id uint64) error {
	leader := m.leader[shard.RangeID(id)]
	if _, there := m.ranges.Get(shard.RangeID(id)); there && leader != to {
		return &shard.NotLeaderError{Range: shard.RangeID(id), Leader: leader}
	}
	return nil
}

func (m *moving) fence(to shard.NodeID, f *pb.FenceRequest) (*pb.PeerResponse, error) {
	switch {
	case m.leads(to, f.RangeId) != nil:
		return nil, m.leads(to, f.RangeId)
	case shard.Epoch(f.Epoch) < m.epoch:
		return nil, shard.ErrStaleEpoch
	case m.holds(f.RangeId, f.Span) != nil:
		return nil, m.holds(f.RangeId, f.Span)
	}
	m.index++
	id := shard.RangeID(f.RangeId)
	m.fences[id] = append(m.fences[id], movingFence{m.index, pb.ToSpan(f.Span), f.Revision})
	resp := &pb.FenceResponse{Index: m.index}
	if f.Read != nil {
		resp.Read = m.read(f.Read)
	}
	return m.answer(f.RangeId, f.Generation, &pb.PeerResponse{Fence: resp})
}

// checkFenced fails where nothing says that a span is final at rev where an index has been applied.
func (m *moving) checkFenced(what string, id uint64, index uint64, span shard.Span, rev int64) {
	for _, f := range m.fences[shard.RangeID(id)] {
		if f.index == index && f.rev >= rev && f.span.ContainsSpan(span) {
			return
		}
	}
	m.t.Errorf("%s of r%d %v at %d from index %d: no fence says that it is final", what, id, span, rev, index)
}

func (m *moving) readAt(to shard.NodeID, r *pb.ReadRequest) (*pb.PeerResponse, error) {
	if err := m.holds(r.RangeId, r.Span); err != nil {
		return nil, err
	}
	if m.rnd.IntN(8) == 0 {
		return nil, shard.ErrUnavailable
	}
	if here := to == m.Self() && r.MinIndex == 0 && m.isFinal(pb.ToSpan(r.Span), r.Revision); !here {
		m.checkFenced("read", r.RangeId, r.MinIndex, pb.ToSpan(r.Span), r.Revision)
	}
	return m.answer(r.RangeId, r.Generation, &pb.PeerResponse{Read: m.read(r)})
}

func (m *moving) hash(h *pb.HashRequest) (*pb.PeerResponse, error) {
	d, ok := m.ranges.Get(shard.RangeID(h.RangeId))
	if !ok || h.Span != nil && !d.Span.Equal(pb.ToSpan(h.Span)) {
		return nil, &shard.WrongRangeError{Range: shard.RangeID(h.RangeId), Known: m.known(shard.RangeID(h.RangeId))}
	}
	m.checkFenced("hash", h.RangeId, h.MinIndex, d.Span, h.Revision)
	return &pb.PeerResponse{Hash: &pb.HashResponse{Hash: m.hashOf(d.Span, h.Revision)}}, nil
}

// hashOf adds up something of every version of a span's keys up to rev.
func (m *moving) hashOf(s shard.Span, rev int64) (sum uint64) {
	for key, versions := range m.data {
		for _, kv := range versions {
			if s.Contains([]byte(key)) && kv.ModRevision <= rev {
				sum += uint64(kv.ModRevision) * 1_000_003
			}
		}
	}
	return sum
}

func (m *moving) leaseKeys(to shard.NodeID, l *pb.LeaseKeysRequest) (*pb.PeerResponse, error) {
	if err := m.leads(to, l.RangeId); err != nil {
		return nil, err
	}
	if err := m.holds(l.RangeId, l.Span); err != nil {
		return nil, err
	}
	resp := &pb.LeaseKeysResponse{}
	for i := range movingKeys {
		if key := []byte(movingKey(i)); pb.ToSpan(l.Span).Contains(key) {
			resp.Keys = append(resp.Keys, key)
		}
	}
	return m.answer(l.RangeId, l.Generation, &pb.PeerResponse{LeaseKeys: resp})
}

// want is what a read at rev finds, and how many keys there are.
func (m *moving) want(op *pb.RangeOp, rev int64) (kvs []string, count int64) {
	for i := range movingKeys {
		kv := m.at(movingKey(i), rev)
		if kv == nil || !shard.FromEtcd(op.Key, op.RangeEnd).Contains(kv.Key) {
			continue
		}
		count++
		if op.MinModRevision <= kv.ModRevision {
			kvs = append(kvs, kvString(kv))
		}
	}
	if op.SortOrder == 2 {
		slices.Reverse(kvs)
	}
	if op.CountOnly {
		return nil, count
	}
	if op.Limit > 0 && int64(len(kvs)) > op.Limit {
		kvs = kvs[:op.Limit]
	}
	return kvs, count
}

func kvString(kv *pb.KeyValue) string {
	return fmt.Sprintf("%s=%s@%d", kv.Key, kv.Value, kv.ModRevision)
}

func (m *moving) op() *pb.RangeOp {
	from := m.rnd.IntN(movingKeys)
	to := from + 1 + m.rnd.IntN(movingKeys-from)
	op := &pb.RangeOp{Key: []byte(movingKey(from)), RangeEnd: []byte(movingKey(to))}
	switch m.rnd.IntN(8) {
	case 0:
		op.RangeEnd = nil
	case 1, 2:
		op.Key, op.RangeEnd = all, all
	}
	switch m.rnd.IntN(8) {
	case 0:
		op.CountOnly = true
	case 1, 2:
		op.Limit = int64(1 + m.rnd.IntN(12))
	case 3:
		op.SortOrder = 2
	case 4:
		op.SortOrder, op.Limit = 2, int64(1+m.rnd.IntN(12))
	case 5:
		op.MinModRevision = m.rev - int64(m.rnd.IntN(20))
	}
	if m.rnd.IntN(3) == 0 {
		op.Revision = m.rev - int64(m.rnd.IntN(10))
	}
	return op
}

// check compares the answer to a read, which began when first was the newest revision, with what there was.
func (m *moving) check(op *pb.RangeOp, res *router.RangeResult, kvs []string, first int64, serializable bool) {
	m.t.Helper()
	rev := res.Revision
	if op.Revision > 0 {
		rev = op.Revision
	}
	if res.Revision > m.rev || !serializable && res.Revision < first {
		m.t.Errorf("%v: answered at %d, began at %d, now %d", op, res.Revision, first, m.rev)
	}
	want, count := m.want(op, rev)
	if !slices.Equal(kvs, want) || res.Count != count {
		m.t.Errorf("%v at %d (serializable %v):\n got %d %v\nwant %d %v", op, rev, serializable, res.Count, kvs, count, want)
	}
	if more := op.Limit > 0 && count > int64(len(want)) && !op.CountOnly; more != res.More && op.MinModRevision == 0 {
		m.t.Errorf("%v at %d: more %v", op, rev, res.More)
	}
}

// TestReadsOfMovingRanges: a read is of one revision and whole, whatever becomes of the ranges between any two calls, and
// hears of none of it (8.1, hazard 73).
func TestReadsOfMovingRanges(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { readMoving(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func readMoving(t *testing.T, seed uint64) {
	m := newMoving(t, seed)
	r, err := router.New(router.Config{
		Peers: m, Cluster: m, Local: m, Patience: time.Minute, Backoff: time.Millisecond, Parallel: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		op, serializable := m.op(), m.rnd.IntN(4) == 0
		m.page = int64(m.rnd.IntN(4))
		m.applied = map[shard.RangeID]uint64{}
		first := m.rev
		switch m.rnd.IntN(6) {
		case 0:
			m.checkWhole(r)
		case 1, 2, 3:
			m.checkPages(r, op, first, serializable)
		default:
			res, err := r.Range(t.Context(), op, serializable)
			if err != nil {
				t.Fatalf("%v: %v", op, err)
			}
			var kvs []string
			for _, kv := range res.KVs {
				kvs = append(kvs, kvString(kv))
			}
			m.check(op, res, kvs, first, serializable)
		}
	}
}

func (m *moving) checkPages(r *router.Router, op *pb.RangeOp, first int64, serializable bool) {
	m.t.Helper()
	var kvs []string
	var last *router.RangeResult
	err := r.RangePages(m.t.Context(), op, serializable, 1<<20, func(page *router.RangeResult) error {
		if last != nil && last.Revision != page.Revision {
			m.t.Errorf("%v: a page of revision %d behind one of %d", op, page.Revision, last.Revision)
		}
		for _, kv := range page.KVs {
			kvs = append(kvs, kvString(kv))
		}
		last = page
		return nil
	})
	if err != nil {
		m.t.Fatalf("%v, after %d keys: %v", op, len(kvs), err)
	}
	m.check(op, last, kvs, first, serializable)
}

// checkWhole asks for what is added up over all ranges.
func (m *moving) checkWhole(r *router.Router) {
	m.t.Helper()
	h, err := r.HashKV(m.t.Context(), 0, false)
	if err != nil {
		m.t.Fatal("hash: ", err)
	}
	if want := m.hashOf(shard.All, h.Revision); h.Hash != want {
		m.t.Errorf("the hash at %d is %d, not %d", h.Revision, h.Hash, want)
	}
	keys, err := r.LeaseKeys(m.t.Context(), 7, []shard.Span{shard.All})
	if err != nil {
		m.t.Fatal("keys of a lease: ", err)
	}
	if len(keys) != movingKeys || !slices.IsSortedFunc(keys, bytes.Compare) {
		m.t.Errorf("%d keys of a lease: %s", len(keys), keys)
	}
}
