package lead

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// SplitTxn splits a request by the ranges that hold its keys: what each locks, and what the coordinator needs
// to read of it. spans are those to which the lease of an expiry is attached. The parts are in key order.
func SplitTxn(m *shard.Map, op *pb.Op, spans []shard.Span) []*TxnPart {
	s := splitter{m: m}
	if lease := op.GetExpireLease(); lease != 0 {
		for _, span := range spans {
			s.each(span, func(p *TxnPart, clip shard.Span) {
				p.Body.Lease = lease
				p.Body.ExpireSpan = pb.FromSpan(hull(p.Body.ExpireSpan, clip))
			})
		}
	} else {
		s.op(op)
	}
	slices.SortFunc(s.parts, func(a, b *TxnPart) int { return bytes.Compare(a.span.Start, b.span.Start) })
	return s.parts
}

// hull is the smallest span that holds both; nil: none yet.
func hull(s *pb.Span, o shard.Span) shard.Span {
	if s == nil {
		return o
	}
	return pb.ToSpan(s).Hull(o)
}

type splitter struct {
	m     *shard.Map
	parts []*TxnPart
}

// each calls fn for every range that holds keys of span.
func (s *splitter) each(span shard.Span, fn func(p *TxnPart, clip shard.Span)) {
	if span.Empty() {
		return
	}
	for d := range s.m.Overlapping(span) {
		clip := d.Span.Intersect(span)
		i := slices.IndexFunc(s.parts, func(p *TxnPart) bool { return p.Range == d.ID })
		if i < 0 {
			i = len(s.parts)
			s.parts = append(s.parts, &TxnPart{Range: d.ID, Key: clip.Start, span: d.Span, Body: &pb.Prepare{}})
		}
		p := s.parts[i]
		if bytes.Compare(clip.Start, p.Key) < 0 {
			p.Key = clip.Start
		}
		fn(p, clip)
	}
}

func (s *splitter) read(key, end []byte, want bool) {
	s.each(shard.FromEtcd(key, end), func(p *TxnPart, clip shard.Span) {
		p.Body.Read = append(p.Body.Read, pb.FromSpan(clip))
		if want {
			p.Want = append(p.Want, clip)
		}
	})
}

func (s *splitter) op(op *pb.Op) {
	switch {
	case op.GetRange() != nil:
		s.rangeOp(op.Range)
	case op.GetPut() != nil:
		s.put(op.Put)
	case op.GetDelete() != nil:
		s.del(op.Delete)
	case op.GetTxn() != nil:
		for _, c := range op.Txn.Compare {
			s.read(c.Key, c.RangeEnd, true)
		}
		for _, ops := range [2][]*pb.Op{op.Txn.Success, op.Txn.Failure} {
			for _, o := range ops {
				s.op(o)
			}
		}
	}
}

func (s *splitter) rangeOp(r *pb.RangeOp) {
	if !r.CountOnly || r.Revision > 0 {
		s.read(r.Key, r.RangeEnd, r.Revision == 0)
		return
	}
	s.each(shard.FromEtcd(r.Key, r.RangeEnd), func(p *TxnPart, clip shard.Span) {
		p.Body.Read = append(p.Body.Read, pb.FromSpan(clip))
		p.count = append(p.count, clip)
	})
}

func (s *splitter) put(o *pb.PutOp) {
	s.each(shard.Point(o.Key), func(p *TxnPart, clip shard.Span) {
		p.Body.Write = append(p.Body.Write, pb.FromSpan(clip))
		if o.PrevKv || o.IgnoreValue || o.IgnoreLease {
			p.Want = append(p.Want, clip)
		}
		if o.Lease != 0 {
			p.Body.Leases = append(p.Body.Leases, &pb.LeaseUse{Key: o.Key, Lease: o.Lease})
		}
	})
}

func (s *splitter) del(o *pb.DeleteOp) {
	s.each(shard.FromEtcd(o.Key, o.RangeEnd), func(p *TxnPart, clip shard.Span) {
		p.Body.Write = append(p.Body.Write, pb.FromSpan(clip))
		if len(o.RangeEnd) == 0 || o.PrevKv {
			p.Want = append(p.Want, clip)
		} else {
			p.count = append(p.count, clip)
		}
	})
}

// Limits of what a participant sends along with its lock. The rest is read when it is needed.
const (
	PrepareKeysMax  = 512
	PrepareBytesMax = 256 << 10
)

// LockedPages reads what a coordinator wants of the spans that it has locked.
func LockedPages(st eval.Reader, req *pb.PrepareRequest, resp *pb.PrepareResponse) error {
	left := int64(PrepareBytesMax)
	for _, w := range req.Want {
		if left <= 0 {
			break
		}
		page, err := eval.ReadPage(context.Background(), st, pb.ToSpan(w),
			&pb.ReadRequest{Limit: PrepareKeysMax, SkipCount: true}, left)
		if err != nil {
			return err
		}
		for _, kv := range page.Kvs {
			left -= int64(len(kv.Key) + len(kv.Value) + 32)
		}
		resp.Pages = append(resp.Pages, page)
	}
	for _, c := range req.Count {
		n, err := st.Count(pb.ToSpan(c), math.MaxInt64)
		if err != nil {
			return err
		}
		resp.Counts = append(resp.Counts, n)
	}
	return nil
}

