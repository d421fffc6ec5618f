package router

import (
	"context"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// snapshot is a consistent view of a span at one revision, and gathers what is read of it from the parts.
type snapshot struct {
	r      *reader
	rev    int64 // read at
	header int64
	epoch  epoch
	pinned bool  // the client named the revision
	local  bool  // serializable: replicas of this node are read, as far as they are final at rev
	encode bool  // keys are wanted encoded
	total  int64 // keys in all parts, if it is known from an earlier page; else -1
	parts  []*partRead
}

// newSnapshot cuts the span of a read by ranges. Its revision is still to be chosen.
func newSnapshot(r *reader, m *shard.Map, op *pb.RangeOp) *snapshot {
	span := shard.FromEtcd(op.Key, op.RangeEnd)
	s := &snapshot{r: r, pinned: op.Revision > 0, total: -1}
	parts := make([]partRead, 0, 1)
	for d := range m.Overlapping(span) {
		clip := d.Span.Intersect(span)
		parts = append(parts, partRead{part: part{desc: d, span: clip}, s: s, uncounted: clip})
	}
	s.parts = make([]*partRead, len(parts))
	for i := range parts {
		s.parts[i] = &parts[i]
	}
	return s
}

// count is the number of keys in all parts.
func (s *snapshot) count() int64 {
	if s.total >= 0 {
		return s.total
	}
	return total(s.parts)
}

// each runs fn on every one of the parts, a bounded number at once.
func (s *snapshot) each(ctx context.Context, parts []*partRead, fn func(ctx context.Context, i int, p *partRead) error) error {
	return eachOf(ctx, s.r.cfg.Parallel, parts, fn)
}

// readAll gathers the whole answer of a Range.
func (s *snapshot) readAll(ctx context.Context, op *pb.RangeOp) (*RangeResult, error) {
	res := &RangeResult{Revision: s.header}
	if op.CountOnly {
		err := s.countParts(ctx, s.parts)
		res.Count = total(s.parts)
		return res, err
	}
	limit := op.Limit
	whole := limit <= 0 || sortsElsewhere(op) || filtered(op)
	got, more, err := s.gather(ctx, op, whole)
	if err != nil {
		return nil, err
	}
	res.KVs, res.Encoded, res.Count, res.More = got.kvs, got.encoded, s.count(), more
	if more && countable(op) {
		s.r.counts.Put(shard.FromEtcd(successor(got.last), op.RangeEnd), s.rev, res.Count-got.n)
		s.keepCounts()
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
func (s *snapshot) gather(ctx context.Context, op *pb.RangeOp, whole bool) (got keys, more bool, err error) {
	spec := s.spec(op)
	parts := slices.Clone(s.parts)
	if spec.reverse {
		slices.Reverse(parts)
	}
	switch {
	case len(parts) == 0:
		return keys{}, false, nil
	case whole:
		got, err = s.gatherAll(ctx, parts, spec)
		return got, false, err
	}
	if countable(op) {
		if n, ok := s.r.counts.Exact(shard.FromEtcd(op.Key, op.RangeEnd), s.rev); ok {
			s.total = n
			got, err = s.gatherFirst(ctx, parts, spec, op.Limit)
			return got, n > got.n, err
		}
	}
	// The first part is read while the others are counted. Their keys are read as far as the limit is not
	// reached.
	s.recallCounts(parts[1:])
	err = s.each(ctx, parts, func(ctx context.Context, i int, p *partRead) error {
		if i == 0 {
			var err error
			if got, err = p.drain(ctx, spec, op.Limit); err != nil {
				return err
			}
		}
		return p.countRest(ctx)
	})
	if err != nil {
		return keys{}, false, err
	}
	rest := slices.DeleteFunc(parts[1:], func(p *partRead) bool { return p.count == 0 })
	if got.n < op.Limit {
		next, err := s.gatherFirst(ctx, rest, spec, op.Limit-got.n)
		if err != nil {
			return keys{}, false, err
		}
		got.join(next)
	}
	return got, total(s.parts) > got.n, nil
}

// gatherFirst reads the first limit keys in key order, one part after another; the counts are known.
func (s *snapshot) gatherFirst(ctx context.Context, parts []*partRead, spec pageSpec, limit int64) (got keys, err error) {
	for _, p := range parts {
		if got.n >= limit {
			break
		}
		p.known = true
		next, err := p.drain(ctx, spec, limit-got.n)
		if err != nil {
			return keys{}, err
		}
		got.join(next)
	}
	return got, nil
}

func (s *snapshot) gatherAll(ctx context.Context, parts []*partRead, spec pageSpec) (keys, error) {
	out := make([]keys, len(parts))
	err := s.each(ctx, parts, func(ctx context.Context, i int, p *partRead) error {
		var err error
		out[i], err = p.drain(ctx, spec, 0)
		return err
	})
	got := out[0]
	for _, next := range out[1:] {
		got.join(next)
	}
	return got, err
}

// stream passes pages to fn in key order. The counts of later parts are learnt as they are read, so that only
// the last page has Count and More.
func (s *snapshot) stream(ctx context.Context, op *pb.RangeOp, maxBytes int64, fn func(*RangeResult) error) error {
	spec := s.spec(op)
	if maxBytes > 0 {
		spec.maxBytes = maxBytes
	}
	var sent int64
	var pending *RangeResult // a page is sent when it is known not to be the last
	for i, p := range s.parts {
		spec.span = p.span
		for {
			if op.Limit > 0 {
				if spec.limit = op.Limit - sent; spec.limit <= 0 {
					break
				}
			}
			resp, left, none, err := s.patientPage(ctx, p, spec)
			if err != nil {
				return err
			}
			sent += int64(len(resp.Kvs))
			if len(resp.Kvs) > 0 {
				if pending != nil {
					if err := fn(pending); err != nil {
						return err
					}
				}
				pending = &RangeResult{KVs: resp.Kvs, Revision: s.header}
			}
			if none {
				break
			}
			spec.span = left
		}
		if op.Limit > 0 && sent >= op.Limit {
			if err := s.countParts(ctx, s.parts[i:]); err != nil {
				return err
			}
			break
		}
	}
	if pending == nil {
		pending = &RangeResult{Revision: s.header}
	}
	pending.Count = total(s.parts)
	pending.More = pending.Count > sent
	return fn(pending)
}

// patientPage reads a page of a stream, which as a whole may take as long as its client wants.
func (s *snapshot) patientPage(ctx context.Context, p *partRead, spec pageSpec) (*pb.ReadResponse, shard.Span, bool, error) {
	wait := s.r.patience(ctx)
	defer wait.Cancel()
	return p.page(wait, spec)
}

func (s *snapshot) spec(op *pb.RangeOp) pageSpec {
	spec := pageSpec{
		maxBytes: s.r.cfg.PageBytes,
		keysOnly: op.KeysOnly && op.SortTarget != sortByValue,
		reverse:  op.SortTarget == sortByKey && op.SortOrder == sortDescend,
	}
	if filtered(op) {
		spec.filter = op
	}
	return spec
}
