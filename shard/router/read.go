package router

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"pontoon/internal/counts"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// RangeResult is the answer to a Range.
type RangeResult struct {
	KVs      []*pb.KeyValue
	Encoded  [][]byte // RangeEncoded: instead of KVs, pieces of etcd's RangeResponse
	Count    int64    // keys in the span at the revision read, whatever limit and filters
	More     bool
	Revision int64 // for the header: the current revision, not the one read
}

// part is one range's share of a read: pinned at a revision, and fenced once first used.
type part struct {
	desc  shard.Descriptor
	span  shard.Span
	node  shard.NodeID // who answered the fence, and is asked for further pages
	index uint64       // from the fence: what a replica must have applied
	local bool         // serializable: read here, final already
	count int64
	known bool // count is set
}

// keys is what has been read of one or several parts, in one of the two forms.
type keys struct {
	kvs     []*pb.KeyValue
	encoded [][]byte
	n       int64
	last    []byte // key
}

func (k *keys) add(page *pb.ReadResponse) {
	k.kvs = append(k.kvs, page.Kvs...)
	if len(page.Encoded) > 0 {
		k.encoded, k.last = append(k.encoded, page.Encoded), page.Last
	}
	if n := len(page.Kvs); n > 0 {
		k.last = page.Kvs[n-1].Key
	}
	k.n += int64(len(page.Kvs)) + page.EncodedKeys
}

func (k *keys) join(o keys) {
	k.kvs, k.encoded, k.n = append(k.kvs, o.kvs...), append(k.encoded, o.encoded...), k.n+o.n
	if o.n > 0 {
		k.last = o.last
	}
}

// snapshot is a consistent view of a span at one revision.
type snapshot struct {
	rev    int64 // read at
	header int64
	epoch  shard.Epoch
	pinned bool  // the client named the revision
	encode bool  // keys are wanted encoded
	total  int64 // keys in all parts, if it is known from an earlier page; else -1
	parts  []*part
}

// count is the number of keys in all parts.
func (s *snapshot) count() int64 {
	if s.total >= 0 {
		return s.total
	}
	return total(s.parts)
}

// reader reads at a pinned revision. It owns what a read must not fall behind, which writes raise too, and
// the counts that pages of one list share.
type reader struct {
	caller
	answered answered
	counts   counts.Cache
}

// Range reads a span at one revision over however many ranges hold it.
//
// Errors: shard.ErrFutureRevision and *shard.CompactedError for a revision that the client
// named; shard.ErrTimeout when patience ended.
func (r *reader) Range(ctx context.Context, op *pb.RangeOp, serializable bool) (*RangeResult, error) {
	return r.read(ctx, op, serializable, false)
}

// RangeEncoded is Range for who passes the keys on to a client of etcd: they come as they stand in its
// RangeResponse, encoded where they are stored. KVs holds them instead where they had to be looked at, to
// sort them or to leave some out.
func (r *reader) RangeEncoded(ctx context.Context, op *pb.RangeOp, serializable bool) (*RangeResult, error) {
	looked := op.CountOnly || sortsElsewhere(op) || filtered(op) && op.Limit > 0
	return r.read(ctx, op, serializable, !looked)
}

func (r *reader) read(ctx context.Context, op *pb.RangeOp, serializable, encode bool) (*RangeResult, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	if !serializable && readsPoint(op) {
		if res, ok, err := r.readPoint(ctx, wait, op); ok {
			return res, err
		}
	}
	var res *RangeResult
	err := r.withSnapshot(wait, op, serializable, func(s *snapshot) error {
		s.encode = encode
		var err error
		res, err = r.readAll(wait, s, op)
		return err
	})
	return res, err
}

// RangePages reads like Range, but hands out the keys in pages of about maxBytes, in key
// order and all of one snapshot. Sorted and filtered reads come as a single page. The last
// page alone has Count and More set.
func (r *reader) RangePages(ctx context.Context, op *pb.RangeOp, serializable bool, maxBytes int, fn func(*RangeResult) error) error {
	if op.CountOnly || sorted(op) || filtered(op) {
		res, err := r.Range(ctx, op, serializable)
		if err != nil {
			return err
		}
		return fn(res)
	}
	started := false
	return r.withSnapshot(ctx, op, serializable, func(s *snapshot) error {
		err := r.stream(ctx, s, op, int64(maxBytes), func(res *RangeResult) error {
			started = true
			return fn(res)
		})
		if started && err != nil { // what was sent cannot be sent again
			return &finalError{err}
		}
		return err
	})
}

