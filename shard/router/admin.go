package router

import (
	"context"
	"fmt"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// onParts runs fn for every range that overlaps one of the spans, and begins anew where the map has changed
// meanwhile: begin hears how many there are. fn must be safe to repeat.
func (r *Router) onParts(ctx context.Context, spans []shard.Span, begin func(n int), fn func(ctx context.Context, i int, p *part) error) error {
	return r.untilMapped(ctx, func() error {
		m, err := r.rangeMap(ctx)
		if err != nil {
			return err
		}
		parts := partsOf(m, spans)
		begin(len(parts))
		return eachOf(ctx, r.cfg.Parallel, parts, fn)
	})
}

// ExpireLease deletes the keys whose current lease it is, in every range that now overlaps one of the
// spans, as one transaction, and drops the ranges' lease attachments. grant is the meta index of the grant that
// ends: a later one of the same id is left alone. It returns the revision of the deletes, 0 if there was
// nothing to delete. It is safe to repeat. But after an error that is neither retryable nor shard.ErrTimeout
// the keys may be gone already, and the next call has nothing to delete.
func (r *Router) ExpireLease(ctx context.Context, lease int64, grant uint64, spans []shard.Span) (rev int64, err error) {
	err = r.untilMapped(ctx, func() error {
		m, err := r.rangeMap(ctx)
		if err != nil {
			return err
		}
		rev, err = r.expireIn(ctx, partsOf(m, spans), spans, &pb.Op{ExpireLease: lease, ExpireGrant: grant})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("router: expire lease %x: %w", lease, err)
	}
	return rev, nil
}

// expireIn has the first of the parts carry out what ends a lease in all of them.
func (r *Router) expireIn(ctx context.Context, parts []*part, spans []shard.Span, op *pb.Op) (rev int64, err error) {
	if len(parts) == 0 {
		return 0, nil
	}
	if len(parts) == 1 {
		op.ExpireSpan = pb.FromSpan(parts[0].hullOf(spans))
	}
	resp, err := r.callLeader(ctx, parts[0].desc, func(d shard.Descriptor) *pb.PeerRequest {
		w := &pb.WriteRequest{RangeId: uint64(d.ID), Generation: uint64(d.Generation), Op: op}
		if len(parts) > 1 { // the coordinator states the span of each participant
			w.Multi, w.Spans = true, pb.FromSpans(spans)
		}
		return &pb.PeerRequest{Write: w}
	})
	if err != nil || !resp.Write.GetWrote() {
		return 0, err
	}
	return resp.Write.Revision, nil
}

// LeaseKeys lists, in key order, the keys attached to a lease within the spans that the
// lease is known to touch.
func (r *Router) LeaseKeys(ctx context.Context, lease int64, spans []shard.Span) ([][]byte, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	ctx = wait
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return nil, err
	}
	var out [][][]byte
	err = r.onParts(ctx, spans, func(n int) { out = make([][][]byte, n) }, func(ctx context.Context, i int, p *part) error {
		if _, err := r.fence(ctx, p, now); err != nil {
			return err
		}
		resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
			return &pb.PeerRequest{LeaseKeys: &pb.LeaseKeysRequest{RangeId: uint64(d.ID), Generation: uint64(d.Generation), Lease: lease}}
		})
		if err != nil {
			return err
		}
		r.acked.note(p.desc.ID, now.Revision)
		out[i] = resp.LeaseKeys.GetKeys()
		return nil
	})
	return slices.Concat(out...), err
}

// fence fences a part's whole span at now and returns the index.
func (r *Router) fence(ctx context.Context, p *part, now Now) (uint64, error) {
	resp, err := r.callLeader(ctx, p.desc, func(d shard.Descriptor) *pb.PeerRequest {
		return &pb.PeerRequest{Fence: &pb.FenceRequest{
			RangeId: uint64(d.ID), Generation: uint64(d.Generation), Span: pb.FromSpan(p.span),
			Revision: now.Revision, Epoch: uint64(now.Epoch),
		}}
	})
	if err != nil {
		return 0, readError(err)
	}
	return resp.Fence.GetIndex(), nil
}

// HashResult is the hash of the whole key space at one revision.
type HashResult struct {
	Hash            uint64
	Revision        int64 // hashed at
	Header          int64
	CompactRevision int64
}

// HashKV hashes every range at rev (0: the current revision) and adds up: replicas of the
// node that asks first, so that equal answers of all nodes prove equal replicas.
func (r *Router) HashKV(ctx context.Context, rev int64) (HashResult, error) {
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return HashResult{}, err
	}
	res := HashResult{Revision: rev, Header: now.Revision, CompactRevision: now.CompactRevision}
	switch {
	case rev == 0:
		res.Revision = now.Revision
	case rev > now.Revision:
		return HashResult{}, shard.ErrFutureRevision
	case rev < now.CompactRevision:
		return HashResult{}, &shard.CompactedError{Revision: now.CompactRevision}
	}
	var hashes []uint64
	err = r.onParts(ctx, []shard.Span{shard.All}, func(n int) { hashes = make([]uint64, n) }, func(ctx context.Context, i int, p *part) error {
		var err error
		hashes[i], err = r.hashPart(ctx, p, now, res.Revision)
		return err
	})
	for _, h := range hashes {
		res.Hash += h
	}
	return res, err
}

