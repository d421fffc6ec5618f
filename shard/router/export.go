package router

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// This file cuts through all ranges at one revision, for an export, while everything goes on. Of each range a replica is pinned that has applied what
// a fence at the revision says is all of it: nothing is deleted there. What lies at or below the revision, as if all were compacted where the replica
// that has compacted most is, is then a function of these two numbers. So whatever goes away meanwhile is read elsewhere, from where the reading was.

const (
	// exportParallel is how many ranges are read at once: a page each is in memory.
	exportParallel = 4
	// exportPageBytes is what a page has.
	exportPageBytes = 1 << 20
	// exportKeep is how often nodes are told that the export goes on. They believe it for several times as long.
	exportKeep = 5 * time.Second
	// pinPatience is how long a replica may take until it has applied what is fenced; then another is asked.
	pinPatience = time.Second
	// exportCuts is how often is begun anew where no replica is left that has what was cut.
	exportCuts = 3
)

// errCutLost is the reason to cut anew: a range has been compacted further everywhere, or before it was pinned.
var errCutLost = fmt.Errorf("%w: the cut is compacted", shard.ErrUnavailable)

// Cut is a pinned cut through all ranges. Close it.
type Cut struct {
	Revision int64 // of the cut
	Compact  int64 // history below is forgotten

	r      *Router
	now    Now
	export uint64 // names it at the nodes
	parts  []pinned

	mu    sync.Mutex
	nodes map[shard.NodeID]struct{} // that hold something
}

// pinned is what is to be read of one replica.
type pinned struct {
	span    shard.Span
	node    shard.NodeID
	pin     uint64
	compact int64
	to      int64 // the cut's revision
}

// Cut pins a cut at the current revision, or one a little later.
func (r *Router) Cut(ctx context.Context) (*Cut, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	var err error
	for range exportCuts {
		var c *Cut
		if c, err = r.cut(wait); !errors.Is(err, errCutLost) {
			return c, err
		}
	}
	return nil, err
}

