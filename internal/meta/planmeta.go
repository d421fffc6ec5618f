package meta

import (
	"context"
	"slices"

	"pontoon/placement"
	"pontoon/shard"
)

// groupOp is what is due for the meta group itself, which the plan for the ranges knows nothing of; nil: nothing is. leader is the node that leads it.
func (in *planInput) groupOp(leader shard.NodeID, limits placement.Limits) *placement.Op {
	vain := in.past[shard.MetaID]
	if in.heard == nil || in.group.ID == 0 || slices.ContainsFunc(in.ops, func(op shard.Op) bool { return op.Range == shard.MetaID }) {
		return nil
	}
	g := placement.Group{Generation: in.group.Generation, Leader: leader}
	for _, r := range in.group.Replicas {
		if r.Votes() {
			g.Voters = append(g.Voters, r.Node)
		} else { // which come and go by what learners decides
			g.Learners = append(g.Learners, r.Node)
		}
	}
	var nodes []placement.Node
	for i := range in.members {
		nodes = append(nodes, in.node(in.members[i].ID, &in.members[i]))
	}
	op, due := placement.PlanGroup(&g, nodes, limits, in.now)
	if !due || op.Kind == placement.KindMove && in.now < vain.vainMove.until || op.Kind == placement.KindTransfer && in.now < vain.vainLead.until {
		return nil
	}
	return &op
}

// handGroupOver hands the lead of the meta group, and with it the planning, to another node. Called with the lock held.
func (p *planner) handGroupOver(op *placement.Op) {
	if _, twice := p.handing[shard.MetaID]; twice {
		return
	}
	m, ctx, to, why := p.m, p.ctx, op.To, reasonOf(op)
	o := handOver{id: shard.MetaID, from: op.From, to: to, rule: op.Rule, why: why}
	p.handing[shard.MetaID] = o
	m.mu.later(func() {
		m.cfg.Logger.Info("the lead of the meta group is to be handed over", "to", to.String(), "why", why)
	})
	m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, handOverMax)
		err := m.MoveLeader(ctx, to)
		cancel()
		m.mu.Lock()
		defer m.mu.unlock()
		if p.handing[shard.MetaID] != o {
			return // another leadership's by now: this one has ended, as it was to
		}
		delete(p.handing, shard.MetaID)
		if err != nil {
			p.past.failed(shard.MetaID, placement.KindTransfer, p.now())
			m.mu.later(func() {
				m.cfg.Logger.Info("the lead of the meta group was not handed over", "to", to.String(), "why", why, "error", err)
			})
		}
	})
}