// finalError keeps withSnapshot from starting over.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// withSnapshot pins a revision and runs read on it; it starts over with a new one where the
// epoch or the map changed, or where the revision that we chose was compacted meanwhile.
func (r *reader) withSnapshot(ctx context.Context, op *pb.RangeOp, serializable bool, read func(*snapshot) error) error {
	var a attempt
	for {
		s, err := r.pin(ctx, op, serializable)
		if err == nil {
			err = read(s)
		}
		if err == nil {
			return nil
		}
		var final *finalError
		if errors.As(err, &final) {
			return final.err
		}
		var compacted *shard.CompactedError
		again := errors.Is(err, errRemap) || errors.Is(err, shard.ErrStaleEpoch)
		if errors.As(err, &compacted) && op.Revision <= 0 {
			// What all local replicas have closed may be compacted in one of them, and stay so
			// for as long as another one lags: then the oracle is asked.
			again, serializable = true, false
		}
		if !again {
			return err
		}
		if over := r.pause(ctx, &a); over != nil {
			return outOfPatience(over, err)
		}
	}
}

// pin chooses the revision and cuts the span by ranges.
func (r *reader) pin(ctx context.Context, op *pb.RangeOp, serializable bool) (*snapshot, error) {
	m, err := r.rangeMap(ctx)
	if err != nil {
		return nil, err
	}
	s := &snapshot{pinned: op.Revision > 0, total: -1}
	span := shard.FromEtcd(op.Key, op.RangeEnd)
	for _, d := range m.Overlapping(span) {
		s.parts = append(s.parts, &part{desc: d, span: d.Span.Intersect(span)})
	}
	if c := r.cfg.Cluster.Compacted(); s.pinned && op.Revision < c {
		return nil, &shard.CompactedError{Revision: c}
	}
	if serializable && r.pinLocal(ctx, s, op) {
		return s, nil
	}
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return nil, err
	}
	s.rev, s.header, s.epoch = now.Revision, now.Revision, now.Epoch
	if s.pinned {
		if op.Revision > now.Revision {
			return nil, shard.ErrFutureRevision
		}
		if op.Revision < now.CompactRevision {
			return nil, &shard.CompactedError{Revision: now.CompactRevision}
		}
		s.rev = op.Revision
	}
	return s, nil
}

// pinLocal pins the lowest closed revision of the local replicas, after a bounded wait for
// what this node has answered itself. false: the span is not held here.
func (r *reader) pinLocal(ctx context.Context, s *snapshot, op *pb.RangeOp) bool {
	if r.cfg.Local == nil {
		return false
	}
	ids := make([]shard.RangeID, len(s.parts))
	for i, p := range s.parts {
		ids[i] = p.desc.ID
	}
	closed, ok := r.cfg.Local.ClosedRevision(ids)
	if !ok {
		return false
	}
	// Never for what the client names: to close a revision that was not handed out yet would bar it.
	want := max(r.answered.highest(ids), 1)
	if closed < want && op.Revision <= max(closed, want) {
		wctx, cancel := context.WithTimeout(ctx, r.cfg.LocalWait)
		_ = r.cfg.Local.WaitClosed(wctx, ids, want) // bounded: a node that is cut off serves what it has
		cancel()
		if closed, ok = r.cfg.Local.ClosedRevision(ids); !ok {
			return false
		}
	}
	if op.Revision > closed || closed <= 0 {
		return false // not known here yet: the linearizable way decides
	}
	s.rev, s.header = closed, closed
	if s.pinned {
		s.rev = op.Revision
	}
	for _, p := range s.parts {
		p.local, p.node = true, r.cfg.Local.Self()
	}
	return true
}

