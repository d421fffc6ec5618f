package router

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// partRead is the part of a read that one range has: pinned at the snapshot's revision, fenced once first
// used, and read page by page.
type partRead struct {
	part
	s     *snapshot
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

// bound writes what the page should hold into a request.
func (spec *pageSpec) bound(req *pb.ReadRequest) {
	req.Limit, req.MaxBytes, req.CountOnly, req.SkipCount = spec.limit, spec.maxBytes, spec.countOnly, spec.skipCount
	req.KeysOnly, req.Reverse = spec.keysOnly, spec.reverse
	if f := spec.filter; f != nil {
		req.MinModRevision, req.MaxModRevision = f.MinModRevision, f.MaxModRevision
		req.MinCreateRevision, req.MaxCreateRevision = f.MinCreateRevision, f.MaxCreateRevision
	}
}

// page reads one page. The first of a part is fenced and read in one call to the leader. Later ones go to a
// replica that has applied what the fence named.
func (p *partRead) page(ctx context.Context, spec pageSpec) (*pb.ReadResponse, error) {
	s, r := p.s, p.s.r
	if p.local || p.node != 0 {
		return p.nextPage(ctx, spec)
	}
	if mutate.On(mutate.FollowerNoFence) && r.cfg.Local != nil {
		if _, here := p.desc.ReplicaOn(r.cfg.Local.Self()); here {
			p.node = r.cfg.Local.Self()
			return p.nextPage(ctx, spec)
		}
	}
	if p.mayReadHere() {
		spec.maxBytes = min(spec.maxBytes, firstPageBytes)
	}
	resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
		f := new(fencedRead)
		req := f.request(d.ID, d.Generation, p.span, s.rev, s.epoch)
		spec.bound(&f.read)
		// Not the part's whole span: a part is fenced again where the hint to its leader was lost between pages.
		f.read.Span, f.read.MinIndex, f.read.Encoded = pb.FromSpan(spec.span), p.index, s.encode
		return req
	})
	if err != nil {
		return nil, readError(err)
	}
	p.node = r.Leader(p.desc.ID)
	if resp.Fence == nil || resp.Fence.Read == nil {
		return nil, fmt.Errorf("%w: %v", errNoRead, p.desc.ID)
	}
	p.index = resp.Fence.Index
	r.acked.note(p.desc.ID, s.rev)
	return resp.Fence.Read, nil
}

// firstPageBytes is the size of a leader's page where what follows is read from a replica of this node,
// which takes it nowhere.
const firstPageBytes = 64 << 10

// mayReadHere reports whether a replica of this node could go on where the leader's first page ends.
func (p *partRead) mayReadHere() bool {
	r := p.s.r
	if r.cfg.Local == nil {
		return false
	}
	self := r.cfg.Local.Self()
	return r.Leader(p.desc.ID) != self && r.cfg.Local.Applied(p.desc.ID) > 0
}

// nextPage reads a further page at the pinned revision. This node's replica is preferred if it has applied the
// fence's index, then the node that answered the fence. Any other will do as well, since the index travels
// along.
func (p *partRead) nextPage(ctx context.Context, spec pageSpec) (*pb.ReadResponse, error) {
	r := p.s.r
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
		req := &pb.ReadRequest{
			RangeId: uint64(p.desc.ID), Generation: uint64(p.desc.Generation), Span: pb.FromSpan(spec.span),
			Revision: p.s.rev, MinIndex: p.index, Encoded: p.s.encode,
		}
		spec.bound(req)
		resp, err := r.cfg.Peers.Call(ctx, n, &pb.PeerRequest{Read: req})
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

// drain reads to the end of the part, or limit keys (0: all of them).
func (p *partRead) drain(ctx context.Context, spec pageSpec, limit int64) (keys, error) {
	var got keys
	spec.span, spec.limit, spec.skipCount = p.span, limit, p.known
	for {
		resp, err := p.page(ctx, spec)
		if err != nil {
			return keys{}, err
		}
		p.learnCount(resp)
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

// learnCount takes the count of the whole part from a page that tells it.
func (p *partRead) learnCount(page *pb.ReadResponse) {
	if !p.known && page.Count >= 0 {
		p.count, p.known = page.Count, true
	}
}

// resumeAt is what is left of a span when the next key to look at is known.
func resumeAt(whole, cur shard.Span, resume []byte, reverse bool) shard.Span {
	if reverse { // the resume key itself is still to be read
		return shard.Span{Start: whole.Start, End: shard.Point(resume).End}
	}
	return shard.Span{Start: resume, End: cur.End}
}
