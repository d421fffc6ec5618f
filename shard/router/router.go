package router

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"pontoon/internal/counts"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Peers sends a call to a node; the own node is answered in process. An error is one of
// package shard's, or the context's: ErrUnavailable means certainly never sent, ErrAmbiguous
// that it may have been.
type Peers interface {
	Call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error)
	// CallFunc is Call with a callback, which must not block. It is called once: perhaps before CallFunc
	// returns, at the latest soon after ctx ends or its deadline has passed. A request to another node may
	// be used again when CallFunc has returned.
	CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error))
}

// Now is an answer of the revision oracle.
type Now = shard.Now

// Cluster is what the router knows of the cluster as a whole.
type Cluster interface {
	// Current asks the oracle: at least every revision acknowledged before the call.
	Current(ctx context.Context) (Now, error)
	// CurrentFunc is Current with a callback, which must not block. It is called once, perhaps before
	// CurrentFunc returns. Where the oracle does not answer it may come after every caller's patience.
	CurrentFunc(cb func(Now, error))
	// GrantedFunc is CurrentFunc, and asks who was given revisions above since; that is nil in the answer of an oracle that does not tell.
	GrantedFunc(since int64, cb func(Now, error))
	// Granted is GrantedFunc for who waits.
	Granted(ctx context.Context, since int64) (Now, error)
	// Revision is the highest that this process has seen. It must not block, and may be behind.
	Revision() int64
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
	// Untouched reports whether these ranges' local replicas have their state, and know of no revision in it: nothing was written to them before
	// they were last heard of.
	Untouched(ids []shard.RangeID) bool
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
	// Listed, if set, is told of each page of a list that has come from a range: span is what the list wants of the range, and sofar what it has got of it, with
	// this page. It must not block.
	Listed func(id shard.RangeID, span shard.Span, bytes, sofar int)
	// PageBytes is the soft size of one answer of a range. Default 4 MiB.
	PageBytes int64

	Logger *slog.Logger
}

// Router routes requests. Safe for concurrent use.
type Router struct {
	reader
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
	r := &Router{reader{caller: caller{cfg: cfg}, counts: counts.Cache{Limit: countsLimit}}}
	r.maps.view = cfg.Cluster.Map
	if cfg.Local != nil { // nobody else reads what a node has told
		r.maps.changed = r.acked.inherit
	}
	return r, nil
}

// Current is the oracle's current revision, for headers of answers that touch no range.
func (r *Router) Current(ctx context.Context) (int64, error) {
	now, err := r.cfg.Cluster.Current(ctx)
	return now.Revision, err
}