// pageSpec says what one page of a part should hold.
type pageSpec struct {
	span      shard.Span
	limit     int64
	maxBytes  int64
	countOnly bool
	skipCount bool
	keysOnly  bool
	reverse   bool
	filter    *pb.RangeOp // min and max revisions; nil: none
}

func (p *part) readRequest(s *snapshot, spec pageSpec) *pb.ReadRequest {
	req := &pb.ReadRequest{
		RangeId: uint64(p.desc.ID), Generation: uint64(p.desc.Generation),
		Span: pb.FromSpan(spec.span), Revision: s.rev, MinIndex: p.index,
		Limit: spec.limit, MaxBytes: spec.maxBytes, CountOnly: spec.countOnly,
		SkipCount: spec.skipCount, KeysOnly: spec.keysOnly, Reverse: spec.reverse, Encoded: s.encode,
	}
	if f := spec.filter; f != nil {
		req.MinModRevision, req.MaxModRevision = f.MinModRevision, f.MaxModRevision
		req.MinCreateRevision, req.MaxCreateRevision = f.MinCreateRevision, f.MaxCreateRevision
	}
	return req
}

// page reads one page of a part. The first of a part is fenced and read in one call to the
// leader; later ones go to the replica that answered, which has applied enough already.
func (r *reader) page(ctx context.Context, s *snapshot, p *part, spec pageSpec) (*pb.ReadResponse, error) {
	if p.local || p.node != 0 {
		return r.readAgain(ctx, s, p, spec)
	}
	if mutate.On(mutate.FollowerNoFence) && r.cfg.Local != nil {
		if _, here := p.desc.ReplicaOn(r.cfg.Local.Self()); here {
			p.node = r.cfg.Local.Self()
			return r.readAgain(ctx, s, p, spec)
		}
	}
	if r.mayReadHere(p.desc) {
		spec.maxBytes = min(spec.maxBytes, firstPageBytes)
	}
	resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Fence: &pb.FenceRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Span: pb.FromSpan(p.span),
			Revision: s.rev, Epoch: uint64(s.epoch), Read: p.readRequest(s, spec),
		}}
	})
	if err != nil {
		return nil, readError(err)
	}
	p.node = r.Leader(p.desc.ID)
	if resp.Fence == nil || resp.Fence.Read == nil {
		return nil, fmt.Errorf("router: %v: a fence was answered without its read", p.desc.ID)
	}
	p.index = resp.Fence.Index
	r.answered.note(p.desc.ID, s.rev)
	return resp.Fence.Read, nil
}

// firstPageBytes is the size of a leader's page where what follows is read from a replica of this node,
// which takes it nowhere.
const firstPageBytes = 64 << 10

// mayReadHere reports whether a replica of this node could go on where the leader's first page ends.
func (r *reader) mayReadHere(d shard.Descriptor) bool {
	if r.cfg.Local == nil {
		return false
	}
	self := r.cfg.Local.Self()
	return r.Leader(d.ID) != self && r.cfg.Local.Applied(d.ID) > 0
}

// readAgain reads a further page at the pinned revision: from this node's replica if it has applied the
// fence's index, else from the node that answered the fence, and where that fails from any other, since
// the index travels along.
func (r *reader) readAgain(ctx context.Context, s *snapshot, p *part, spec pageSpec) (*pb.ReadResponse, error) {
	if !p.local && r.cfg.Local != nil && p.index > 0 && r.cfg.Local.Applied(p.desc.ID) >= p.index {
		p.node = r.cfg.Local.Self()
	}
	nodes := []shard.NodeID{p.node}
	for _, rep := range p.desc.Replicas {
		if rep.Node != p.node && !p.local {
			nodes = append(nodes, rep.Node)
		}
	}
	var last error
	for _, n := range nodes {
		resp, err := r.cfg.Peers.Call(ctx, n, &pb.PeerRequest{Read: p.readRequest(s, spec)})
		if err == nil {
			if resp.Read == nil {
				return nil, fmt.Errorf("router: %v: a read was answered without its result", p.desc.ID)
			}
			p.node = n
			return resp.Read, nil
		}
		var wrong *shard.WrongRangeError
		if errors.As(err, &wrong) {
			return nil, r.remapped(ctx, p.desc.ID, n)
		}
		last = readError(err)
		if !errors.Is(last, shard.ErrUnavailable) {
			return nil, last
		}
	}
	return nil, last
}

