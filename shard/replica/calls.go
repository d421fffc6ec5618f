package replica

import (
	"context"
	"fmt"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Serve answers a call to the range by its replica r, which is of a kind that package calls gives to ranges. reply is called
// once, perhaps before Serve returns. Calls that are slow, by the table there, may block.
func Serve(ctx context.Context, r *Replica, kind calls.Kind, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	serve := handlers[kind]
	if serve == nil {
		reply(response(nil, fmt.Errorf("%w: a range does not know this call", shard.ErrUnimplemented)))
		return
	}
	serve(ctx, r, req, r.telling(kind, req, reply))
}

// telling makes the answer tell what has become of the range, where the request was routed by an older descriptor.
func (d *reads) telling(kind calls.Kind, req *pb.PeerRequest, reply func(*pb.PeerResponse)) func(*pb.PeerResponse) {
	gen := generationOf(kind, req)
	if gen == 0 || gen >= d.r.desc.Load().Generation {
		return reply
	}
	return func(resp *pb.PeerResponse) {
		d.r.mu.Lock()
		known := d.r.mu.m.Known()
		d.r.mu.Unlock()
		resp.Learned = pb.FromDescriptors(known)
		reply(resp)
	}
}

// generationOf is the generation by which a request was routed; 0: it does not say.
func generationOf(kind calls.Kind, req *pb.PeerRequest) shard.Generation {
	var gen uint64
	switch kind {
	case calls.Write:
		gen = req.Write.Generation
	case calls.Fence:
		gen = req.Fence.Generation
	case calls.Read:
		gen = req.Read.Generation
	case calls.Prepare:
		gen = req.Prepare.Generation
	case calls.Resolve:
		gen = req.Resolve.Generation
	case calls.Inquire:
		gen = req.Inquire.Generation
	case calls.History:
		gen = req.History.Generation
	case calls.LeaseKeys:
		gen = req.LeaseKeys.Generation
	}
	return shard.Generation(gen)
}

func response(resp *pb.PeerResponse, err error) *pb.PeerResponse {
	if err != nil {
		return &pb.PeerResponse{Error: pb.ErrorToPB(err)}
	}
	return resp
}

// handler answers a call to a range.
type handler func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse))

// handlers serve the calls that package calls gives to ranges.
var handlers = [calls.Kinds]handler{
	calls.Write: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Write(ctx, req.Write, func(w *pb.WriteResponse, err error) { reply(response(&pb.PeerResponse{Write: w}, err)) })
	},
	calls.Fence: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Fence(ctx, req.Fence, func(f *pb.FenceResponse, err error) { reply(response(&pb.PeerResponse{Fence: f}, err)) })
	},
	calls.Read: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Read(ctx, req.Read, func(r *pb.ReadResponse, err error) { reply(response(&pb.PeerResponse{Read: r}, err)) })
	},
	calls.Prepare: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Prepare(ctx, req.Prepare, func(p *pb.PrepareResponse, err error) { reply(response(&pb.PeerResponse{Prepare: p}, err)) })
	},
	calls.Resolve: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Resolve(ctx, req.Resolve, func(err error) { reply(response(&pb.PeerResponse{Empty: &pb.Empty{}}, err)) })
	},
	calls.Inquire: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Inquire(ctx, req.Inquire, func(i *pb.InquireResponse, err error) { reply(response(&pb.PeerResponse{Inquire: i}, err)) })
	},
	calls.History: func(_ context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		evs, next, err := rep.History(req.History)
		reply(response(&pb.PeerResponse{History: &pb.HistoryResponse{Events: pb.FromEvents(evs), Next: next}}, err))
	},
	calls.Hash: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Hash(ctx, req.Hash, func(h *pb.HashResponse, err error) { reply(response(&pb.PeerResponse{Hash: h}, err)) })
	},
	calls.LeaseKeys: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.LeaseKeys(ctx, req.LeaseKeys, func(l *pb.LeaseKeysResponse, err error) { reply(response(&pb.PeerResponse{LeaseKeys: l}, err)) })
	},
	calls.RangeStatus: func(_ context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		st := rep.Status()
		var err error
		if req.RangeStatus.Middle {
			st.Middle, err = rep.Middle()
		}
		reply(response(&pb.PeerResponse{RangeStatus: st}, err))
	},
	calls.Transfer: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Transfer(ctx, req.Transfer, func(t *pb.TransferResponse, err error) { reply(response(&pb.PeerResponse{Transfer: t}, err)) })
	},
	calls.Change: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.Change(ctx, req.Change, func(s *pb.ChangeResponse, err error) { reply(response(&pb.PeerResponse{Change: s}, err)) })
	},
	calls.PrepareSplit: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.PrepareSplit(ctx, req.PrepareSplit, func(p *pb.PrepareSplitResponse, err error) {
			reply(response(&pb.PeerResponse{PrepareSplit: p}, err))
		})
	},
	calls.PrepareMerge: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.PrepareMerge(ctx, req.PrepareMerge, func(p *pb.PrepareMergeResponse, err error) {
			reply(response(&pb.PeerResponse{PrepareMerge: p}, err))
		})
	},
	calls.CompactRange: func(ctx context.Context, rep *Replica, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		rep.CompactTo(ctx, req.CompactRange, func(err error) { reply(response(&pb.PeerResponse{Empty: &pb.Empty{}}, err)) })
	},
}
