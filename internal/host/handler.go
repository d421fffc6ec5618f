package host

import (
	"context"
	"fmt"

	"pontoon/internal/backend"
	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/internal/underway"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// dispatch gives calls to the parts that serve them, as the table in package calls says.
type dispatch struct {
	self    shard.NodeID
	cluster *backend.Cluster
	ranges  *ranges
	closer  *closer
	meta    *metaGroup
	status  func(*pb.NodeStatusRequest) *pb.NodeStatusResponse
	vitals  *vitals
	sums    *sums

	pages, scans, hashes *pool // of calls that read much
	pins                 *pins
	room                 *underway.Room // for writes of clients to the ranges here
}

// handle answers a call of another node, or of this one. It never blocks: what takes time is
// finished by whoever calls reply.
func (d *dispatch) handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	kind, id := calls.Of(req)
	switch calls.Table[kind].At {
	case calls.AtRange:
		d.handleRange(ctx, kind, id, req, reply)
	case calls.AtNode:
		d.handleNode(ctx, kind, req, reply)
	default: // it also says that nobody knows a call
		if d.meta == nil { // who has no replica may still know who leads
			reply(failed(&shard.NotLeaderError{Range: shard.MetaID, Leader: d.cluster.Client.Leader()}))
			return
		}
		d.meta.Handle(ctx, from, req, reply)
	}
}

// atNode serves the calls that the node itself answers.
var atNode = [calls.Kinds]func(ctx context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)){
	calls.ClosedPush: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		d.closer.told(req.ClosedPush)
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	},
	calls.Close: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		d.cluster.Learn(req.Close.Revision, shard.Epoch(req.Close.Epoch))
		d.closer.requested(req.Close)
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	},
	calls.SettingsPush: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		d.cluster.Learn(0, shard.Epoch(req.Epoch)) // answers of whoever led before count no more
		d.cluster.Client.Pushed(req.SettingsPush, func(confirmed *pb.SettingsPush, err error) {
			reply(&pb.PeerResponse{Error: pb.ErrorToPB(err), SettingsPush: confirmed})
		})
	},
	calls.Distrust: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		d.ranges.repairs.damaged(shard.RangeID(req.Distrust.ReplicaOf), fmt.Errorf("%w: %s", shard.ErrCorrupt, req.Distrust.Why))
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	},
	calls.NodeStatus: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		reply(&pb.PeerResponse{NodeStatus: d.status(req.NodeStatus)})
	},
	calls.Pin: func(ctx context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		d.pin(ctx, req.Pin, reply)
	},
	calls.PinPage: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		page, err := d.pins.page(req.PinPage)
		if err != nil {
			reply(failed(err))
			return
		}
		reply(&pb.PeerResponse{PinPage: page})
	},
	calls.PinKeep: func(_ context.Context, d *dispatch, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		if err := d.pins.keep(req.PinKeep); err != nil {
			reply(failed(err))
			return
		}
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	},
}

// handleNode serves what looks at every range here like what reads much of one.
func (d *dispatch) handleNode(ctx context.Context, kind calls.Kind, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	if calls.Table[kind].Slow {
		d.scans.submit(ctx, reply, func() { atNode[kind](ctx, d, req, reply) })
		return
	}
	atNode[kind](ctx, d, req, reply)
}

func (d *dispatch) handleRange(ctx context.Context, kind calls.Kind, id shard.RangeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	rep, ok := d.ranges.get(id)
	if !ok {
		reply(failed(d.notHere(id)))
		return
	}
	if kind == calls.Write && req.Write.GetOp().GetExpireLease() == 0 { // the end of a lease is the cluster's own
		size := req.Write.Op.SizeVT()
		if !d.room.Enter(size) {
			reply(failed(shard.ErrTooManyRequests))
			return
		}
		answer := reply
		reply = func(resp *pb.PeerResponse) {
			d.room.Leave(size)
			answer(resp)
		}
	}
	if p := d.poolOf(kind, req); p != nil {
		p.submit(ctx, reply, func() { replica.Serve(ctx, rep, kind, req, reply) })
		return
	}
	replica.Serve(ctx, rep, kind, req, reply)
}

// poolOf is where a call that reads much is served, so that the next call of its peer does not wait for it; nil: at
// once.
func (d *dispatch) poolOf(kind calls.Kind, req *pb.PeerRequest) *pool {
	switch {
	case !calls.Table[kind].Slow:
		return nil
	case kind == calls.Read && pb.ToSpan(req.Read.Span).IsPoint():
		return nil
	case kind == calls.Read:
		return d.pages
	case kind == calls.Hash:
		return d.hashes
	}
	return d.scans
}

// notHere says that this node holds no replica of the range: where it may be found, if known.
func (d *dispatch) notHere(id shard.RangeID) error {
	if desc, ok := d.cluster.Range(id); ok {
		if _, mine := desc.ReplicaOn(d.self); mine {
			return fmt.Errorf("%w: %v is not open here yet", shard.ErrUnavailable, id)
		}
		return &shard.WrongRangeError{Range: id, Known: []shard.Descriptor{desc}}
	}
	return fmt.Errorf("%w: %v is not known here", shard.ErrUnavailable, id)
}

func failed(err error) *pb.PeerResponse { return &pb.PeerResponse{Error: pb.ErrorToPB(err)} }