func (r *Router) hashPart(ctx context.Context, p *part, now Now, rev int64) (uint64, error) {
	index, err := r.fence(ctx, p, now)
	if err != nil {
		return 0, err
	}
	node := r.Leader(p.desc.ID)
	if r.cfg.Local != nil {
		if _, here := p.desc.ReplicaOn(r.cfg.Local.Self()); here {
			node = r.cfg.Local.Self()
		}
	}
	resp, err := r.cfg.Peers.Call(ctx, node, &pb.PeerRequest{Hash: &pb.HashRequest{RangeId: uint64(p.desc.ID), Revision: rev, MinIndex: index}})
	if err != nil {
		return 0, readError(err)
	}
	return resp.Hash.GetHash(), nil
}

// RangeStatuses asks the leader of every range, or where none answers any replica, for its status, in key order.
func (r *Router) RangeStatuses(ctx context.Context) ([]*pb.RangeStatusResponse, error) {
	m, err := r.rangeMap(ctx)
	if err != nil {
		return nil, err
	}
	parts := partsOf(m, []shard.Span{shard.All})
	out := make([]*pb.RangeStatusResponse, len(parts))
	err = eachOf(ctx, r.cfg.Parallel, parts, func(ctx context.Context, i int, p *part) error {
		out[i] = r.rangeStatus(ctx, p)
		return nil
	})
	return out, err
}

// rangeStatus prefers the leader's word; a range that nobody answers for is shown without.
func (r *Router) rangeStatus(ctx context.Context, p *part) *pb.RangeStatusResponse {
	var best *pb.RangeStatusResponse
	nodes := []shard.NodeID{}
	if n := r.Leader(p.desc.ID); n != 0 {
		nodes = append(nodes, n)
	}
	for _, rep := range p.desc.Replicas {
		nodes = append(nodes, rep.Node)
	}
	for _, n := range nodes {
		resp, err := r.cfg.Peers.Call(ctx, n, &pb.PeerRequest{RangeStatus: &pb.RangeStatusRequest{RangeId: uint64(p.desc.ID)}})
		if err != nil || resp.RangeStatus == nil {
			continue
		}
		st := resp.RangeStatus
		if p.desc.NodeOf(shard.ReplicaID(st.Leader)) == n {
			return st
		}
		if best == nil || st.Term > best.Term {
			best = st
		}
	}
	if best == nil {
		best = &pb.RangeStatusResponse{Descriptor_: pb.FromDescriptor(p.desc)}
	}
	return best
}

// Transfer lets the leader of a range hand over to the replica on a node, and tells who leads then. shard.ErrInvalid:
// there is no such range, the node holds no replica of it that votes, or leads it already. shard.ErrTimeout: the node
// has not taken over, and why. req is a client's, checked.
func (r *Router) Transfer(ctx context.Context, req *pb.TransferRequest) (resp *pb.TransferResponse, err error) {
	id := shard.RangeID(req.RangeId)
	err = r.untilMapped(ctx, func() error {
		desc, known, err := r.rangeByID(ctx, id)
		switch {
		case err != nil:
			return err
		case !known:
			return fmt.Errorf("%w: there is no range %v", shard.ErrInvalid, id)
		}
		got, err := r.callLeader(ctx, desc, func(d shard.Descriptor) *pb.PeerRequest {
			return &pb.PeerRequest{Transfer: &pb.TransferRequest{RangeId: uint64(d.ID), Node: req.Node}}
		})
		if resp = got.GetTransfer(); err == nil && resp == nil {
			err = fmt.Errorf("%w: an answer without a leader", shard.ErrInvalid)
		}
		return err
	})
	if err == nil {
		r.LearnLeader(id, shard.NodeID(resp.LeaderNode))
	}
	return resp, err
}

// Split has the leader of a range carry out a split, or make it impossible, as req says, and returns what has become of it.
// It asks until ctx ends; what was asked for may be going on then, and asking again is harmless. shard.ErrInvalid: the leader
// refuses. req is the meta group's, and is shared.
func (r *Router) Split(ctx context.Context, req *pb.SplitRequest) (resp *pb.SplitResponse, err error) {
	err = r.untilMapped(ctx, func() error {
		desc, known, err := r.rangeByID(ctx, shard.RangeID(req.RangeId))
		switch {
		case err != nil:
			return err
		case !known: // it is in the meta group's state, and so it will be in the map
			return fmt.Errorf("%w: %v is not in the map here", shard.ErrUnavailable, shard.RangeID(req.RangeId))
		}
		got, err := r.callLeader(ctx, desc, func(shard.Descriptor) *pb.PeerRequest { return &pb.PeerRequest{Split: req} })
		if resp = got.GetSplit(); err == nil && resp == nil {
			err = fmt.Errorf("%w: an answer without a range", shard.ErrCorrupt)
		}
		return err
	})
	return resp, err
}

// rangeByID finds a range. One that is not known may be newer than the map here.
func (r *Router) rangeByID(ctx context.Context, id shard.RangeID) (desc shard.Descriptor, known bool, err error) {
	m, err := r.rangeMap(ctx)
	if err != nil {
		return desc, false, err
	}
	if desc, known = m.Get(id); known {
		return desc, true, nil
	}
	if err := r.cfg.Cluster.Refresh(ctx); err != nil {
		return desc, false, err
	}
	if m, err = r.rangeMap(ctx); err == nil {
		desc, known = m.Get(id)
	}
	return desc, known, err
}