func (r *Router) cut(ctx context.Context) (*Cut, error) {
	now, err := r.cfg.Cluster.Current(ctx)
	if err != nil {
		return nil, err
	}
	c := &Cut{Revision: now.Revision, Compact: now.CompactRevision, r: r, now: now, export: rand.Uint64() | 1, nodes: map[shard.NodeID]struct{}{}}
	c.parts, err = ofAll(ctx, r, []shard.Span{shard.All}, c.pin)
	for _, p := range c.parts {
		c.Compact = max(c.Compact, p.compact)
	}
	if err == nil && c.Compact > c.Revision {
		err = errCutLost
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// pin pins a replica of a part: this node's own where it has one, else the leader's, which has applied the fence, else any.
func (c *Cut) pin(ctx context.Context, p *part) (pinned, error) {
	now := c.now
	if mutate.On(mutate.ExportMoment) {
		if later, err := c.r.cfg.Cluster.Current(ctx); err == nil {
			now.Revision = later.Revision
		}
	}
	var a attempt
	for {
		index, err := c.r.fence(ctx, p, now)
		if err != nil {
			return pinned{}, err
		}
		got, err := c.pinAny(ctx, p, index)
		if err == nil {
			got.to = now.Revision
			return got, nil
		}
		if !shard.Retryable(err) || errors.Is(err, errRemap) {
			return pinned{}, err
		}
		if over := c.r.pause(ctx, &a, err); over != nil {
			return pinned{}, outOfPatience(over, err)
		}
		if c.r.outdated(p.desc) {
			return pinned{}, errRemap
		}
	}
}

// pinAny pins the first replica of a part that will have it, once it has applied the index.
func (c *Cut) pinAny(ctx context.Context, p *part, index uint64) (_ pinned, err error) {
	if mutate.On(mutate.ExportUnfenced) {
		index = 0
	}
	req := &pb.PinRequest{Export: c.export, Range: uint64(p.desc.ID), Generation: uint64(p.desc.Generation), Span: pb.FromSpan(p.span), MinIndex: index}
	err = fmt.Errorf("%w: %v has no replica", shard.ErrUnavailable, p.desc.ID)
	for _, node := range c.r.holders(p) {
		try, cancel := context.WithTimeout(ctx, pinPatience)
		var resp *pb.PeerResponse
		resp, err = c.r.call(try, node, &pb.PeerRequest{Pin: req})
		cancel()
		var wrong *shard.WrongRangeError
		switch {
		case errors.As(err, &wrong):
			return pinned{}, c.r.remapped(ctx, p.desc, node, wrong)
		case err == nil && resp.Pin != nil:
			c.mu.Lock()
			c.nodes[node] = struct{}{}
			c.mu.Unlock()
			return pinned{span: p.span, node: node, pin: resp.Pin.Pin, compact: resp.Pin.Compact}, nil
		case err == nil:
			err = fmt.Errorf("%w: an answer without a pin", shard.ErrCorrupt)
		case ctx.Err() != nil:
			return pinned{}, outOfPatience(ctx.Err(), err)
		case errors.Is(err, shard.ErrAmbiguous), errors.Is(err, shard.ErrTimeout), try.Err() != nil: // a pin that nobody knows of ends with the export
			err = fmt.Errorf("%w: %w", shard.ErrUnavailable, err)
		}
	}
	return pinned{}, err
}

// holders are the nodes with a replica of a part, in the order in which they are to be asked for much.
func (c *caller) holders(p *part) []shard.NodeID {
	var out []shard.NodeID
	add := func(n shard.NodeID) {
		if _, there := p.desc.ReplicaOn(n); there && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	if c.cfg.Local != nil {
		add(c.cfg.Local.Self())
	}
	add(c.Leader(p.desc.ID))
	for _, rep := range p.desc.Replicas {
		add(rep.Node)
	}
	return out
}

// Rows reads everything: rows of etcd's key bucket, each with its length and its value's before it, in no order of ranges. fn gets them one page
// at a time. shard.ErrUnavailable: what was cut is not to be had any more.
func (c *Cut) Rows(ctx context.Context, fn func(rows []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go c.keep(ctx)
	var mu sync.Mutex
	one := func(rows []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return fn(rows)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(exportParallel)
	for _, p := range c.parts {
		g.Go(func() error { return c.readPart(ctx, p, reading{span: p.span}, &attempt{}, one) })
	}
	return g.Wait()
}

// reading is how far one is with a part.
type reading struct {
	span shard.Span // what is left, from the key of the last version on
	last cursor
	seen bool // there was one
}

// cursor is a version: revisions of a key descend.
type cursor struct {
	key       []byte
	main, sub int64
}

// readPart reads what is left of a part, from other replicas where its own goes away.
func (c *Cut) readPart(ctx context.Context, p pinned, at reading, a *attempt, fn func([]byte) error) error {
	err := c.readPinned(ctx, p, &at, fn)
	var final *finalError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &final):
		return final.err
	}
	if over := c.r.pause(ctx, a, err); over != nil {
		return over
	}
	rest, err := c.again(ctx, at)
	if err != nil {
		return err
	}
	for i, next := range rest {
		left := reading{span: next.span}
		if i == 0 { // the last version that was read is in the first
			left.seen, left.last = at.seen, at.last
		}
		if err := c.readPart(ctx, next, left, a, fn); err != nil {
			return err
		}
	}
	return nil
}

// again pins what is left of a part anew, at the same cut.
func (c *Cut) again(ctx context.Context, at reading) ([]pinned, error) {
	wait := c.r.patience(ctx)
	defer wait.Cancel()
	rest, err := ofAll(wait, c.r, []shard.Span{at.span}, c.pin)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", shard.ErrUnavailable, err)
	}
	out := rest[:0]
	for _, p := range rest {
		if p.compact > c.Compact {
			return nil, errCutLost
		}
		if p.span = p.span.Intersect(at.span); !p.span.Empty() {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: nothing holds %v", shard.ErrUnavailable, at.span)
	}
	return out, nil
}

// readPinned reads what is left of a part's span from one replica. An error of fn is final.
func (c *Cut) readPinned(ctx context.Context, p pinned, at *reading, fn func([]byte) error) error {
	for more := !at.span.Empty(); more; {
		wait := c.r.patience(ctx)
		resp, err := c.r.call(wait, p.node, &pb.PeerRequest{PinPage: &pb.PinPageRequest{
			Export: c.export, Pin: p.pin, Span: pb.FromSpan(at.span), To: p.to, Compact: c.Compact, MaxBytes: exportPageBytes,
			Seen: at.seen, Key: at.last.key, Main: at.last.main, Sub: at.last.sub,
		}})
		wait.Cancel()
		if err == nil && resp.PinPage == nil {
			err = fmt.Errorf("%w: an answer without a page", shard.ErrCorrupt)
		}
		if err != nil {
			return err
		}
		page := resp.PinPage
		if len(page.Rows) > 0 {
			if err := fn(page.Rows); err != nil {
				return &finalError{err}
			}
		}
		if more = page.More; more {
			at.seen, at.last = true, cursor{page.Key, page.Main, page.Sub}
			at.span.Start = page.Key
		}
	}
	return nil
}

// keep tells the nodes that the export goes on, until ctx ends.
func (c *Cut) keep(ctx context.Context) {
	tick := time.NewTicker(exportKeep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.tell(ctx, false)
		}
	}
}

// tell tells every node that holds something of the export.
func (c *Cut) tell(ctx context.Context, end bool) {
	c.mu.Lock()
	nodes := make([]shard.NodeID, 0, len(c.nodes))
	for n := range c.nodes {
		nodes = append(nodes, n)
	}
	c.mu.Unlock()
	for _, n := range nodes {
		// Nobody waits for an answer: one that is lost comes again, or the pins end by themselves.
		c.r.cfg.Peers.CallFunc(ctx, n, &pb.PeerRequest{PinKeep: &pb.PinKeepRequest{Export: c.export, End: end}}, func(*pb.PeerResponse, error) {})
	}
}

// Close lets go of all replicas.
func (c *Cut) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), exportKeep)
	c.tell(ctx, true)
	context.AfterFunc(ctx, cancel)
}
