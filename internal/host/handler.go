package host

import (
	"context"
	"fmt"

	"pontoon/internal/backend"
	"pontoon/internal/meta"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// calls is the dispatch of calls to the parts that serve them.
type calls struct {
	self    shard.NodeID
	cluster *backend.Cluster
	ranges  *ranges
	closer  *closer
	meta    *meta.Meta // nil: no replica of the meta group is here, which is what a nil one says
	status  func(withRanges bool) *pb.NodeStatusResponse

	pages, scans, hashes *pool // of calls that read much
}

// handle answers a call of another node, or of this one. It never blocks: what takes time is
// finished by whoever calls reply.
func (c *calls) handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	switch {
	case req.ClosedPush != nil:
		c.closer.learn(req.ClosedPush)
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	case req.Close != nil:
		c.cluster.Learn(req.Close.Revision, shard.Epoch(req.Close.Epoch))
		c.closer.askedBy(req.Close)
		reply(&pb.PeerResponse{Empty: &pb.Empty{}})
	case req.NodeStatus != nil:
		reply(&pb.PeerResponse{NodeStatus: c.status(req.NodeStatus.Ranges)})
	default:
		if id, ok := rangeOf(req); ok {
			c.handleRange(ctx, id, req, reply)
			return
		}
		c.meta.Handle(ctx, from, req, reply)
	}
}

// rangeOf names the range that a request is for.
func rangeOf(req *pb.PeerRequest) (shard.RangeID, bool) {
	var id uint64
	switch {
	case req.Write != nil:
		id = req.Write.RangeId
	case req.Fence != nil:
		id = req.Fence.RangeId
	case req.Read != nil:
		id = req.Read.RangeId
	case req.History != nil:
		id = req.History.RangeId
	case req.Hash != nil:
		id = req.Hash.RangeId
	case req.LeaseKeys != nil:
		id = req.LeaseKeys.RangeId
	case req.RangeStatus != nil:
		id = req.RangeStatus.RangeId
	case req.Prepare != nil:
		id = req.Prepare.RangeId
	case req.Resolve != nil:
		id = req.Resolve.RangeId
	case req.Inquire != nil:
		id = req.Inquire.RangeId
	case req.CompactRange != nil:
		id = req.CompactRange.RangeId
	default:
		return 0, false
	}
	return shard.RangeID(id), true
}

func (c *calls) handleRange(ctx context.Context, id shard.RangeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	rep, ok := c.ranges.get(id)
	if !ok {
		reply(failed(c.notHere(id)))
		return
	}
	switch {
	case req.Write != nil:
		rep.Write(ctx, req.Write, func(w *pb.WriteResponse, err error) {
			reply(answer(&pb.PeerResponse{Write: w}, err))
		})
	case req.Fence != nil:
		rep.Fence(ctx, req.Fence, func(f *pb.FenceResponse, err error) {
			reply(answer(&pb.PeerResponse{Fence: f}, err))
		})
	case req.Prepare != nil:
		rep.Prepare(ctx, req.Prepare, func(p *pb.PrepareResponse, err error) {
			reply(answer(&pb.PeerResponse{Prepare: p}, err))
		})
	case req.Resolve != nil:
		rep.Resolve(ctx, req.Resolve, func(err error) {
			reply(answer(&pb.PeerResponse{Empty: &pb.Empty{}}, err))
		})
	case req.Inquire != nil:
		rep.Inquire(ctx, req.Inquire, func(i *pb.InquireResponse, err error) {
			reply(answer(&pb.PeerResponse{Inquire: i}, err))
		})
	case req.Read != nil && pb.ToSpan(req.Read.Span).IsPoint():
		handleRead(ctx, rep, req, reply)
	case req.Read != nil: // a page: the next call of this peer does not wait for it
		c.pages.submit(ctx, reply, func() { handleRead(ctx, rep, req, reply) })
	case req.Hash != nil:
		c.hashes.submit(ctx, reply, func() { c.handleSlow(ctx, rep, req, reply) })
	default:
		c.scans.submit(ctx, reply, func() { c.handleSlow(ctx, rep, req, reply) })
	}
}

func handleRead(ctx context.Context, rep *replica.Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	rep.Read(ctx, req.Read, func(r *pb.ReadResponse, err error) {
		reply(answer(&pb.PeerResponse{Read: r}, err))
	})
}

// handleSlow serves what reads much, on a goroutine of its own.
func (c *calls) handleSlow(ctx context.Context, rep *replica.Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	switch {
	case req.History != nil:
		h, err := rep.History(req.History)
		reply(answer(&pb.PeerResponse{History: h}, err))
	case req.Hash != nil:
		rep.Hash(ctx, req.Hash, func(h *pb.HashResponse, err error) {
			reply(answer(&pb.PeerResponse{Hash: h}, err))
		})
	case req.LeaseKeys != nil:
		rep.LeaseKeys(ctx, req.LeaseKeys, func(l *pb.LeaseKeysResponse, err error) {
			reply(answer(&pb.PeerResponse{LeaseKeys: l}, err))
		})
	case req.RangeStatus != nil:
		reply(&pb.PeerResponse{RangeStatus: rep.Status()})
	case req.CompactRange != nil:
		rep.CompactTo(ctx, req.CompactRange.Revision, req.CompactRange.Physical, func(err error) {
			reply(answer(&pb.PeerResponse{Empty: &pb.Empty{}}, err))
		})
	}
}

// notHere says that this node holds no replica of the range: where it may be found, if known.
func (c *calls) notHere(id shard.RangeID) error {
	if d, ok := c.cluster.Range(id); ok {
		if _, mine := d.ReplicaOn(c.self); mine {
			return fmt.Errorf("%w: %v is not open here yet", shard.ErrUnavailable, id)
		}
		return &shard.WrongRangeError{Range: id, Known: []shard.Descriptor{d}}
	}
	return fmt.Errorf("%w: %v is not known here", shard.ErrUnavailable, id)
}

func failed(err error) *pb.PeerResponse { return &pb.PeerResponse{Error: pb.ErrorToPB(err)} }

func answer(resp *pb.PeerResponse, err error) *pb.PeerResponse {
	if err != nil {
		return failed(err)
	}
	return resp
}
