package host

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/backend"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// strangersMax bounds the nodes that are remembered because they called and are no members. Beyond it all are forgotten, and looked up again.
const strangersMax = 1024

// reception is peer.Door for this node. Members come in. Whoever is none, as far as this node knows, may have been added a moment ago, or
// removed: the meta group says which.
type reception struct {
	identity  peer.Identity
	directory *peer.Directory
	cluster   *backend.Cluster
	patience  time.Duration
	// known: the members in the directory are those that the meta group once had, also before it was asked.
	known bool

	mu        sync.Mutex
	strangers map[shard.NodeID]*stranger
}

// stranger is who has called and is no member as this node knows them.
type stranger struct {
	asking  bool // the meta group
	removed bool // it says that there is no such member: nobody gets the id again
}

func (h opening) newReception() *reception {
	return &reception{identity: h.cfg.Identity, directory: h.net.directory, cluster: h.cluster, patience: h.cfg.Patience, known: len(h.saved.about.members) > 0,
		strangers: map[shard.NodeID]*stranger{}}
}

// Admit implements peer.Door.
func (r *reception) Admit(from shard.NodeID) error {
	if r.cluster.Client.View().Map == nil { // what is known is older than this life, and refuses nobody
		return nil
	}
	if _, member := r.directory.Member(from); member {
		return nil
	}
	if mutate.On(mutate.RemovedComesIn) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.strangers[from]
	if s == nil {
		if len(r.strangers) >= strangersMax {
			clear(r.strangers)
		}
		s = &stranger{}
		r.strangers[from] = s
	}
	if s.removed {
		return peer.ErrRemoved
	}
	if !s.asking {
		s.asking = true
		go r.cluster.Client.RefreshFunc(func(err error) { r.asked(from, s, err) }) // which may call back at once
	}
	return peer.ErrNotKnownYet
}

// asked is told that the members are those that the meta group has.
func (r *reception) asked(from shard.NodeID, s *stranger, err error) {
	_, member := r.directory.Member(from)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.asking = false
	s.removed = err == nil && !member
	if err == nil && member {
		delete(r.strangers, from)
	}
}

// Discover implements peer.Door.
func (r *reception) Discover(ctx context.Context, req *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	if req.Confirm {
		ctx, cancel := context.WithTimeout(ctx, r.patience)
		defer cancel()
		if err := r.cluster.Client.Refresh(ctx); err != nil {
			return nil, status.Errorf(codes.Unavailable, "the cluster's state is not known: %v", err)
		}
	}
	out := &pb.DiscoverResponse{ClusterId: r.identity.ClusterID, NodeId: uint64(r.identity.Node)}
	v := r.cluster.Client.View()
	switch {
	case v.Map != nil:
		out.Members, out.Meta, out.ClusterVersion, out.Bootstrapped = pb.FromMembers(v.Members), pb.FromDescriptor(v.Meta), uint32(v.Version), true
	case r.known:
		out.Members, out.Bootstrapped = pb.FromMembers(r.directory.Members()), true
	}
	return out, nil
}
