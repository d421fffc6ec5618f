package host

import (
	"context"

	"pontoon/internal/backend"
	"pontoon/internal/httpapi"
	"pontoon/internal/pb"
	"pontoon/internal/peerrpc"
	"pontoon/placement/gossip"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// Backend is this host for a front.
func (h *Host) Backend() *backend.Backend {
	return &backend.Backend{
		Identity: h.cfg.Identity, Peers: h.net.mesh, Cluster: h.cluster, Local: &local{localView: h.localView(), h: h},
		Feeds: h.feeds, Closer: h.closer,
	}
}

func (h *Host) localView() *localView {
	return &localView{ranges: h.ranges, requestClose: h.closer.AskClose, hint: func(id shard.RangeID) shard.NodeID { return h.members.leaderHint(id) }}
}

// local is the host as a front's Local.
type local struct {
	*localView
	h *Host
}

var _ backend.Local = (*local)(nil)

// Handle implements backend.Node.
func (l *local) Handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	l.h.Handle(ctx, from, req, reply)
}

// Meta implements backend.Node.
func (l *local) Meta() backend.MetaState {
	st := l.h.metaStatus()
	if st.Term == 0 { // no replica of it is here
		st.Term = uint64(l.h.cluster.Client.Epoch())
	}
	return backend.MetaState{Leader: l.h.life.metaLeader(), Term: st.Term, Commit: st.Commit, Applied: st.Applied}
}

// Sizes implements backend.Node.
func (l *local) Sizes() backend.Sizes {
	t := l.ranges.sizes()
	t.Quota = l.h.quota.limit.Load()
	return t
}

// Replica implements backend.Node.
func (l *local) Replica(id shard.RangeID) backend.ReplicaState {
	st, held := l.h.raft.Status(id)
	return backend.ReplicaState{Held: held, HasLeader: st.Leader != 0, Rebuilding: l.ranges.repairs.isLost(id)}
}

// Defragment implements backend.Node.
func (l *local) Defragment(ctx context.Context) error { return l.ranges.defragmenter.Defragment(ctx) }

// Nodes implements backend.Node.
func (l *local) Nodes() []gossip.Member { return l.h.members.list() }

// MoveLeader implements backend.Node.
func (l *local) MoveLeader(ctx context.Context, to shard.NodeID) error {
	m := l.h.meta.get()
	if m == nil {
		return &shard.NotLeaderError{Range: shard.MetaID, Leader: l.h.life.metaLeader()}
	}
	return m.MoveLeader(ctx, to)
}

// Handle answers a call of another node, or of this one, as a peerrpc.Handler.
func (h *Host) Handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	h.dispatch.handle(ctx, from, req, reply)
}

// serveLink is Handle for links.
func (h *Host) serveLink(ctx context.Context, _ shard.NodeID, l peerrpc.LinkSource) error {
	return h.feeds.outlets.Serve(ctx, l)
}

// metaStatus is the meta group as this node knows it.
func (h *Host) metaStatus() raftgroup.Status {
	st, _ := h.raft.Status(shard.MetaID) // a node without a replica of it knows nothing here
	return st
}

// nodeStatus answers another node's NodeStatusRequest.
func (h *Host) nodeStatus(req *pb.NodeStatusRequest) *pb.NodeStatusResponse {
	st, t := h.metaStatus(), h.dispatch.sums.sizes()
	resp := &pb.NodeStatusResponse{
		NodeId: uint64(h.cfg.Identity.Node), DbSize: t.File, DbSizeInUse: t.InUse, Version: httpapi.ServerVersion,
		MetaTerm: st.Term, MetaCommit: st.Commit, MetaApplied: st.Applied, MetaLeaderNode: uint64(h.life.metaLeader()),
	}
	h.dispatch.vitals.tell(resp)
	if req.Ranges {
		h.ranges.each(func(rep *replica.Replica) {
			if _, leads := rep.Leading(); leads || !req.Led {
				resp.Ranges = append(resp.Ranges, rep.Status())
			}
		})
	}
	return resp
}

// localView is ranges as the router's Local: a wait also asks for the closing.
type localView struct {
	*ranges
	requestClose func(rev int64, ranges []shard.RangeID)
	hint         func(shard.RangeID) shard.NodeID // of ranges that are not held here
}

// Self implements router.Local.
func (l *localView) Self() shard.NodeID { return l.self }

// ClosedRevision implements router.Local.
func (l *localView) ClosedRevision(ids []shard.RangeID) (int64, bool) {
	var low int64
	for i, id := range ids {
		rep, ok := l.get(id)
		if !ok {
			return 0, false
		}
		if c := rep.ClosedRevision(); i == 0 || c < low {
			low = c
		}
	}
	return low, true
}

// Untouched implements router.Local.
func (l *localView) Untouched(ids []shard.RangeID) bool {
	for _, id := range ids {
		if rep, ok := l.get(id); !ok || !rep.Untouched() {
			return false
		}
	}
	return true
}

// Applied implements router.Local.
func (l *localView) Applied(id shard.RangeID) uint64 {
	rep, ok := l.get(id)
	if !ok {
		return 0
	}
	return rep.AppliedIndex()
}

// Leader implements router.Local.
func (l *localView) Leader(id shard.RangeID) shard.NodeID {
	rep, ok := l.get(id)
	if !ok {
		return l.hint(id)
	}
	st, _ := l.host.Status(id) // of a group that is not hosted: no leader
	desc := rep.Desc()
	return desc.NodeOf(st.Leader)
}

// WaitClosed implements router.Local.
func (l *localView) WaitClosed(ctx context.Context, ids []shard.RangeID, rev int64) error {
	asked := false
	return l.closed.until(ctx, func() bool {
		c, ok := l.ClosedRevision(ids)
		if !ok || c >= rev {
			return true
		}
		if !asked {
			asked = true
			l.requestClose(rev, ids)
		}
		return false
	})
}
