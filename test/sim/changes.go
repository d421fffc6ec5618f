package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// rangesMax bounds what splits make of a cluster.
const rangesMax = 24

// changes are the faults that are none: what an operator or the planner does with the ranges, at any time.
type changes struct{ w *world }

// change asks the meta group, by way of some node, for a change of the ranges. begun counts those that it has decided on.
func (c changes) change(what string, req *pb.BeginOpRequest, begun *int) {
	w := c.w
	l := w.someLife()
	if l == nil {
		return
	}
	w.asked++ // tells those apart that end at the same instant
	no := w.asked
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		op, err := l.client.Begin(ctx, req)
		w.post(fmt.Sprintf("op %d/%d", l.n.id, no), 0, func() {
			w.note("%s: op %d: %v", what, op.ID, err)
			if err == nil {
				*begun++
			}
		})
	}()
}

// someRange picks one.
func (c changes) someRange() shard.Descriptor {
	all := slices.Collect(c.w.newest().All())
	return all[c.w.rng.IntN(len(all))]
}

// split cuts some range, at a key that somebody uses or beside one, and sometimes where nobody may.
func (c changes) split(time.Duration) {
	w := c.w
	if w.newest().Len() >= rangesMax {
		return
	}
	key := slices.Clone(w.layout.keys[w.rng.IntN(len(w.layout.keys))])
	if w.roll(0.3) {
		key = append(key, 'x')
	}
	c.change(fmt.Sprintf("split at %q", key), &pb.BeginOpRequest{Split: &pb.SplitOp{Key: key, Reason: "simulated"}}, &w.stats.Splits)
}

// move moves some range's replica to where none is, or adds or removes one.
func (c changes) move(time.Duration) {
	w := c.w
	d := c.someRange()
	var free []shard.NodeID
	for _, n := range w.nodes {
		if _, there := d.ReplicaOn(n.id); !there {
			free = append(free, n.id)
		}
	}
	mv := &pb.MoveOp{RangeId: uint64(d.ID), Reason: "simulated"}
	if len(free) > 0 && !w.roll(0.1) {
		mv.To = uint64(free[w.rng.IntN(len(free))])
	}
	if mv.To == 0 && len(d.Replicas) > 2 || mv.To != 0 && len(d.Replicas) > 2 && !w.roll(0.1) {
		mv.From = uint64(d.Replicas[w.rng.IntN(len(d.Replicas))].Node)
	}
	c.beginMove(d, mv)
}

func (c changes) beginMove(d shard.Descriptor, mv *pb.MoveOp) {
	if mv.To != 0 || mv.From != 0 {
		c.change(fmt.Sprintf("move of %v from %d to %d", d.ID, mv.From, mv.To), &pb.BeginOpRequest{Move: mv}, &c.w.stats.Moves)
	}
}

// metaMove moves a replica of the meta group, or adds or removes one.
func (c changes) metaMove(time.Duration) {
	w := c.w
	d := w.meta()
	mv := &pb.MoveOp{RangeId: uint64(shard.MetaID), Reason: "simulated"}
	var free []shard.NodeID
	for _, n := range w.nodes {
		if _, there := d.ReplicaOn(n.id); !there {
			free = append(free, n.id)
		}
	}
	if len(free) > 0 && !w.roll(0.2) {
		mv.To = uint64(free[w.rng.IntN(len(free))])
	}
	if len(d.Replicas) > 2 && (mv.To == 0 || w.roll(0.8)) {
		mv.From = uint64(d.Replicas[w.rng.IntN(len(d.Replicas))].Node)
	}
	if mv.To != 0 || mv.From != 0 {
		c.change(fmt.Sprintf("move of the meta group from %d to %d", mv.From, mv.To), &pb.BeginOpRequest{Move: mv}, &w.stats.MetaMoves)
	}
}

// neighbours picks a range and the one to its right; false: there is one range alone.
func (c changes) neighbours() (left, right shard.Descriptor, ok bool) {
	all := slices.Collect(c.w.newest().All())
	if len(all) < 2 {
		return left, right, false
	}
	i := c.w.rng.IntN(len(all) - 1)
	return all[i], all[i+1], true
}

// gather brings a range closer to the nodes of its left neighbour: only ranges on the same nodes can be merged.
func (c changes) gather(time.Duration) {
	left, right, ok := c.neighbours()
	if !ok {
		return
	}
	mv := &pb.MoveOp{RangeId: uint64(right.ID), Reason: "simulated"}
	for _, r := range left.Replicas {
		if _, there := right.ReplicaOn(r.Node); !there {
			mv.To = uint64(r.Node)
		}
	}
	for _, r := range right.Replicas {
		if _, there := left.ReplicaOn(r.Node); !there {
			mv.From = uint64(r.Node)
		}
	}
	c.beginMove(right, mv)
}

// merge has a range become part of its left neighbour: one that can, if there is one, and sometimes any.
func (c changes) merge(time.Duration) {
	w := c.w
	left, right, ok := c.neighbours()
	for range 2 * w.newest().Len() {
		if !ok || together(left, right) || w.roll(0.05) {
			break
		}
		left, right, ok = c.neighbours()
	}
	if !ok {
		return
	}
	c.change(fmt.Sprintf("merge of %v into %v", right.ID, left.ID), &pb.BeginOpRequest{Merge: &pb.MergeOp{Key: right.Span.Start, Reason: "simulated"}}, &w.stats.Merges)
}

// together reports whether two ranges are on the same nodes.
func together(a, b shard.Descriptor) bool {
	return len(a.Replicas) == len(b.Replicas) && !slices.ContainsFunc(a.Replicas, func(r shard.Replica) bool {
		_, there := b.ReplicaOn(r.Node)
		return !there
	})
}
