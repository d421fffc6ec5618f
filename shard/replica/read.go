package replica

import (
	"bytes"
	"context"
	"math"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// indexWait waits until an index has been applied.
type indexWait struct {
	index    uint64
	size     int // bytes of the request
	deadline time.Time
	run      func()
	fail     func(error)
}

// physicalWait waits until compacted versions have been removed.
type physicalWait struct {
	deadline time.Time
	done     func(error)
}

// await runs fn at once if index has been applied, else on a goroutine of its own as soon as it
// is.
// size is what the request holds.
func (r *Replica) await(ctx context.Context, index uint64, size int, fn func(), fail func(error)) {
	if r.index.Load() >= index {
		fn()
		return
	}
	r.mu.Lock()
	switch {
	case r.mu.closed:
		r.mu.Unlock()
		fail(shard.ErrUnavailable)
		return
	case r.mu.m.index >= index:
		r.mu.Unlock()
		fn()
		return
	case len(r.mu.waits) >= r.cfg.FencesMax || over(r.mu.waitBytes, size, r.cfg.InflightBytes):
		r.mu.Unlock()
		fail(shard.ErrTooManyRequests)
		return
	}
	r.mu.waitBytes += size
	r.mu.waits = append(r.mu.waits, &indexWait{index: index, size: size, deadline: r.deadline(ctx), run: fn, fail: fail})
	r.pumpLocked()
}

// fireWaitsLocked lets those go whose index has been applied.
func (r *Replica) fireWaitsLocked() {
	if len(r.mu.waits) == 0 {
		return
	}
	index := r.mu.m.index
	r.mu.waits = slices.DeleteFunc(r.mu.waits, func(w *indexWait) bool {
		if w.index > index {
			return false
		}
		r.mu.waitBytes -= w.size
		r.mu.calls = append(r.mu.calls, func() { r.spawn(w.run, func() { w.fail(shard.ErrUnavailable) }) })
		return true
	})
}

func (r *Replica) expireWaitsLocked(now time.Time) {
	r.mu.waits = slices.DeleteFunc(r.mu.waits, func(w *indexWait) bool {
		if now.Before(w.deadline) {
			return false
		}
		r.mu.waitBytes -= w.size
		r.mu.calls = append(r.mu.calls, func() { w.fail(shard.ErrTimeout) })
		return true
	})
	r.mu.physic = slices.DeleteFunc(r.mu.physic, func(p physicalWait) bool {
		if now.Before(p.deadline) {
			return false
		}
		r.mu.calls = append(r.mu.calls, func() { p.done(shard.ErrTimeout) })
		return true
	})
}

// Read serves a page of a span at a revision, on any replica, once it has applied the request's
// index. It may call reply before it returns, and reads the store then: callers that must not block
// give it a goroutine.
func (r *Replica) Read(ctx context.Context, req *pb.ReadRequest, reply func(*pb.ReadResponse, error)) {
	r.await(ctx, req.MinIndex, len(req.Span.GetStart())+len(req.Span.GetEnd()), func() { reply(r.read(ctx, req)) }, func(err error) { reply(nil, err) })
}

// checkSpan refuses a request for another generation or for keys that are not held here.
func (r *Replica) checkSpan(gen uint64, spans ...shard.Span) error {
	desc := r.desc.Load()
	ok := gen == 0 || shard.Generation(gen) == desc.Generation
	for _, s := range spans {
		ok = ok && desc.Span.ContainsSpan(s)
	}
	if !ok {
		return &shard.WrongRangeError{Range: desc.ID, Known: []shard.Descriptor{*desc}}
	}
	return nil
}

func (r *Replica) read(ctx context.Context, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	span := pb.ToSpan(req.Span)
	if err := r.checkSpan(req.Generation, span); err != nil {
		return nil, err
	}
	final := r.final.Load() // before the store is read
	ref, err := r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer r.stores.release(ref)
	limit := req.MaxBytes
	if limit <= 0 {
		limit = r.cfg.ReadBytes
	}
	var st Reader = ref.Store
	if req.Revision > 0 && req.Revision <= final {
		st = countingReader{Reader: st, known: &r.counts}
	}
	return readPage(ctx, st, span, req, limit)
}

// readPage serves one page. Count is of all keys in the span, whatever the filters.
func readPage(ctx context.Context, st Reader, span shard.Span, req *pb.ReadRequest, maxBytes int64) (*pb.ReadResponse, error) {
	rev := req.Revision
	if rev <= 0 {
		rev = math.MaxInt64
	}
	resp := &pb.ReadResponse{Count: -1}
	if span.Empty() {
		resp.Count = 0
		return resp, nil
	}
	if req.CountOnly {
		n, err := st.Count(span, rev)
		resp.Count = n
		return resp, err
	}
	if span.IsPoint() {
		return readPoint(st, span.Start, rev, req)
	}
	p := pager{req: req, resp: resp, left: maxBytes, done: ctx.Done()}
	o := mvcc.ScanOptions{Span: span, Rev: rev, KeysOnly: req.KeysOnly, Reverse: req.Reverse, InPlace: req.Encoded}
	if err := st.Scan(o, p.take); err != nil {
		return nil, err
	}
	switch {
	case p.cancelled:
		return nil, ctx.Err()
	case req.SkipCount:
	case resp.Resume == nil:
		resp.Count = p.seen
	default:
		n, err := st.Count(span, rev)
		if err != nil {
			return nil, err
		}
		resp.Count = n
	}
	return resp, nil
}

func readPoint(st Reader, key []byte, rev int64, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	resp := &pb.ReadResponse{Count: -1}
	kv, ok, err := st.Get(key, rev)
	if err != nil {
		return nil, err
	}
	if !req.SkipCount {
		resp.Count = 0
	}
	if !ok {
		return resp, nil
	}
	if !req.SkipCount {
		resp.Count = 1
	}
	if wanted(req, &kv) {
		if req.KeysOnly {
			kv.Value = nil
		}
		addKey(resp, req, &kv)
	}
	return resp, nil
}

// addKey adds a key to a page, in the form that was asked for.
func addKey(resp *pb.ReadResponse, req *pb.ReadRequest, kv *mvcc.KeyValue) {
	if !req.Encoded {
		resp.Kvs = append(resp.Kvs, fromKV(kv))
		return
	}
	out := pb.KeyValue{Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
	if req.KeysOnly {
		out.Lease = 0 // etcd answers keys alone from its index, which knows no leases
	}
	resp.Encoded = pb.AppendRangeKey(resp.Encoded, &out)
	resp.EncodedKeys++
	resp.Last = append(resp.Last[:0], kv.Key...)
}

// pager collects one page of a scan.
type pager struct {
	req       *pb.ReadRequest
	resp      *pb.ReadResponse
	left      int64
	seen      int64
	done      <-chan struct{}
	cancelled bool
}

func (p *pager) take(kv *mvcc.KeyValue) bool {
	n := int64(len(p.resp.Kvs)) + p.resp.EncodedKeys
	full := p.req.Limit > 0 && n >= p.req.Limit
	if full || p.left <= 0 && n > 0 {
		p.resp.Resume = bytes.Clone(kv.Key)
		return false
	}
	if p.seen++; p.seen%1024 == 0 {
		select {
		case <-p.done:
			p.cancelled = true
			return false
		default:
		}
	}
	if !wanted(p.req, kv) {
		return true
	}
	p.left -= int64(len(kv.Key) + len(kv.Value) + 32)
	if p.req.Encoded {
		p.grow(len(kv.Key) + len(kv.Value) + 64)
	}
	addKey(p.resp, p.req, kv)
	return true
}

// grow makes room for n bytes: by doubling while little is there, then at once for the whole page.
func (p *pager) grow(n int) {
	const little = 256 << 10
	b := p.resp.Encoded
	switch {
	case n <= cap(b)-len(b):
	case len(b) < little:
		p.resp.Encoded = slices.Grow(b, max(n, len(b)))
	default:
		p.resp.Encoded = slices.Grow(b, n+int(max(p.left, 0)))
	}
}

// wanted applies the revision filters.
func wanted(r *pb.ReadRequest, kv *mvcc.KeyValue) bool {
	return (r.MaxModRevision == 0 || kv.ModRevision <= r.MaxModRevision) &&
		(r.MinModRevision == 0 || kv.ModRevision >= r.MinModRevision) &&
		(r.MaxCreateRevision == 0 || kv.CreateRevision <= r.MaxCreateRevision) &&
		(r.MinCreateRevision == 0 || kv.CreateRevision >= r.MinCreateRevision)
}

// History serves events for watchers that catch up. It never goes past what is final here: not
// past the effective floor of a prepared transaction, nor past what this replica has applied.
func (r *Replica) History(req *pb.HistoryRequest) (*pb.HistoryResponse, error) {
	spans := pb.ToSpans(req.Spans)
	if err := r.checkSpan(req.Generation, spans...); err != nil {
		return nil, err
	}
	to := r.final.Load() // before the store is read
	if req.To > 0 {
		to = min(to, req.To)
	}
	if req.From > to {
		return &pb.HistoryResponse{Next: req.From}, nil
	}
	ref, err := r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer r.stores.release(ref)
	maxBytes := req.MaxBytes
	if maxBytes <= 0 {
		maxBytes = r.cfg.ReadBytes
	}
	evs, next, err := ref.History(spans, req.From, to, int(min(maxBytes, math.MaxInt32)), req.PrevKv)
	if err != nil {
		return nil, err
	}
	resp := &pb.HistoryResponse{Next: next, Events: make([]*pb.Event, len(evs))}
	for i := range evs {
		resp.Events[i] = fromEvent(&evs[i], req.PrevKv)
	}
	return resp, nil
}

func fromEvent(e *mvcc.Event, prev bool) *pb.Event {
	out := &pb.Event{Delete: e.Delete, Sub: e.Sub, Kv: fromKV(&e.KV)}
	if prev && e.Prev != nil {
		out.PrevKv = fromKV(e.Prev)
	}
	return out
}

// Hash answers with the commutative hash of the range at a revision (0: the last one applied).
func (r *Replica) Hash(ctx context.Context, req *pb.HashRequest, reply func(*pb.HashResponse, error)) {
	hash := func() (*pb.HashResponse, error) {
		ref, err := r.stores.acquire()
		if err != nil {
			return nil, err
		}
		defer r.stores.release(ref)
		rev := req.Revision
		if rev <= 0 {
			rev = max(ref.LastRevision(), ref.CompactRevision())
		}
		h, err := ref.HashKV(rev)
		if err != nil {
			return nil, err
		}
		return &pb.HashResponse{Hash: h, Revision: rev, CompactRevision: ref.CompactRevision()}, nil
	}
	r.await(ctx, req.MinIndex, 0, func() { reply(hash()) }, func(err error) { reply(nil, err) })
}

// LeaseKeys answers with the keys that carry the lease now, as this replica has applied it.
func (r *Replica) LeaseKeys(_ context.Context, req *pb.LeaseKeysRequest, reply func(*pb.LeaseKeysResponse, error)) {
	if err := r.checkSpan(req.Generation); err != nil {
		reply(nil, err)
		return
	}
	ref, err := r.stores.acquire()
	if err != nil {
		reply(nil, err)
		return
	}
	defer r.stores.release(ref)
	keys, err := ref.LeaseKeys(req.Lease, 0)
	if err != nil {
		reply(nil, err)
		return
	}
	reply(&pb.LeaseKeysResponse{Keys: keys}, nil)
}

func (r *Replica) role() raftgroup.Leadership {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.role
}

// Status describes the replica.
func (r *Replica) Status() *pb.RangeStatusResponse {
	r.mu.Lock()
	m := r.mu.m
	out := &pb.RangeStatusResponse{
		Descriptor_: pb.FromDescriptor(m.desc), Applied: m.index, Revision: m.last, Closed: m.final(),
		Leader: uint64(r.mu.role.Leader), Term: r.mu.role.Term,
	}
	r.mu.Unlock()
	if st, ok := r.cfg.Host.Status(r.cfg.Desc.ID); ok {
		out.Commit, out.Quiescent, out.Term, out.Leader = st.Commit, st.Quiescent, st.Term, uint64(st.Leader)
	}
	ref, err := r.stores.acquire()
	if err != nil {
		return out
	}
	defer r.stores.release(ref)
	s := ref.Stats()
	out.Keys, out.Size, out.SizeInUse = ref.Keys(), s.FileBytes, s.InUseBytes
	out.CompactRevision = ref.CompactRevision()
	return out
}
