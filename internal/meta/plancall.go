package meta

import (
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// servePlan answers with what the planner would do now, in the mode that is asked for, and does nothing of it; or only with what is on the nodes.
func servePlan(c *call, req *pb.PlanRequest) {
	acts := c.m.cfg.Placement.Mode
	mode, known := acts, true
	if req.Mode != "" {
		mode, known = placement.ModeNamed(req.Mode)
	}
	c.read(func() {
		switch {
		case !known:
			c.fail(fmt.Errorf("%w: the mode of a plan is on, repair or off, not %q", shard.ErrInvalid, req.Mode))
		case c.m.cfg.Placement.Nodes == nil:
			c.fail(fmt.Errorf("%w: the meta group's leader has no planner", shard.ErrUnimplemented))
		default:
			p := planned{c: c, mode: mode, acts: acts, nodesOnly: req.NodesOnly, heard: c.m.planner.heard, ranges: c.m.state.Map(), members: c.m.state.Members()}
			c.m.wg.Go(p.run) // no Close waits yet: it needs the lock first
		}
	})
}

// planned is a plan for people.
type planned struct {
	c          *call
	mode, acts placement.Mode
	nodesOnly  bool
	heard      *heard
	ranges     *shard.Map
	members    []shard.Member
}

// run makes it; one at a time is made. Where no round has asked the nodes lately, this one asks them.
func (p *planned) run() {
	c, m := p.c, p.c.m
	select {
	case m.planner.dry <- struct{}{}:
		defer func() { <-m.planner.dry }()
	case <-c.ctx.Done():
		m.mu.Lock()
		c.fail(fmt.Errorf("%w: others wait for a plan, too", shard.ErrTimeout))
		m.mu.unlock()
		return
	}
	h := p.heard
	if h == nil || m.cfg.Now().Sub(h.at) > planEvery+nodeAskedMax {
		h, _ = m.cfg.Placement.ask(c.ctx, h, holders(p.members, p.ranges), m.cfg.Now, m.cfg.Wall)
	}
	m.mu.Lock()
	in := m.planner.input(h)
	m.mu.unlock()
	var ops []placement.Op
	if !p.nodesOnly {
		limits := in.limits(&m.cfg.Placement, p.mode)
		ops, _ = in.plan(limits)
		if op := in.groupOp(m.cfg.Node, limits); op != nil && m.cfg.Placement.Group {
			ops = append(ops, *op)
		}
	}
	resp := p.render(ops, in, m.cfg.Now().Sub(h.at))
	m.mu.Lock()
	c.reply(&pb.PeerResponse{Plan: resp}, nil)
	m.mu.unlock()
}

// holding is what is on a node: replicas of ranges, how many of them lead, and the bytes in use in them, as their leaders tell.
type holding struct{ ranges, leads, bytes int64 }

// holdings is what is on each node. It looks at every range, and is made without a plan.
func (in *planInput) holdings() map[shard.NodeID]*holding {
	out, moves := make(map[shard.NodeID]*holding), movesOf(in.ops)
	for _, member := range in.members {
		out[member.ID] = &holding{}
	}
	for d := range in.ranges.All() {
		leader, st := in.leaderOf(d.ID, d.Generation, moves[d.ID] != nil)
		for _, r := range d.Replicas {
			h := out[r.Node]
			if h == nil { // it is no member, which nobody asks for
				continue
			}
			h.ranges++
			h.bytes += int64(st.GetSizeInUse())
			if r.Node == leader {
				h.leads++
			}
		}
	}
	return out
}

var livenessNames = [...]string{"up", "suspect", "dead"}

func (p *planned) render(ops []placement.Op, in *planInput, age time.Duration) *pb.PlanResponse {
	out := &pb.PlanResponse{Mode: p.mode.String(), Acts: p.acts.String(), AgeMs: age.Milliseconds()}
	for i := range ops {
		op := &ops[i]
		out.Ops = append(out.Ops, &pb.PlannedOp{Kind: op.Kind.String(), Rule: op.Rule.String(), RangeId: uint64(op.Range), Generation: uint64(op.Generation),
			From: uint64(op.From), To: uint64(op.To), Leader: uint64(op.Leader), Key: op.Key, Right: uint64(op.Right), Why: op.Why, Blocked: op.Blocked, Text: op.String()})
	}
	on := in.holdings()
	for _, member := range in.members {
		pulse := in.heard.pulses[member.ID]
		out.Nodes = append(out.Nodes, &pb.PlanNode{NodeId: uint64(member.ID), State: livenessNames[pulse.liveness], SinceS: int64(max(in.now-pulse.since, 0)), Leaves: leaving(member),
			Ranges: on[member.ID].ranges, Leads: on[member.ID].leads, Bytes: on[member.ID].bytes})
	}
	return out
}
