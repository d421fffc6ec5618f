package router

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
)

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

// Change has the leader of a range carry out a change, or make it impossible, as req says, and returns what has become of it.
// It asks until ctx ends; what was asked for may be going on then, and asking again is harmless. shard.ErrInvalid: the leader
// refuses. req is the meta group's, and is shared.
func (r *Router) Change(ctx context.Context, req *pb.ChangeRequest) (resp *pb.ChangeResponse, err error) {
	err = r.untilMapped(ctx, func() error {
		desc, known, err := r.rangeByID(ctx, shard.RangeID(req.RangeId))
		switch {
		case err != nil:
			return err
		case !known: // it is in the meta group's state, and so it will be in the map
			return fmt.Errorf("%w: %v is not in the map here", shard.ErrUnavailable, shard.RangeID(req.RangeId))
		}
		got, err := r.callLeader(ctx, desc, func(shard.Descriptor) *pb.PeerRequest { return &pb.PeerRequest{Change: req} })
		if resp = got.GetChange(); err == nil && resp == nil {
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
