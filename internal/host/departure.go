package host

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// ErrRemoved ends a node that does not belong to the cluster any more.
var ErrRemoved = errors.New("the member has been permanently removed from the cluster: to bring the node back use `etcdctl member add`, and start it with an empty data directory")

// departureEvery is the pause between two questions whether this node still belongs to the cluster.
const departureEvery = time.Second

// departure notices that this node was removed, and ends it when it holds nothing any more that the cluster needs. The meta group alone says so: what
// other nodes, gossip or files know is not enough, for a node that has left cannot come back. While replicas are on it the node stays, and serves.
// Nothing in the data directory is touched: the replicas that were here give themselves up by their own logs.
type departure struct {
	self shard.NodeID
	// refresh asks the meta group for the members, and members returns them.
	refresh func(ctx context.Context) error
	members func() []shard.Member
	// discover asks another node, which has the meta group say it: this one may be refused everywhere else.
	others   func() []shard.NodeID
	discover func(ctx context.Context, node shard.NodeID) (*pb.DiscoverResponse, error)
	cluster  uint64
	patience time.Duration // for one question
	log      *slog.Logger
}

func (h *Host) newDeparture() *departure {
	client, dir := h.cluster.Client, h.net.directory
	return &departure{
		self: h.cfg.Identity.Node, cluster: h.cfg.Identity.ClusterID, patience: 2 * h.cfg.Election, log: h.log,
		refresh: client.Refresh, members: func() []shard.Member { return client.View().Members },
		others: dir.Others,
		discover: func(ctx context.Context, node shard.NodeID) (*pb.DiscoverResponse, error) {
			addr, ok := dir.Resolve(node)
			if !ok {
				return nil, peer.ErrUnknownNode
			}
			return peer.Discover(ctx, h.cfg.credentials(), addr, !mutate.On(mutate.RemovedByHint))
		},
	}
}

// run returns ErrRemoved, or nil when ctx ends.
func (r *departure) run(ctx context.Context) error {
	said := false
	for ctx.Err() == nil {
		members, known := r.ask(ctx)
		i := shard.FindMember(members, r.self)
		switch {
		case known && i < 0:
			return ErrRemoved
		case known && members[i].State == shard.MemberLeaving && !said:
			said = true
			r.log.Warn("this member was removed from the cluster; it ends when the replicas on it have moved away", "local-member-id", r.self.String())
		}
		pause(ctx, departureEvery)
	}
	return nil
}

// departurePoll is the pause between two looks of a node that is told to stop while it leaves.
const departurePoll = 100 * time.Millisecond

// stay returns when this node may stop: at once, unless it was removed and still holds replicas. Where two replicas were, the one that is left is no
// majority until the group has given the other up. Whoever has removed a member stops it without looking.
func (r *departure) stay(ctx context.Context) {
	leaving := func(members []shard.Member) bool {
		i := shard.FindMember(members, r.self)
		return i >= 0 && members[i].State == shard.MemberLeaving && !mutate.On(mutate.LeavesEarly)
	}
	try, cancel := context.WithTimeout(ctx, r.patience/4) // all may be stopping, and nobody can tell
	_ = r.refresh(try)
	cancel()
	if !leaving(r.members()) {
		return
	}
	r.log.Info("this member was removed; before it stops the replicas on it move away", "local-member-id", r.self.String())
	for ctx.Err() == nil {
		if members, known := r.ask(ctx); known && !leaving(members) {
			return
		}
		pause(ctx, departurePoll)
	}
	r.log.Warn("this member stops with replicas on it that others may need: start it again, and let it end by itself", "local-member-id", r.self.String())
}

// ask returns the members as the meta group has them; false: nobody could tell.
func (r *departure) ask(ctx context.Context) ([]shard.Member, bool) {
	try, cancel := context.WithTimeout(ctx, r.patience)
	err := r.refresh(try)
	cancel()
	if err == nil {
		return r.members(), true
	}
	for _, node := range r.others() {
		if ctx.Err() != nil {
			break
		}
		try, cancel := context.WithTimeout(ctx, r.patience)
		found, err := r.discover(try, node)
		cancel()
		if err == nil && found.Bootstrapped && found.ClusterId == r.cluster {
			return pb.ToMembers(found.Members), true
		}
	}
	return nil, false
}
