package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"pontoon/internal/counts"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Peers sends a call to a node; the own node is answered in process. An error is one of
// package shard's, or the context's: ErrUnavailable means certainly never sent, ErrAmbiguous
// that it may have been.
type Peers interface {
	Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error)
	// CallFunc is Call with a callback, which is called once, perhaps before CallFunc returns, at the
	// latest soon after ctx ends or its deadline has passed, and must not block. A request to another
	// node may be used again when CallFunc has returned.
	CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error))
}

// Now is an answer of the revision oracle.
type Now = shard.Now

// Cluster is what the router knows of the cluster as a whole.
type Cluster interface {
	// Current asks the oracle: at least every revision acknowledged before the call.
	Current(ctx context.Context) (Now, error)
	// CurrentFunc is Current with a callback, which is called once, perhaps before CurrentFunc returns,
	// and must not block. Where the oracle does not answer it may come after every caller's patience.
	CurrentFunc(cb func(Now, error))
	// Map is the newest range map known here; nil before the first one arrived.
	Map() *shard.Map
	// Refresh fetches a newer map than the one the caller tried, if there is one.
	Refresh(ctx context.Context) error
	// Compacted is the highest compaction revision that this process has been told or has acknowledged.
	// It must not block, and may be behind where others compact.
	Compacted() int64
	// Compact decides that history below rev is forgotten, and tells the revision that was current at
	// that point; with physical set it returns when the data is gone.
	Compact(ctx context.Context, rev int64, physical bool) (current int64, err error)
}

// Local gives access to the replicas of this node, for serializable reads. A program that
// links the router without being a node passes nil.
type Local interface {
	// ClosedRevision is the lowest closed revision of these ranges' local replicas; false if
	// one of them is not held here.
	ClosedRevision(ids []shard.RangeID) (int64, bool)
	// WaitClosed waits until ClosedRevision(ids) >= rev or the context ends.
	WaitClosed(ctx context.Context, ids []shard.RangeID, rev int64) error
	// Leader is the node that leads the range as the local replica knows; 0: not known, or the
	// range is not held here.
	Leader(id shard.RangeID) shard.NodeID
	// Applied is the index of the last entry that the local replica of the range has applied; 0: it is
	// not held here.
	Applied(id shard.RangeID) uint64
	// Self is the node whose replicas these are.
	Self() shard.NodeID
}

// Config holds the router's parts and limits. Zero values take the defaults.
type Config struct {
	Peers   Peers
	Cluster Cluster
	Local   Local // may be nil

	// Patience bounds one request, retries included, where the client's own deadline does
	// not come first. Default 7 s: etcd's 5 s plus two election timeouts.
	Patience time.Duration
	// LocalWait bounds the wait of a serializable read for what this node has itself
	// answered. Default 500 ms.
	LocalWait time.Duration
	// Backoff is the first pause after a failed attempt; it doubles up to 16 times. Default 5 ms.
	Backoff time.Duration
	// Parallel bounds the ranges that one request works on at once. Default 32.
	Parallel int
	// CompactParallel bounds the ranges that a compaction is asked of at once. Default 256: each of them
	// waits for the disk, and those that wait together share a write of the log.
	CompactParallel int
	// PageBytes is the soft size of one answer of a range. Default 4 MiB.
	PageBytes int64

	Logger *slog.Logger
}

// Router routes requests. Safe for concurrent use.
type Router struct {
	cfg      Config
	leaders  shard.Table[shard.NodeID] // hints only
	answered answered
	counts   counts.Cache
}

