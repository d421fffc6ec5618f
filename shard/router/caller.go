package router

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// caller brings a call to the leader of a range. It owns the newest map, the leader hints, the attempts and the pauses
// between them. What the call asks is not its concern.
type caller struct {
	cfg     Config
	leaders shard.Table[shard.NodeID] // hints only
	maps    rangeMaps
}

// Leader is the node that last answered as the leader of the range; 0 when unknown.
func (c *caller) Leader(id shard.RangeID) shard.NodeID {
	node, _ := c.leaders.Get(id) // 0 where there is no hint
	return node
}

// LearnLeader takes a hint, from gossip or a replica of this node.
func (c *caller) LearnLeader(id shard.RangeID, node shard.NodeID) {
	if node == 0 {
		c.leaders.Delete(id)
		return
	}
	if c.Leader(id) != node {
		c.leaders.Put(id, node)
	}
}

// rangeMap waits for the first map where there is none yet.
func (c *caller) rangeMap(ctx context.Context) (*shard.Map, error) {
	if m := c.maps.newest(); m != nil {
		return m, nil
	}
	if err := c.cfg.Cluster.Refresh(ctx); err != nil {
		return nil, err
	}
	if m := c.maps.newest(); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("router: %w: no range map yet", shard.ErrUnavailable)
}

// attempt is one try at a range: which node to ask, and what to learn from its answer.
type attempt struct {
	desc  shard.Descriptor
	tries int
	next  int          // replica to ask where no leader is known
	local shard.NodeID // the last node that was called because a replica here follows it
}

// node picks the node to call: the leader by our hint, else the one that a replica of this node follows, else
// the replicas in turn.
func (c *caller) node(a *attempt) shard.NodeID {
	if n := c.Leader(a.desc.ID); n != 0 {
		return n
	}
	if c.cfg.Local != nil {
		if n := c.cfg.Local.Leader(a.desc.ID); n != 0 && n != a.local {
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

// errNoNews is errRemap where nobody knows how it has changed: who asks again at once would hear the same.
var errNoNews = fmt.Errorf("%w in a way that is not known yet", errRemap)

// remapped takes what a node has answered that was asked by desc and does not hold what it was asked for. Where that
// leaves us with desc, the map is fetched.
func (c *caller) remapped(ctx context.Context, desc shard.Descriptor, node shard.NodeID, wrong *shard.WrongRangeError) error {
	c.wrongRange(desc.ID, node, wrong)
	if c.outdated(desc) {
		return errRemap
	}
	_ = c.cfg.Cluster.Refresh(ctx) // what came of it is seen
	if c.outdated(desc) {
		return errRemap
	}
	return errNoNews
}

// wrongRange learns from a refusal. The hint to the node is dropped, unless it still has the range.
func (c *caller) wrongRange(id shard.RangeID, node shard.NodeID, wrong *shard.WrongRangeError) {
	still := slices.ContainsFunc(wrong.Known, func(d shard.Descriptor) bool {
		_, there := d.ReplicaOn(node)
		return d.ID == id && there
	})
	if !still && c.Leader(id) == node {
		c.LearnLeader(id, 0)
	}
	c.maps.learn(wrong.Known)
}

// outdated reports whether something newer than desc is known.
func (c *caller) outdated(desc shard.Descriptor) bool {
	m := c.maps.newest()
	if m == nil {
		return false
	}
	d, ok := m.Get(desc.ID)
	return !ok || d.Generation != desc.Generation
}

// call calls a node, and learns what its answer tells of ranges.
func (c *caller) call(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	resp, err := c.cfg.Peers.Call(ctx, to, req)
	if err == nil {
		c.learned(resp)
	}
	return resp, err
}

// learned takes what an answer tells of ranges, as the request was routed by what is older.
func (c *caller) learned(resp *pb.PeerResponse) {
	if len(resp.Learned) > 0 {
		c.maps.learn(pb.ToDescriptors(resp.Learned))
	}
}

// untilMapped runs fn again, after a pause, as long as the range map has changed under it.
func (c *caller) untilMapped(ctx context.Context, fn func() error) error {
	var a attempt
	for {
		err := fn()
		if !errors.Is(err, errRemap) {
			return err
		}
		if over := c.pause(ctx, &a, err); over != nil {
			return outOfPatience(over, err)
		}
	}
}

// callLeader sends what build makes to the leader of the range until an answer is final. Only what certainly
// was not applied is tried again. errRemap: the keys are to be looked up anew. shard.ErrStaleEpoch: the
// revision is.
func (c *caller) callLeader(ctx context.Context, desc shard.Descriptor, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error) {
	a := &attempt{desc: desc}
	var last error
	for {
		to := c.node(a)
		resp, err := c.call(ctx, to, build(a.desc))
		if err == nil {
			if to != 0 {
				c.LearnLeader(desc.ID, to)
			}
			return resp, nil
		}
		var wrong *shard.WrongRangeError
		switch {
		case errors.As(err, &wrong):
			return nil, c.remapped(ctx, desc, to, wrong)
		case errors.Is(err, shard.ErrAmbiguous):
			c.LearnLeader(desc.ID, 0) // it may be gone: the next request looks anew
			return nil, err
		case !shard.Retryable(err) || errors.Is(err, shard.ErrStaleEpoch):
			return nil, err
		}
		last = err
		c.learnFrom(a, to, err)
		if c.outdated(desc) && !mutate.On(mutate.VanishedAsked) { // it may be no more, or on other nodes
			return nil, errRemap
		}
		if err := c.pause(ctx, a, last); err != nil {
			return nil, outOfPatience(err, last)
		}
	}
}

// learnFrom moves the leader hint after an attempt that certainly was not applied.
func (c *caller) learnFrom(a *attempt, node shard.NodeID, err error) {
	var wrong *shard.WrongRangeError
	if errors.As(err, &wrong) {
		c.wrongRange(a.desc.ID, node, wrong)
		return
	}
	var nl *shard.NotLeaderError
	if errors.As(err, &nl) && nl.Leader != 0 && nl.Leader != node {
		c.LearnLeader(a.desc.ID, nl.Leader)
		return
	}
	c.LearnLeader(a.desc.ID, 0)
	for i, rep := range a.desc.Replicas { // go on behind the one that failed
		if rep.Node == node {
			a.next = i + 1
		}
	}
}

// pause waits before the next attempt; why is what the last one ended with. The first pause is free, unless nothing has
// been learnt that the next attempt could do otherwise.
func (c *caller) pause(ctx context.Context, a *attempt, why error) error {
	if a.tries == 0 && errors.Is(why, errNoNews) && !mutate.On(mutate.RemapSpins) {
		a.tries = 1
	}
	a.tries++
	if a.tries == 1 || mutate.On(mutate.RemapSpins) && errors.Is(why, errRemap) {
		return ctx.Err()
	}
	d := c.cfg.Backoff << min(a.tries-2, 4)
	return patience.Pause(ctx, d)
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
func (c *caller) patience(ctx context.Context) *patience.Context {
	return patience.With(ctx, c.cfg.Patience)
}
