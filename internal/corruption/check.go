package corruption

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"pontoon/shard"
)

// Plan says when replicas are compared.
type Plan struct {
	// Every is the pause between two comparisons at the present revision; 0: there is none.
	Every time.Duration
	// Compacted is the pause between two looks whether something was compacted since the last comparison, which is then made at the
	// revision of the compaction; 0: there is none.
	Compacted time.Duration
	// First: what this node holds is compared once, when it has started.
	First bool
}

// Env is what the comparison needs of its node. Every field is set. What takes a context may block up to its end.
type Env struct {
	// Leads: it is this node that compares, later than at its start. It must not block.
	Leads func() bool
	// Ranges are those that there are, or those that this node holds.
	Ranges func(here bool) iter.Seq[shard.Descriptor]
	// Compacted is the revision of the last compaction that is known; 0: none is. It must not block.
	Compacted func() int64
	// Copies asks all voters of a range, at a revision; 0: the present one.
	Copies func(ctx context.Context, d shard.Descriptor, rev int64) ([]Copy, error)
	// Distrust has a node throw its replica's state away, and get the others'.
	Distrust func(ctx context.Context, node shard.NodeID, id shard.RangeID, why string) error
	// Corrupt raises the alarm for a node.
	Corrupt func(ctx context.Context, node shard.NodeID) error
	Logger  *slog.Logger
}

const (
	// rangePatience bounds the comparison of one range.
	rangePatience = time.Minute
	// tries is how often a range is compared that leaves it open who differs: replicas carry out a compaction each in its own time.
	tries = 3
	// again is the pause between them.
	again = time.Second
)

// Run compares by a plan until ctx ends.
func Run(ctx context.Context, p Plan, env Env) {
	c := &checker{env: env}
	if p.First {
		c.all(ctx, true, 0)
	}
	if p.Every <= 0 && p.Compacted <= 0 {
		return
	}
	env.Logger.Info("enabled corruption checking", "interval", p.Every, "compact-hash-check-interval", p.Compacted)
	full, stopFull := ticks(p.Every)
	defer stopFull()
	compacted, stopCompacted := ticks(p.Compacted)
	defer stopCompacted()
	for {
		select {
		case <-ctx.Done():
			return
		case <-full:
			if env.Leads() {
				c.all(ctx, false, 0)
			}
		case <-compacted:
			if env.Leads() {
				c.sinceCompaction(ctx)
			}
		}
	}
}

// ticks is a ticker's channel; nil, which nothing comes by, where there is no pause.
func ticks(every time.Duration) (<-chan time.Time, func()) {
	if every <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(every)
	return t.C, t.Stop
}

type checker struct {
	env       Env
	compacted int64 // revision of the last compaction that was compared at
}

// sinceCompaction compares at the last compaction, unless that has been done.
func (c *checker) sinceCompaction(ctx context.Context) {
	n := 0
	if rev := c.env.Compacted(); rev > c.compacted {
		n = c.all(ctx, false, rev)
		c.compacted = rev
	}
	c.env.Logger.Info("finished compaction hash check", "number-of-hashes-checked", n)
}

// all compares the ranges one by one, and returns of how many it could be said whether somebody differs.
func (c *checker) all(ctx context.Context, here bool, rev int64) (decided int) {
	for d := range c.env.Ranges(here) {
		if ctx.Err() != nil {
			break
		}
		if len(d.Replicas) > 1 && c.one(ctx, d, rev) {
			decided++
		}
	}
	return decided
}

// one compares the replicas of a range. It reports whether it could be said whether somebody differs.
func (c *checker) one(ctx context.Context, d shard.Descriptor, rev int64) bool {
	ctx, cancel := context.WithTimeout(ctx, rangePatience)
	defer cancel()
	log := c.env.Logger.With("range", d.ID.String())
	for try := 1; ; try++ {
		copies, err := c.env.Copies(ctx, d, rev)
		if err != nil {
			log.Debug("the replicas of a range could not be compared", "error", err)
			return false // it has changed, or nobody answers: the next time
		}
		switch v, nodes := judge(copies); v {
		case agree:
			return true
		case differ:
			c.distrust(ctx, d, nodes, log)
			return true
		case split:
			log.Error("the replicas of a range differ, and none has a majority", "copies", fmt.Sprintf("%+v", copies))
			for _, node := range nodes {
				if err := c.env.Corrupt(ctx, node); err != nil {
					log.Error("the alarm could not be raised", "member", node.String(), "error", err)
				}
			}
			return true
		}
		if try == tries {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(again):
		}
	}
}

// distrust tells the first of those that differ: they are rebuilt one after the other, so that the range keeps its majority.
func (c *checker) distrust(ctx context.Context, d shard.Descriptor, nodes []shard.NodeID, log *slog.Logger) {
	const why = "its content differs from that of a majority"
	log.Error("found data inconsistency with peers", "member", nodes[0].String(), "members that differ", len(nodes))
	if err := c.env.Distrust(ctx, nodes[0], d.ID, why); err != nil {
		log.Warn("a member could not be told that its replica differs", "member", nodes[0].String(), "error", err)
	}
}