// LockedReader is the locked content of all participants as one store. It uses what came with the locks. It
// reads the rest from replicas that have applied the locks, so the content is the same.
type LockedReader struct {
	Ctx   context.Context
	Parts []*TxnPart
	Read  func(ctx context.Context, p *TxnPart, req *pb.ReadRequest) (*pb.ReadResponse, error)
	At    int64 // what the newest revision is; 0: what is locked
}

var _ eval.Reader = (*LockedReader)(nil)

// CompactRevision is 0: participants answer for themselves.
func (r *LockedReader) CompactRevision() int64 { return 0 }

// LeaseKeys is never called: participants find the keys of an expiry.
func (r *LockedReader) LeaseKeys(int64, int) ([][]byte, error) {
	return nil, fmt.Errorf("%w: keys of a lease among locked ones", shard.ErrUnimplemented)
}

// page finds a part of a locked span in what came with the lock. ok is false if the part is not complete
// there.
func (t *TxnPart) page(span shard.Span) (kvs []*pb.KeyValue, ok bool) {
	for i, page := range t.Resp.Pages {
		if page.Resume != nil || !t.Want[i].ContainsSpan(span) {
			continue
		}
		lo, _ := slices.BinarySearchFunc(page.Kvs, span.Start, byKey)
		hi := len(page.Kvs)
		if !span.Unbounded() {
			hi, _ = slices.BinarySearchFunc(page.Kvs, span.End, byKey)
		}
		return page.Kvs[lo:max(lo, hi)], true
	}
	return nil, false
}

func byKey(kv *pb.KeyValue, key []byte) int { return bytes.Compare(kv.Key, key) }

// Get implements Reader.
func (r *LockedReader) Get(key []byte, rev int64) (shard.KeyValue, bool, error) {
	var out shard.KeyValue
	found := false
	err := r.Scan(mvcc.ScanOptions{Span: shard.Point(key), Rev: rev}, func(kv *shard.KeyValue) bool {
		out, found = *kv, true
		return false
	})
	return out, found, err
}

// Head implements Reader.
func (r *LockedReader) Head(key []byte, rev int64) (shard.KeyValue, bool, error) {
	kv, ok, err := r.Get(key, rev)
	kv.Value = nil
	return kv, ok, err
}

// Scan implements Reader, ascending only.
func (r *LockedReader) Scan(o mvcc.ScanOptions, fn func(*shard.KeyValue) bool) error {
	for _, p := range r.Parts {
		clip := p.span.Intersect(o.Span)
		if clip.Empty() {
			continue
		}
		more, err := r.scanPart(p, clip, o, fn)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (r *LockedReader) scanPart(p *TxnPart, span shard.Span, o mvcc.ScanOptions, fn func(*shard.KeyValue) bool) (more bool, err error) {
	emit := func(kvs []*pb.KeyValue) bool {
		for _, k := range kvs {
			kv := pb.ToKeyValue(k)
			if !fn(&kv) {
				return false
			}
		}
		return true
	}
	if o.Rev == math.MaxInt64 {
		if kvs, ok := p.page(span); ok {
			return emit(kvs), nil
		}
	}
	for {
		resp, err := r.Read(r.Ctx, p, &pb.ReadRequest{
			Span: pb.FromSpan(span), Revision: r.revision(o.Rev), MinIndex: p.Resp.Index, KeysOnly: o.KeysOnly, SkipCount: true,
		})
		if err != nil {
			return false, err
		}
		if !emit(resp.Kvs) {
			return false, nil
		}
		if resp.Resume == nil {
			return true, nil
		}
		if bytes.Compare(resp.Resume, span.Start) <= 0 {
			return false, fmt.Errorf("%w: %v: a page that does not go on", shard.ErrInvalid, p.Range)
		}
		span.Start = resp.Resume
	}
}

// revision is what a ReadRequest says for a revision.
func (r *LockedReader) revision(rev int64) int64 {
	if rev == math.MaxInt64 {
		return r.At
	}
	return rev
}

// Count implements Reader.
func (r *LockedReader) Count(span shard.Span, rev int64) (int64, error) {
	total := int64(0)
	for _, p := range r.Parts {
		clip := p.span.Intersect(span)
		if clip.Empty() {
			continue
		}
		n, err := r.countPart(p, clip, rev)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func (r *LockedReader) countPart(p *TxnPart, span shard.Span, rev int64) (int64, error) {
	if rev == math.MaxInt64 {
		for i, c := range p.count {
			if i < len(p.Resp.Counts) && c.Equal(span) {
				return p.Resp.Counts[i], nil
			}
		}
		if kvs, ok := p.page(span); ok {
			return int64(len(kvs)), nil
		}
	}
	resp, err := r.Read(r.Ctx, p, &pb.ReadRequest{
		Span: pb.FromSpan(span), Revision: r.revision(rev), MinIndex: p.Resp.Index, CountOnly: true,
	})
	return resp.GetCount(), err
}
