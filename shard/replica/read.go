package replica

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/lead"
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
	span     *pb.Span // of the request; nil: whatever the range holds
	deadline time.Time
	done     func(error)
}

// whenApplied runs fn at once if index has been applied, else on a goroutine of its own as soon as it is. size is
// the size of the request.
func (d *reads) whenApplied(ctx context.Context, index uint64, size int, fn func(), fail func(error)) {
	if d.r.index.Load() >= index {
		fn()
		return
	}
	d.r.mu.Lock()
	switch {
	case d.r.mu.closed:
		d.r.mu.Unlock()
		fail(shard.ErrUnavailable)
		return
	case d.r.mu.m.Index >= index:
		d.r.mu.Unlock()
		fn()
		return
	case len(d.r.mu.indexWaits) >= d.r.cfg.FencesMax || lead.Exceeds(d.r.mu.indexWaitBytes, size, d.r.cfg.InflightBytes):
		d.r.mu.Unlock()
		fail(shard.ErrTooManyRequests)
		return
	}
	d.r.mu.indexWaitBytes += size
	d.r.mu.indexWaits = append(d.r.mu.indexWaits, &indexWait{index: index, size: size, deadline: d.r.deadline(ctx), run: fn, fail: fail})
	d.r.pumpLocked()
}

// fireIndexWaitsLocked runs what waits for an index that has been applied.
func (d *reads) fireIndexWaitsLocked() {
	if len(d.r.mu.indexWaits) == 0 {
		return
	}
	index := d.r.mu.m.Index
	d.r.mu.indexWaits = slices.DeleteFunc(d.r.mu.indexWaits, func(w *indexWait) bool {
		if w.index > index {
			return false
		}
		d.r.mu.indexWaitBytes -= w.size
		d.r.mu.queue.calls = append(d.r.mu.queue.calls, func() { d.r.spawn(w.run, func() { w.fail(shard.ErrUnavailable) }) })
		return true
	})
}

func (d *reads) expireWaitsLocked(now time.Time) {
	d.r.mu.indexWaits = slices.DeleteFunc(d.r.mu.indexWaits, func(w *indexWait) bool {
		if now.Before(w.deadline) {
			return false
		}
		d.r.mu.indexWaitBytes -= w.size
		d.r.mu.queue.calls = append(d.r.mu.queue.calls, func() { w.fail(shard.ErrTimeout) })
		return true
	})
	d.r.mu.physicalWaits = slices.DeleteFunc(d.r.mu.physicalWaits, func(p physicalWait) bool {
		if now.Before(p.deadline) {
			return false
		}
		d.r.mu.queue.calls = append(d.r.mu.queue.calls, func() { p.done(shard.ErrTimeout) })
		return true
	})
}

// Read serves a page of a span at a revision, on any replica, once it has applied the request's index. It may read
// the store and call reply before it returns, so a caller that must not block gives a span a goroutine of its own.
// A single key is read by another goroutine if it is not in memory.
func (d *reads) Read(ctx context.Context, req *pb.ReadRequest, reply func(*pb.ReadResponse, error)) {
	d.r.load.read(req.Span)
	d.whenApplied(ctx, req.MinIndex, len(req.Span.GetStart())+len(req.Span.GetEnd()), func() {
		if pb.ToSpan(req.Span).IsPoint() {
			d.readPoint(fencedRead{ctx: ctx, req: &pb.FenceRequest{Read: req}, reply: func(resp *pb.FenceResponse, err error) { reply(resp.GetRead(), err) }})
			return
		}
		reply(d.read(ctx, req))
	}, func(err error) { reply(nil, err) })
}

