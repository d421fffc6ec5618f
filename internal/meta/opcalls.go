package meta

import (
	"fmt"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// beginOp decides an op. The answer is the op alone, which has only begun then.
func (c *call) beginOp(req *pb.BeginOpRequest) {
	alive := c.m.reach()
	c.write(func() (*pb.MetaEntry, error) {
		now := c.m.cfg.Wall().UnixMilli()
		switch {
		case req.Split != nil:
			return state.PlanSplit(c.m.state, req.Split, now)
		case req.Move != nil:
			e, err := state.PlanMove(c.m.state, req.Move, now)
			if err == nil {
				err = mayMoveTo(shard.NodeID(req.Move.To), alive, c.m.planner.heard)
			}
			return e, err
		case req.Merge != nil:
			return state.PlanMerge(c.m.state, req.Merge.Key, req.Merge.Reason, now)
		}
		return nil, fmt.Errorf("%w: an op of no kind that is known here", shard.ErrInvalid)
	}, func(r state.Result) { c.opList(r.Op) })
}

// listOps answers with one op, or with all that are remembered.
func (c *call) listOps(id shard.OpID) {
	if id == 0 {
		c.opList(c.m.state.Ops()...)
		return
	}
	op, ok := c.m.state.Op(id)
	if !ok {
		c.fail(fmt.Errorf("%w: no op has the id %d; of those that are over the last %d are remembered", shard.ErrInvalid, id, state.OpsOverMax))
		return
	}
	c.opList(op)
}

func (c *call) opList(ops ...shard.Op) {
	out := &pb.OpsResponse{}
	for i := range ops {
		out.Ops = append(out.Ops, pb.FromOp(&ops[i]))
		out.Waiting = append(out.Waiting, c.m.ops.waiting(ops[i].ID))
	}
	c.reply(&pb.PeerResponse{Ops: out}, nil)
}

// serveUnstick takes back that a border is to stay.
func serveUnstick(c *call, req *pb.UnstickRequest) {
	c.write(func() (*pb.MetaEntry, error) {
		return &pb.MetaEntry{Unstick: &pb.MetaUnstick{Key: req.Key}}, nil
	}, func(state.Result) { c.reply(&pb.PeerResponse{Empty: &pb.Empty{}}, nil) })
}

// serveBorders answers with the borders that are to stay now.
func serveBorders(c *call) {
	now, all := c.m.cfg.Wall().UnixMilli(), c.m.state.Borders()
	render(c.m, len(all), func() {
		out := &pb.BordersResponse{}
		for _, b := range all {
			if b.Until > now {
				out.Borders = append(out.Borders, &pb.MetaBorder{Key: b.Key, UntilMs: b.Until})
			}
		}
		c.answer(&pb.PeerResponse{Borders: out})
	})
}

// mayMoveTo refuses a move that somebody asks for to a node which does not answer, or has little disk left, as far as that is known: it would not get on.
// h is what nodes have told, nil: nothing yet.
func mayMoveTo(to shard.NodeID, alive reach, h *heard) error {
	switch {
	case to == 0:
		return nil
	case !alive.has(to, 0):
		return fmt.Errorf("%w: node %v is out of reach: start it, or name another node", shard.ErrInvalid, to)
	case h == nil:
		return nil
	}
	st, told := h.told[to]
	if limits := placement.DefaultLimits().Move; told && limits.Full(st.DiskFree, st.DiskUsed) {
		return fmt.Errorf("%w: of the disk of node %v less than %.0f %% are free: free some of it, or name another node", shard.ErrNoSpace, to, limits.DiskFull*100)
	}
	return nil
}
