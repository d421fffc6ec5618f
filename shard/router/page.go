package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// partRead is the part of a read that one range had when the read began: pinned at the snapshot's revision, fenced once
// first used, and read page by page. Where the range has lost keys since, the read of these goes on at the range that has
// them now, at the same revision: what has been read stays, and what has been counted.
type partRead struct {
	part // its range is the one that is read at present
	s    *snapshot
	source
	count     int64 // keys that have been counted
	uncounted shard.Span
	known     bool // nothing is uncounted
	took      int  // bytes that the range tookOf has brought
	tookOf    shard.RangeID
}

// source is where the pages of a range come from.
type source struct {
	node  shard.NodeID // who answered the fence, and is asked for further pages
	index uint64       // from the fence: what a replica must have applied
	local bool         // read here, final already
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

// page reads the next page of spec.span, which is what is left of the part. It returns what is left then; none: nothing.
func (p *partRead) page(ctx context.Context, spec pageSpec) (resp *pb.ReadResponse, left shard.Span, none bool, err error) {
	var a attempt
	rest := spec.span
	for {
		p.find(spec)
		var counts bool
		spec.span, counts = p.piece(rest, spec.reverse)
		spec.skipCount = !counts
		if resp, err = p.pageHere(ctx, spec); err == nil {
			p.listed(resp)
			behind, end := beside(rest, spec.span, spec.reverse)
			end = end || mutate.On(mutate.MovedEnds)
			if counts {
				p.counted(resp, behind, end)
			}
			if len(resp.Resume) > 0 {
				return resp, resumeAt(rest, resp.Resume, spec.reverse), false, nil
			}
			return resp, behind, end, nil
		}
		if err = p.recover(ctx, &a, err); err != nil {
			return nil, rest, false, err
		}
		spec.span = rest
	}
}

// piece is what of rest the part's range is to be asked for, and whether for its count, too: with the first page of what
// is uncounted. A page ends where that begins.
func (p *partRead) piece(rest shard.Span, reverse bool) (piece shard.Span, counts bool) {
	piece = p.desc.Span.Intersect(rest)
	switch {
	case p.known:
	case rest.Equal(p.uncounted):
		return piece, true
	case reverse:
		piece = piece.Intersect(shard.Span{Start: p.uncounted.End})
	default:
		piece = piece.Intersect(shard.Span{End: p.uncounted.Start})
	}
	return piece, false
}

// counted takes the count of what the part's range has of what was uncounted; behind is the rest of it.
func (p *partRead) counted(page *pb.ReadResponse, behind shard.Span, end bool) {
	if page.Count >= 0 {
		p.count += page.Count
		p.uncounted, p.known = behind, end || mutate.On(mutate.MovedCounted)
	}
}

// find looks up the range that has the next key of spec.span, if it is known that the part's range has not.
func (p *partRead) find(spec pageSpec) {
	m := p.s.r.maps.newest()
	d, ok := m.Get(p.desc.ID)
	if ok && d.Generation <= p.desc.Generation && holdsNext(p.desc.Span, spec) {
		return
	}
	d = lookup(m, spec)
	// The fence of a range that has got smaller stands: its log is the same.
	if d.ID != p.desc.ID || !p.desc.Span.ContainsSpan(d.Span) {
		p.source = source{node: p.s.localNode(d.ID)}
		p.local = p.node != 0
		if mutate.On(mutate.MovedUnfenced) {
			p.node = d.Replicas[0].Node
		}
	}
	p.desc = d
}

// holdsNext reports whether a range has the next key.
func holdsNext(has shard.Span, spec pageSpec) bool {
	if spec.reverse {
		return has.ContainsSpan(shard.Span{Start: has.Start, End: spec.span.End}) && has.Overlaps(spec.span)
	}
	return has.Contains(spec.span.Start)
}

// lookup finds the range that has the next key.
func lookup(m *shard.Map, spec pageSpec) (d shard.Descriptor) {
	if !spec.reverse {
		return m.Lookup(spec.span.Start)
	}
	for o := range m.Overlapping(spec.span) {
		d = o
	}
	return d
}

// beside is what is left of a span behind a piece with which it begins, in the direction of the read; end: nothing.
func beside(whole, piece shard.Span, reverse bool) (left shard.Span, end bool) {
	if reverse {
		return shard.Span{Start: whole.Start, End: piece.Start}, bytes.Equal(whole.Start, piece.Start)
	}
	return shard.Span{Start: piece.End, End: whole.End}, bytes.Equal(whole.End, piece.End)
}

// recover makes the page be asked for again where something has moved: the range, the oracle, or who has answered so
// far. It returns the error that ends the read.
func (p *partRead) recover(ctx context.Context, a *attempt, err error) error {
	switch {
	case errors.Is(err, errRemap):
		if mutate.On(mutate.MovedNewer) {
			now, _ := p.s.r.cfg.Cluster.Current(ctx)
			p.s.rev = now.Revision
		}
		if !p.local {
			p.node = 0 // it may have lost its replica
		}
		if over := p.s.r.pause(ctx, a, err); over != nil {
			return outOfPatience(over, err)
		}
		return nil
	case errors.Is(err, shard.ErrStaleEpoch):
		if over := p.s.r.pause(ctx, a, err); over != nil {
			return outOfPatience(over, err)
		}
		_, err = p.s.renewEpoch(ctx)
		return err
	case errors.Is(err, shard.ErrUnavailable) && p.node != 0 && ctx.Err() == nil:
		p.node, p.local = 0, false // the leader, wherever it is now
		return nil
	}
	return err
}

// pageHere reads a page of the part's range. Its first is fenced and read in one call to the leader. Later ones go to a
// replica that has applied what the fence named.
func (p *partRead) pageHere(ctx context.Context, spec pageSpec) (*pb.ReadResponse, error) {
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
	epoch, err := s.epochOf(ctx)
	if err != nil {
		return nil, err
	}
	if p.mayReadHere() {
		spec.maxBytes = min(spec.maxBytes, firstPageBytes)
	}
	resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
		f := new(fencedRead)
		req := f.request(d.ID, d.Generation, p.desc.Span.Intersect(p.span), s.rev, epoch)
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
		resp, err := r.call(ctx, n, &pb.PeerRequest{Read: req})
		if err == nil {
			if resp.Read == nil {
				return nil, fmt.Errorf("router: %v: a read was answered without its result", p.desc.ID)
			}
			p.node = n
			return resp.Read, nil
		}
		var wrong *shard.WrongRangeError
		if errors.As(err, &wrong) {
			return nil, r.remapped(ctx, p.desc, n, wrong)
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
	spec.span, spec.limit = p.span, limit
	for {
		resp, left, none, err := p.page(ctx, spec)
		if err != nil {
			return keys{}, err
		}
		got.add(resp)
		if err := metered(ctx, resp); err != nil {
			return keys{}, err
		}
		if none || (limit > 0 && got.n >= limit) {
			return got, nil
		}
		if limit > 0 {
			spec.limit = limit - got.n
		}
		spec.span = left
	}
}

// countRest counts what has not been counted.
func (p *partRead) countRest(ctx context.Context) error {
	for !p.known {
		if _, _, _, err := p.page(ctx, pageSpec{span: p.uncounted, countOnly: true}); err != nil {
			return err
		}
	}
	return nil
}

// resumeAt is what is left of a span when the next key to look at is known.
func resumeAt(cur shard.Span, resume []byte, reverse bool) shard.Span {
	if reverse { // the resume key itself is still to be read
		return shard.Span{Start: cur.Start, End: shard.Point(resume).End}
	}
	return shard.Span{Start: resume, End: cur.End}
}