func (d *reads) read(ctx context.Context, req *pb.ReadRequest) (resp *pb.ReadResponse, err error) {
	span := pb.ToSpan(req.Span)
	final := d.r.final.Load() // before the store is read
	ref, err := d.r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer d.r.stores.release(ref)
	limit := req.MaxBytes
	if limit <= 0 {
		limit = d.r.cfg.ReadBytes
	}
	var counting countingReader
	err = ref.reading(containing(span), func() (err error) {
		var st eval.Reader = ref.Store
		counting = countingReader{Reader: st, cache: &d.counts}
		if req.Revision > 0 && req.Revision <= final {
			st = &counting
		}
		resp, err = eval.ReadPage(ctx, st, span, req, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	counting.keep()
	return resp, nil
}

// History serves events for watchers that catch up. It ends at what is final here: below the effective floor of
// prepared transactions, and at what this replica has applied.
func (d *reads) History(req *pb.HistoryRequest) (evs []*shard.Event, next int64, err error) {
	to := d.r.final.Load() // before the store is read
	if req.To > 0 {
		to = min(to, req.To)
	}
	if req.From > to {
		return nil, req.From, nil
	}
	ref, err := d.r.stores.acquire()
	if err != nil {
		return nil, 0, err
	}
	defer d.r.stores.release(ref)
	maxBytes := req.MaxBytes
	if maxBytes <= 0 {
		maxBytes = d.r.cfg.ReadBytes
	}
	spans := pb.ToSpans(req.Spans)
	err = ref.reading(containing(spans...), func() (err error) {
		evs, next, err = ref.History(spans, req.From, to, int(min(maxBytes, math.MaxInt32)), req.PrevKv)
		return err
	})
	return evs, next, err
}

// Hash answers with the commutative hash of the range at a revision (0: the last one applied).
func (d *reads) Hash(ctx context.Context, req *pb.HashRequest, reply func(*pb.HashResponse, error)) {
	d.whenApplied(ctx, req.MinIndex, 0, func() { reply(d.hash(req)) }, func(err error) { reply(nil, err) })
}

// hash hashes whatever is held, which must be the span that the request names: hashes of spans that tile the key space
// are added up, and each key must be in one of them.
func (d *reads) hash(req *pb.HashRequest) (*pb.HashResponse, error) {
	ref, err := d.r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer d.r.stores.release(ref)
	within := func(holds shard.Span) bool { return req.Span == nil || holds.Equal(pb.ToSpan(req.Span)) }
	resp := &pb.HashResponse{}
	err = ref.reading(within, func() (err error) {
		resp.Revision = req.Revision
		if resp.Revision <= 0 {
			resp.Revision = max(ref.LastRevision(), ref.CompactRevision())
		}
		resp.Hash, resp.CompactRevision, err = ref.HashAt(resp.Revision, req.Content)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// LeaseKeys answers with the keys that carry the lease now, as this replica has applied it: those of a span, or of
// whatever it holds.
func (d *reads) LeaseKeys(_ context.Context, req *pb.LeaseKeysRequest, reply func(*pb.LeaseKeysResponse, error)) {
	ref, err := d.r.stores.acquire()
	if err != nil {
		reply(nil, err)
		return
	}
	defer d.r.stores.release(ref)
	span := pb.ToSpan(req.Span)
	within := func(holds shard.Span) bool { return req.Span == nil || holds.ContainsSpan(span) }
	var keys [][]byte
	err = ref.reading(within, func() (err error) {
		keys, err = ref.LeaseKeys(req.Lease, 0)
		return err
	})
	if err != nil {
		reply(nil, err)
		return
	}
	keys = slices.DeleteFunc(keys, func(key []byte) bool { return !span.Contains(key) })
	reply(&pb.LeaseKeysResponse{Keys: keys}, nil)
}

func (c *leaderCalls) role() raftgroup.Leadership {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	return c.r.mu.role
}

// Status describes the replica.
func (d *reads) Status() *pb.RangeStatusResponse {
	d.r.mu.Lock()
	m := d.r.mu.m
	out := &pb.RangeStatusResponse{
		Descriptor_: pb.FromDescriptor(m.Desc), Applied: m.Index, Revision: m.Last, Closed: m.Final(),
		Leader: uint64(d.r.mu.role.Leader), Term: d.r.mu.role.Term,
	}
	d.r.mu.Unlock()
	if st, ok := d.r.cfg.Host.Status(d.r.cfg.Desc.ID); ok {
		out.Commit, out.Quiescent, out.Term, out.Leader = st.Commit, st.Quiescent, st.Term, uint64(st.Leader)
	}
	if _, leads := d.r.Leading(); leads {
		out.Load = d.r.load.tell()
	}
	ref, err := d.r.stores.acquire()
	if err != nil {
		return out
	}
	defer d.r.stores.release(ref)
	s := ref.Stats()
	out.Keys, out.Size, out.SizeInUse = ref.Keys(), s.FileBytes, s.InUseBytes
	out.CompactRevision = ref.CompactRevision()
	out.Untrimmed = ref.Maintenance().TrimPending()
	return out
}

// Taken is how many bytes this replica takes for what was put into its range; 0 where its store is closed.
func (d *reads) Taken() int64 {
	ref, err := d.r.stores.acquire()
	if err != nil {
		return 0
	}
	defer d.r.stores.release(ref)
	return ref.Stats().Taken()
}

// OpenReads is how many reads go on in the replica's file; 0 where its store is closed.
func (d *reads) OpenReads() int {
	ref, err := d.r.stores.acquire()
	if err != nil {
		return 0
	}
	defer d.r.stores.release(ref)
	return ref.Maintenance().OpenReads()
}

// Middle is where to cut the range by its size; nil where no key parts it. Only the leader answers, and none whose file still
// holds what was cut off: how large the range is cannot be told then.
func (d *reads) Middle() ([]byte, error) {
	ref, err := d.r.stores.acquire()
	if err != nil {
		return nil, err
	}
	defer d.r.stores.release(ref)
	if role := d.r.role(); !role.IsLeader {
		return nil, &shard.NotLeaderError{Range: d.r.cfg.Desc.ID}
	}
	if ref.Maintenance().TrimPending() {
		return nil, fmt.Errorf("%w: %v still holds what was cut off", shard.ErrUnavailable, d.r.cfg.Desc.ID)
	}
	return ref.Middle()
}