// readError: a read changes nothing, so an unknown outcome is only a failed attempt.
func readError(err error) error {
	if errors.Is(err, shard.ErrAmbiguous) {
		return fmt.Errorf("%w: the connection broke", shard.ErrUnavailable)
	}
	return err
}

// drain reads a part to its end, or to limit keys (0: all of them).
func (r *reader) drain(ctx context.Context, s *snapshot, p *part, spec pageSpec, limit int64) (keys, error) {
	var got keys
	spec.span, spec.limit, spec.skipCount = p.span, limit, p.known
	for {
		resp, err := r.page(ctx, s, p, spec)
		if err != nil {
			return keys{}, err
		}
		if !p.known && resp.Count >= 0 {
			p.count, p.known = resp.Count, true
		}
		got.add(resp)
		if len(resp.Resume) == 0 || (limit > 0 && got.n >= limit) {
			return got, nil
		}
		if limit > 0 {
			spec.limit = limit - got.n
		}
		spec.skipCount = true
		spec.span = resumeAt(p.span, spec.span, resp.Resume, spec.reverse)
	}
}

// resumeAt is what is left of a span when the next key to look at is known.
func resumeAt(whole, cur shard.Span, resume []byte, reverse bool) shard.Span {
	if reverse { // the resume key itself is still to be read
		return shard.Span{Start: whole.Start, End: shard.Point(resume).End}
	}
	return shard.Span{Start: resume, End: cur.End}
}

// each runs fn on every part, a bounded number at once.
func (r *reader) each(ctx context.Context, parts []*part, fn func(ctx context.Context, i int, p *part) error) error {
	return eachOf(ctx, r.cfg.Parallel, parts, fn)
}