// New returns a router. It starts nothing and holds nothing open.
func New(cfg Config) (*Router, error) {
	if cfg.Peers == nil || cfg.Cluster == nil {
		return nil, fmt.Errorf("router: %w: Peers and Cluster are required", shard.ErrInvalid)
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 7 * time.Second
	}
	if cfg.LocalWait <= 0 {
		cfg.LocalWait = 500 * time.Millisecond
	}
	if cfg.Backoff <= 0 {
		cfg.Backoff = 5 * time.Millisecond
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 32
	}
	if cfg.CompactParallel <= 0 {
		cfg.CompactParallel = 256
	}
	if cfg.PageBytes <= 0 {
		cfg.PageBytes = 4 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Router{cfg: cfg, counts: counts.Cache{Limit: countsLimit}}, nil
}

// Current is the oracle's current revision, for headers of answers that touch no range.
func (r *Router) Current(ctx context.Context) (int64, error) {
	now, err := r.cfg.Cluster.Current(ctx)
	return now.Revision, err
}

// Leader is the node that last answered as the leader of the range; 0 when unknown.
func (r *Router) Leader(id shard.RangeID) shard.NodeID {
	node, _ := r.leaders.Get(id) // 0 where there is no hint
	return node
}

// LearnLeader takes a hint, from gossip or a replica of this node.
func (r *Router) LearnLeader(id shard.RangeID, node shard.NodeID) {
	if node == 0 {
		r.leaders.Delete(id)
		return
	}
	if r.Leader(id) != node {
		r.leaders.Put(id, node)
	}
}

// rangeMap waits for the first map where there is none yet.
func (r *Router) rangeMap(ctx context.Context) (*shard.Map, error) {
	if m := r.cfg.Cluster.Map(); m != nil {
		return m, nil
	}
	if err := r.cfg.Cluster.Refresh(ctx); err != nil {
		return nil, err
	}
	if m := r.cfg.Cluster.Map(); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("router: %w: no range map yet", shard.ErrUnavailable)
}

// attempt is one try at a range: which node to ask, and what to learn from its answer.
type attempt struct {
	desc  shard.Descriptor
	tries int
	next  int          // replica to ask where no leader is known
	local shard.NodeID // the node that was asked last because a replica here follows it
}

// node picks whom to ask: the leader that we know of, or that a replica of this node follows, else
// the replicas in turn.
func (r *Router) node(a *attempt) shard.NodeID {
	if n := r.Leader(a.desc.ID); n != 0 {
		return n
	}
	if r.cfg.Local != nil {
		if n := r.cfg.Local.Leader(a.desc.ID); n != 0 && n != a.local {
			a.local = n
			return n
		}
	}
	if len(a.desc.Replicas) == 0 {
		return 0
	}
	n := a.desc.Replicas[a.next%len(a.desc.Replicas)].Node
	a.next++
	return n
}

// errRemap says that the range map has changed under a request, which certainly was not applied and starts
// over. Where it cannot, that is what the client hears.
var errRemap = fmt.Errorf("%w: the range map has changed", shard.ErrUnavailable)

// remapped fetches the map after asked has answered that the range is another, and forgets that it leads it.
func (r *Router) remapped(ctx context.Context, id shard.RangeID, asked shard.NodeID) error {
	if r.Leader(id) == asked {
		r.LearnLeader(id, 0)
	}
	_ = r.cfg.Cluster.Refresh(ctx) // errRemap looks again whatever came of it
	return errRemap
}

// untilMapped runs fn again, after a pause, as long as the range map has changed under it.
func (r *Router) untilMapped(ctx context.Context, fn func() error) error {
	var a attempt
	for {
		err := fn()
		if !errors.Is(err, errRemap) {
			return err
		}
		if over := r.pause(ctx, &a); over != nil {
			return outOfPatience(over, err)
		}
	}
}

// callLeader sends what build makes to the leader of the range until somebody answers for
// good. Only what certainly was not applied is tried again. errRemap asks the caller to look
// the keys up anew; shard.ErrStaleEpoch to fetch a new revision.
func (r *Router) callLeader(ctx context.Context, desc shard.Descriptor, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error) {
	a := &attempt{desc: desc}
	var last error
	for {
		to := r.node(a)
		resp, err := r.cfg.Peers.Call(ctx, to, build(a.desc))
		if err == nil {
			if to != 0 {
				r.LearnLeader(desc.ID, to)
			}
			return resp, nil
		}
		var wrong *shard.WrongRangeError
		switch {
		case errors.As(err, &wrong):
			return nil, r.remapped(ctx, desc.ID, to)
		case errors.Is(err, shard.ErrAmbiguous):
			r.LearnLeader(desc.ID, 0) // it may be gone: the next request looks anew
			return nil, err
		case !shard.Retryable(err) || errors.Is(err, shard.ErrStaleEpoch):
			return nil, err
		}
		last = err
		r.learnFrom(a, to, err)
		if err := r.pause(ctx, a); err != nil {
			return nil, outOfPatience(err, last)
		}
	}
}

// learnFrom moves the leader hint after an attempt that certainly was not applied.
func (r *Router) learnFrom(a *attempt, asked shard.NodeID, err error) {
	var nl *shard.NotLeaderError
	if errors.As(err, &nl) && nl.Leader != 0 && nl.Leader != asked {
		r.LearnLeader(a.desc.ID, nl.Leader)
		return
	}
	r.LearnLeader(a.desc.ID, 0)
	for i, rep := range a.desc.Replicas { // go on behind the one that failed
		if rep.Node == asked {
			a.next = i + 1
		}
	}
}

// pause waits before the next attempt; the first one after a hint is free.
func (r *Router) pause(ctx context.Context, a *attempt) error {
	a.tries++
	if a.tries == 1 {
		return ctx.Err()
	}
	d := r.cfg.Backoff << min(a.tries-2, 4)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// outOfPatience names the end of a request that certainly was not applied: the client's own
// cancellation as it is, a deadline as the last reason for waiting.
func outOfPatience(ctxErr, last error) error {
	if errors.Is(ctxErr, context.Canceled) {
		return ctxErr
	}
	if last == nil {
		return shard.ErrTimeout
	}
	return fmt.Errorf("%w: %w", shard.ErrTimeout, last)
}

// patience bounds ctx by the configured patience. Its Cancel must be called.
func (r *Router) patience(ctx context.Context) *patience.Context {
	return patience.With(ctx, r.cfg.Patience)
}
