package eval

import (
	"bytes"
	"context"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// ReadPage serves one page. Count is of all keys in the span, whatever the filters.
func ReadPage(ctx context.Context, st Reader, span shard.Span, req *pb.ReadRequest, maxBytes int64) (*pb.ReadResponse, error) {
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
	p := pager{req: req, resp: resp, bytesLeft: maxBytes, ctx: ctx}
	o := mvcc.ScanOptions{Span: span, Rev: rev, KeysOnly: req.KeysOnly, Reverse: req.Reverse, InPlace: req.Encoded}
	if err := st.Scan(o, p.add); err != nil {
		return nil, err
	}
	switch {
	case p.cancelled:
		return nil, ctx.Err()
	case req.SkipCount:
	case resp.Resume == nil:
		resp.Count = p.scanned
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
	if passesReadFilters(req, &kv) {
		if req.KeysOnly {
			kv.Value = nil
		}
		addKey(resp, req, &kv)
	}
	return resp, nil
}

// addKey adds a key to a page, in the form that was asked for.
func addKey(resp *pb.ReadResponse, req *pb.ReadRequest, kv *shard.KeyValue) {
	if !req.Encoded {
		resp.Kvs = append(resp.Kvs, pb.FromKeyValue(kv))
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
	bytesLeft int64
	scanned   int64
	ctx       context.Context
	cancelled bool
}

func (p *pager) add(kv *shard.KeyValue) bool {
	n := int64(len(p.resp.Kvs)) + p.resp.EncodedKeys
	full := p.req.Limit > 0 && n >= p.req.Limit
	if full || p.bytesLeft <= 0 && n > 0 {
		p.resp.Resume = bytes.Clone(kv.Key)
		return false
	}
	if p.scanned++; p.scanned%1024 == 0 {
		if p.cancelled = p.ctx.Err() != nil; p.cancelled {
			return false
		}
	}
	if !passesReadFilters(p.req, kv) {
		return true
	}
	p.bytesLeft -= int64(len(kv.Key) + len(kv.Value) + 32)
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
		p.resp.Encoded = slices.Grow(b, n+int(max(p.bytesLeft, 0)))
	}
}

// passesReadFilters applies the revision filters.
func passesReadFilters(r *pb.ReadRequest, kv *shard.KeyValue) bool {
	return (r.MaxModRevision == 0 || kv.ModRevision <= r.MaxModRevision) &&
		(r.MinModRevision == 0 || kv.ModRevision >= r.MinModRevision) &&
		(r.MaxCreateRevision == 0 || kv.CreateRevision <= r.MaxCreateRevision) &&
		(r.MinCreateRevision == 0 || kv.CreateRevision >= r.MinCreateRevision)
}