// eachOf runs fn for every part, at most parallel at a time.
func eachOf(ctx context.Context, parallel int, parts []*part, fn func(ctx context.Context, i int, p *part) error) error {
	if len(parts) == 1 {
		return fn(ctx, 0, parts[0])
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, p := range parts {
		g.Go(func() error { return fn(ctx, i, p) })
	}
	return g.Wait()
}

// readAll gathers the whole answer of a Range.
func (r *reader) readAll(ctx context.Context, s *snapshot, op *pb.RangeOp) (*RangeResult, error) {
	res := &RangeResult{Revision: s.header}
	if op.CountOnly {
		err := r.countParts(ctx, s, s.parts)
		res.Count = total(s.parts)
		return res, err
	}
	limit := op.Limit
	whole := limit <= 0 || sortsElsewhere(op) || filtered(op)
	got, more, err := r.gather(ctx, s, op, whole)
	if err != nil {
		return nil, err
	}
	res.KVs, res.Encoded, res.Count, res.More = got.kvs, got.encoded, s.count(), more
	if more && countable(op) {
		r.counts.Put(shard.FromEtcd(behind(got.last), op.RangeEnd), s.rev, res.Count-got.n)
		r.keepCounts(s)
	}
	if sortsElsewhere(op) {
		sortKVs(res.KVs, op)
	}
	if limit > 0 && int64(len(res.KVs)) > limit {
		res.KVs, res.More = res.KVs[:limit], true
	}
	if op.KeysOnly && op.SortTarget == sortByValue {
		for i, kv := range res.KVs { // the values were needed to sort by; results may be shared
			res.KVs[i] = &pb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
		}
	}
	return res, nil
}

// gather reads every part whole, in parallel, or the first limit keys in key order.
func (r *reader) gather(ctx context.Context, s *snapshot, op *pb.RangeOp, whole bool) (got keys, more bool, err error) {
	spec := r.spec(op)
	parts := slices.Clone(s.parts)
	if spec.reverse {
		slices.Reverse(parts)
	}
	switch {
	case len(parts) == 0:
		return keys{}, false, nil
	case whole:
		got, err = r.gatherAll(ctx, s, parts, spec)
		return got, false, err
	}
	if countable(op) {
		if n, ok := r.counts.Exact(shard.FromEtcd(op.Key, op.RangeEnd), s.rev); ok {
			s.total = n
			got, err = r.gatherFirst(ctx, s, parts, spec, op.Limit)
			return got, n > got.n, err
		}
	}
	// The first part's keys and the counts of all others are asked for at once; the others'
	// keys only as far as the limit is not reached.
	r.recallCounts(s, parts[1:])
	err = r.each(ctx, parts, func(ctx context.Context, i int, p *part) error {
		if i > 0 {
			return r.countParts(ctx, s, []*part{p})
		}
		var err error
		got, err = r.drain(ctx, s, p, spec, op.Limit)
		return err
	})
	if err != nil {
		return keys{}, false, err
	}
	rest := slices.DeleteFunc(parts[1:], func(p *part) bool { return p.count == 0 })
	if got.n < op.Limit {
		next, err := r.gatherFirst(ctx, s, rest, spec, op.Limit-got.n)
		if err != nil {
			return keys{}, false, err
		}
		got.join(next)
	}
	return got, total(s.parts) > got.n, nil
}

// gatherFirst reads the first limit keys in key order, one part after another; the counts are known.
func (r *reader) gatherFirst(ctx context.Context, s *snapshot, parts []*part, spec pageSpec, limit int64) (got keys, err error) {
	for _, p := range parts {
		if got.n >= limit {
			break
		}
		p.known = true
		next, err := r.drain(ctx, s, p, spec, limit-got.n)
		if err != nil {
			return keys{}, err
		}
		got.join(next)
	}
	return got, nil
}

func (r *reader) gatherAll(ctx context.Context, s *snapshot, parts []*part, spec pageSpec) (keys, error) {
	out := make([]keys, len(parts))
	err := r.each(ctx, parts, func(ctx context.Context, i int, p *part) error {
		var err error
		out[i], err = r.drain(ctx, s, p, spec, 0)
		return err
	})
	got := out[0]
	for _, next := range out[1:] {
		got.join(next)
	}
	return got, err
}

func (r *reader) spec(op *pb.RangeOp) pageSpec {
	spec := pageSpec{
		maxBytes: r.cfg.PageBytes,
		keysOnly: op.KeysOnly && op.SortTarget != sortByValue,
		reverse:  op.SortTarget == sortByKey && op.SortOrder == sortDescend,
	}
	if filtered(op) {
		spec.filter = op
	}
	return spec
}

// stream hands out pages in key order. The counts of later parts are learnt as they are
// read, so only the last page has Count and More.
func (r *reader) stream(ctx context.Context, s *snapshot, op *pb.RangeOp, maxBytes int64, fn func(*RangeResult) error) error {
	spec := r.spec(op)
	if maxBytes > 0 {
		spec.maxBytes = maxBytes
	}
	var sent int64
	var hold *RangeResult // a page is sent when it is known not to be the last
	for i, p := range s.parts {
		spec.span, spec.skipCount = p.span, false
		for {
			if op.Limit > 0 {
				if spec.limit = op.Limit - sent; spec.limit <= 0 {
					break
				}
			}
			resp, err := r.page(ctx, s, p, spec)
			if err != nil {
				return err
			}
			if !p.known && resp.Count >= 0 {
				p.count, p.known = resp.Count, true
			}
			sent += int64(len(resp.Kvs))
			if len(resp.Kvs) > 0 {
				if hold != nil {
					if err := fn(hold); err != nil {
						return err
					}
				}
				hold = &RangeResult{KVs: resp.Kvs, Revision: s.header}
			}
			if len(resp.Resume) == 0 {
				break
			}
			spec.span, spec.skipCount = resumeAt(p.span, spec.span, resp.Resume, false), true
		}
		if op.Limit > 0 && sent >= op.Limit {
			if err := r.countParts(ctx, s, s.parts[i+1:]); err != nil {
				return err
			}
			break
		}
	}
	if hold == nil {
		hold = &RangeResult{Revision: s.header}
	}
	hold.Count = total(s.parts)
	hold.More = hold.Count > sent
	return fn(hold)
}
