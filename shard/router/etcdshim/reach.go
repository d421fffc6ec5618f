package etcdshim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

const (
	// reachPatienceMin is how long the direct way is tried before the ordinary one is taken: a
	// change of leaders fits in, so that it does not look like a node that cannot be reached.
	reachPatienceMin = 2 * time.Second
	// reachPause is how long the direct way to somebody is not tried again after that.
	reachPause = 5 * time.Second
	// reachMemory is after how long without a call a node's silence is forgotten.
	reachMemory = 4 * reachPause
)

// reach is the mesh as the router's Peers. A node that has taken no call for patience is called
// unreachable, which ends a request for which the router would go on trying. With patience 0
// nobody is.
type reach struct {
	peers    router.Peers
	patience time.Duration
	now      func() time.Time

	silent atomic.Int32 // len(nodes): most of the time nobody is
	mu     sync.Mutex
	nodes  map[shard.NodeID]*silence
}

// silence is how long a node has taken no call.
type silence struct {
	since   time.Time
	last    time.Time // of the calls that it has not taken
	retryAt time.Time // not called before
	err     error
}

func newReach(peers router.Peers, patience time.Duration, now func() time.Time) *reach {
	return &reach{peers: peers, patience: patience, now: now, nodes: map[shard.NodeID]*silence{}}
}

// Call implements router.Peers.
func (r *reach) Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	if r.patience <= 0 {
		return r.peers.Call(ctx, to, req)
	}
	if err := r.refuses(to); err != nil {
		return nil, err
	}
	start := r.now()
	resp, err := r.peers.Call(ctx, to, req)
	return resp, r.judge(ctx, to, start, err)
}

// CallFunc implements router.Peers.
func (r *reach) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	if r.patience <= 0 {
		r.peers.CallFunc(ctx, to, req, cb)
		return
	}
	if err := r.refuses(to); err != nil {
		cb(nil, err)
		return
	}
	start := r.now()
	r.peers.CallFunc(ctx, to, req, func(resp *pb.PeerResponse, err error) { cb(resp, r.judge(ctx, to, start, err)) })
}

// judge learns from what became of a call, begun at start, and says what the caller is told.
func (r *reach) judge(ctx context.Context, to shard.NodeID, start time.Time, err error) error {
	switch {
	case !isUnsent(err):
		r.heard(to)
		return err
	case ctx.Err() != nil: // the caller's patience has ended, which says nothing of the node
		return err
	}
	return r.unsent(to, start, err)
}

func (r *reach) refuses(node shard.NodeID) error {
	if r.silent.Load() == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.nodes[node]; s != nil && r.now().Before(s.retryAt) {
		return errUnreachable(fmt.Sprintf("node %v", node), s.err)
	}
	return nil
}

func (r *reach) heard(node shard.NodeID) {
	if r.silent.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, node)
	r.silent.Store(int32(len(r.nodes)))
}

// unsent counts a call, begun at start, that the node has not taken.
func (r *reach) unsent(node shard.NodeID, start time.Time, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	s := r.nodes[node]
	if s == nil || now.Sub(s.last) > reachMemory {
		s = &silence{since: start}
		r.nodes[node] = s
		r.silent.Store(int32(len(r.nodes)))
	}
	s.last, s.err = now, err
	if now.Sub(s.since) < r.patience {
		return err
	}
	s.retryAt = now.Add(reachPause)
	return errUnreachable(fmt.Sprintf("node %v", node), err)
}

// cluster is the meta client as the router's Cluster, with the same patience.
type cluster struct {
	client   *metaclient.Client
	patience time.Duration
	lost     atomic.Bool // the meta group could not be reached: the link is of no use
}

// Current implements router.Cluster.
func (c *cluster) Current(ctx context.Context) (router.Now, error) {
	now, err := c.client.Current(ctx)
	return now, c.judge(ctx, err)
}

// CurrentFunc implements router.Cluster.
func (c *cluster) CurrentFunc(cb func(router.Now, error)) {
	c.client.NowFunc(func(now router.Now, err error) { cb(now, c.judge(context.Background(), err)) })
}

// GrantedFunc implements router.Cluster.
func (c *cluster) GrantedFunc(since int64, cb func(router.Now, error)) {
	c.client.GrantedFunc(since, func(now router.Now, err error) { cb(now, c.judge(context.Background(), err)) })
}

// Granted implements router.Cluster.
func (c *cluster) Granted(ctx context.Context, since int64) (router.Now, error) {
	now, err := c.client.Granted(ctx, since)
	return now, c.judge(ctx, err)
}

// Revision implements router.Cluster.
func (c *cluster) Revision() int64 { return c.client.Revision() }

// judge learns from what became of a question to the oracle, whose patience is the client's.
func (c *cluster) judge(ctx context.Context, err error) error {
	if c.patience <= 0 || ctx.Err() != nil || !errors.Is(err, shard.ErrTimeout) {
		return err
	}
	c.lost.Store(true)
	return errUnreachable("the meta group", err)
}

// Map implements router.Cluster.
func (c *cluster) Map() *shard.Map { return c.client.Map() }

// Refresh implements router.Cluster.
func (c *cluster) Refresh(ctx context.Context) error { return c.bounded(ctx, c.client.Refresh) }

// Compacted implements router.Cluster.
func (c *cluster) Compacted() int64 { return c.client.Compacted() }

// Compact implements router.Cluster. It may change something, and is not bounded.
func (c *cluster) Compact(ctx context.Context, rev int64, physical bool) (int64, error) {
	return c.client.Compact(ctx, rev, physical)
}

// bounded asks the meta group, which changes nothing there, until patience ends.
func (c *cluster) bounded(ctx context.Context, ask func(context.Context) error) error {
	if c.patience <= 0 {
		return ask(ctx)
	}
	asking, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	err := ask(asking)
	if err == nil || ctx.Err() != nil || !errors.Is(asking.Err(), context.DeadlineExceeded) {
		return err
	}
	c.lost.Store(true)
	return errUnreachable("the meta group", err)
}
