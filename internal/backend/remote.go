package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"pontoon/internal/metaclient"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/placement/gossip"
	"pontoon/shard"
)

// RemoteConfig is what a Remote is built of. Zero values take the defaults; without one a field is required.
type RemoteConfig struct {
	// Identity is of the cluster, with a node id that no member has.
	Identity peer.Identity
	// Members are those of the initial cluster, with their peer URLs.
	Members []shard.Member
	// Election is the cluster's election timeout. Default 1 s.
	Election time.Duration
	// TLS is what members are called with whose URLs ask for it. Default: the system's authorities verify them.
	TLS    credentials.TransportCredentials
	Logger *slog.Logger
}

// Remote is the backend of a process that holds no data: whatever is asked goes to nodes. It takes no part in
// anything that they agree on.
type Remote struct {
	cfg     RemoteConfig
	dir     *peer.Directory
	dialer  *peer.Dialer
	places  places
	mesh    *peerrpc.Mesh
	cluster *Cluster
	// leading is what the node that leads the meta group has said of itself last; nil: nothing yet.
	leading atomic.Pointer[pb.NodeStatusResponse]
	// silent says that the oracle has not answered when it was asked last.
	silent atomic.Bool
}

// OpenRemote makes a Remote. Nobody is called before something is asked.
func OpenRemote(cfg RemoteConfig) (*Remote, error) {
	if cfg.Identity.ClusterID == 0 || cfg.Identity.Node == 0 || len(cfg.Members) == 0 {
		return nil, errors.New("backend: an identity and the members of the cluster are required")
	}
	if cfg.Election <= 0 {
		cfg.Election = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Identity.Front = true
	r := &Remote{cfg: cfg, places: places{byID: map[shard.NodeID]string{}}}
	r.dir = peer.NewDirectory(cfg.Identity.Node, cfg.Members)
	r.dialer = peer.NewDialer(peer.DialerConfig{Identity: cfg.Identity, Resolve: r.resolve, Credentials: peer.SecureBy(cfg.TLS)})
	r.mesh = peerrpc.New(peerrpc.Config{
		Node: cfg.Identity.Node, Dial: r.dialer.For(peer.ClassCalls), DialFeed: r.dialer.For(peer.ClassFeed),
		Hints: func() (int64, uint64) {
			rev, epoch := r.cluster.Newest()
			return rev, uint64(epoch)
		},
		Learn:       func(_ shard.NodeID, rev int64, epoch uint64) { r.cluster.Learn(rev, shard.Epoch(epoch)) },
		SilenceTick: cfg.Election / 4, Logger: cfg.Logger,
	})
	client := metaclient.New(metaclient.Config{
		Self: cfg.Identity.Node, Calls: r.mesh, Meta: metaclient.AnyMember(cfg.Members), Nodes: r.dir.Others, Members: r.dir.SetMembers, ElectionTimeout: cfg.Election,
		FollowSettings: true, Untold: true,
	})
	r.cluster = NewCluster(client, r.dir)
	return r, nil
}

// Backend is the Remote for a front.
func (r *Remote) Backend() *Backend {
	return &Backend{Identity: r.cfg.Identity, Peers: r.mesh, Cluster: r.cluster, Local: nothing{r}, Feeds: nothing{r}, Closer: &asker{r: r}}
}

// joinRetry is the pause before it is asked again whether the cluster serves.
const joinRetry = 50 * time.Millisecond

// Join waits until the cluster serves: the oracle answers, and the ranges are known.
func (r *Remote) Join(ctx context.Context) error {
	for {
		_, err := r.cluster.Current(ctx)
		if err == nil && r.cluster.Map() == nil {
			err = r.cluster.Refresh(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.cfg.Logger.Warn("waiting for a quorum of the cluster", "error", err)
		if err := patience.Pause(ctx, joinRetry); err != nil { // a failure that comes at once comes again
			return err
		}
	}
}

// lookEvery is how often the oracle is asked beside what clients ask: it tells of compactions and of new maps. As often the node that leads the meta
// group is asked how it is.
const lookEvery = time.Second

// Run keeps what is known of the cluster fresh until ctx ends.
func (r *Remote) Run(ctx context.Context) error {
	r.cluster.Client.Follow()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look asks once. What nobody answers is asked again by whoever needs it.
func (r *Remote) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	_, err := r.cluster.Current(ctx)
	r.silent.Store(err != nil)
	if err != nil {
		return
	}
	resp, err := r.mesh.Call(ctx, r.cluster.Client.Leader(), &pb.PeerRequest{NodeStatus: &pb.NodeStatusRequest{}})
	if err == nil && resp.NodeStatus != nil {
		r.leading.Store(resp.NodeStatus)
	}
}

// Retire has nothing to hand over.
func (r *Remote) Retire(context.Context) {}

// Close ends every call and connection.
func (r *Remote) Close() error {
	r.cluster.Client.Close()
	return errors.Join(r.mesh.Close(), r.dialer.Close())
}

// nothing is what is held in a process that holds no data.
type nothing struct{ r *Remote }

var (
	_ Local = nothing{}
	_ Feeds = nothing{}
)

// ClosedRevision implements router.Local.
func (nothing) ClosedRevision([]shard.RangeID) (int64, bool) { return 0, false }

// WaitClosed implements router.Local.
func (nothing) WaitClosed(context.Context, []shard.RangeID, int64) error { return nil }

// Untouched implements router.Local.
func (nothing) Untouched([]shard.RangeID) bool { return false }

// Leader implements router.Local.
func (nothing) Leader(shard.RangeID) shard.NodeID { return 0 }

// Applied implements router.Local.
func (nothing) Applied(shard.RangeID) uint64 { return 0 }

// Self implements router.Local.
func (n nothing) Self() shard.NodeID { return n.r.cfg.Identity.Node }

// Handle implements Node: a routing client is told of the members, and asks them.
func (n nothing) Handle(_ context.Context, _ shard.NodeID, _ *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	reply(&pb.PeerResponse{Error: pb.ErrorToPB(fmt.Errorf("%w: nothing is held here", shard.ErrUnavailable))})
}

// Meta implements Node. There is no leader as long as the oracle does not answer.
func (n nothing) Meta() MetaState {
	st, leader := n.r.leading.Load(), n.r.cluster.Client.Leader()
	if n.r.silent.Load() {
		leader = 0
	}
	return MetaState{Leader: leader, Term: uint64(n.r.cluster.Client.Epoch()), Commit: st.GetMetaCommit(), Applied: st.GetMetaApplied()}
}

// Sizes implements Node: those of the node that leads the meta group, as it has said lately.
func (n nothing) Sizes() Sizes {
	st := n.r.leading.Load()
	return Sizes{File: st.GetDbSize(), InUse: st.GetDbSizeInUse(), Taken: st.GetDbSize()}
}

// Replica implements Node.
func (nothing) Replica(shard.RangeID) ReplicaState { return ReplicaState{} }

// Nodes implements Node.
func (nothing) Nodes() []gossip.Member { return nil }

// Defragment implements Node.
func (n nothing) Defragment(context.Context) error { return nil }

// MoveLeader implements Node.
func (n nothing) MoveLeader(context.Context, shard.NodeID) error {
	return &shard.NotLeaderError{Range: shard.MetaID, Leader: n.r.cluster.Client.Leader()}
}

// Subscribe implements Feeds.
func (nothing) Subscribe(id shard.RangeID, to Subscriber) { to.Held(id, false) }

// Unsubscribe implements Feeds.
func (nothing) Unsubscribe(shard.RangeID) {}

// History implements Feeds.
func (nothing) History(*pb.HistoryRequest) ([]*shard.Event, int64, error) {
	return nil, 0, shard.ErrUnavailable
}

// asker asks the nodes to close revisions.
type asker struct {
	r     *Remote
	asked Asked
}

// AskClose implements watchfanout.Closer.
func (a *asker) AskClose(rev int64, ranges []shard.RangeID) {
	left, due := a.asked.Due(rev, ranges)
	if !due {
		return
	}
	req := &pb.CloseRequest{Revision: rev, Epoch: uint64(a.r.cluster.Client.Epoch()), Ranges: pb.FromRangeIDs(left)}
	for _, node := range a.r.cluster.Holders(left, a.r.dir.Others()) {
		a.r.mesh.Tell(node, &pb.PeerRequest{Close: req})
	}
}
