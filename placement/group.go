package placement

import (
	"fmt"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Group is the meta group as PlanGroup sees it, while no op is under way in it: on which nodes its voters are and who of them leads, and where it has
// replicas that learn. That these come and go is somebody else's business; which of them are given a vote is decided here.
type Group struct {
	Generation shard.Generation
	Voters     []shard.NodeID
	Learners   []shard.NodeID
	Leader     shard.NodeID
}

// PlanGroup returns what is due for the meta group, one op at a time: a move, or a transfer of its lead; false: nothing is. It has one, three or five
// voters, as many as there are members for, and two where no more are left; no two in one failure domain while another has none. In ModeOff it only does what
// somebody has asked for: it leaves members that were drained or removed, and lets those vote that were promoted.
func PlanGroup(g *Group, nodes []Node, l Limits, now Seconds) (Op, bool) {
	p := newGrouper(g, nodes, &l, now)
	for _, rule := range []func() (Op, bool){p.leaves, p.resizes, p.spreads, p.leads} {
		if op, due := rule(); due && !mutate.On(mutate.PlanGroupStays) {
			return op, true
		}
	}
	return Op{}, false
}

type grouper struct {
	g      *Group
	l      *Limits
	nodes  []Node
	now    Seconds
	role   []role
	row    []int16 // of the voters; None: of a node that nobody knows
	wanted int
	doms   domains
}

func newGrouper(g *Group, nodes []Node, l *Limits, now Seconds) *grouper {
	p := &grouper{g: g, l: l, nodes: nodes, now: now, role: make([]role, len(nodes))}
	members := 0
	for i := range nodes {
		p.role[i] = roleOf(&nodes[i], l, now)
		if !nodes[i].Removed && !nodes[i].Learner {
			members++
		}
	}
	p.wanted = shard.MetaVoters(members)
	for _, v := range g.Voters {
		p.row = append(p.row, int16(slices.IndexFunc(nodes, func(n Node) bool { return n.ID == v })))
	}
	p.doms = domainsOf(nodes, func(i int) bool { return p.role[i]&(roleAbsent|roleBarred) == 0 }, max(p.wanted, len(p.row)))
	return p
}

func (p *grouper) op(kind Kind, rule Rule, from, to int16, why string) (Op, bool) {
	op := Op{Kind: kind, Rule: rule, Range: shard.MetaID, Generation: p.g.Generation, Why: why}
	if from >= 0 {
		op.From = p.nodes[from].ID
	}
	if to >= 0 {
		op.To = p.nodes[to].ID
	}
	return op, true
}

// target is the node that had best get a replica, in the place of the one on from: in the failure domain with the fewest; None: there is none.
func (p *grouper) target(from int16) int16 { return p.best(from, p.candidates(false)) }

// candidates are the nodes that may get a voter; with learning only those on which a replica learns already.
func (p *grouper) candidates(learning bool) (out []int16) {
	for n := range p.nodes {
		if p.role[n] == roleServes && !slices.Contains(p.row, int16(n)) && (!learning || slices.Contains(p.g.Learners, p.nodes[n].ID)) {
			out = append(out, int16(n))
		}
	}
	return out
}

func (p *grouper) best(from int16, candidates []int16) int16 {
	best, least := int16(None), 0
	for _, t := range candidates {
		v := 2 * p.crowd(from, t)
		if !slices.Contains(p.g.Learners, p.nodes[t].ID) {
			v++ // who learns already is sent less
		}
		if best < 0 || v < least || v == least && p.nodes[t].ID < p.nodes[best].ID {
			best, least = t, v
		}
	}
	return best
}

// crowd is how near voters stand to one another, once one has gone from a node to another; None in either adds or takes away. In the widest tier a
// pair in one domain outweighs all of those further down.
func (p *grouper) crowd(from, to int16) int {
	row := append(slices.DeleteFunc(slices.Clone(p.row), func(n int16) bool { return n < 0 || n == from || p.role[n]&roleAbsent != 0 }), to)
	if to < 0 {
		row = row[:len(row)-1]
	}
	total := 0
	for _, of := range p.doms.tiers {
		pairs := 0
		for k, n := range row {
			for _, m := range row[:k] {
				if of[n] == of[m] {
					pairs++
				}
			}
		}
		total = total*tierWeight + pairs
	}
	return total
}

// tierWeight is more than there are pairs of voters.
const tierWeight = 64

// leaves takes a replica off a node that was removed, is dead or is to be empty. Those that are lost go first, and then those that were removed, in that order.
func (p *grouper) leaves() (Op, bool) {
	var lost []int16
	for _, n := range p.row {
		if n >= 0 && p.role[n] == roleLost {
			lost = append(lost, n)
		}
	}
	for _, n := range slices.Concat(lost, removedOf(p.nodes, p.row), p.row) {
		if n < 0 { // its id is all that is known: whoever was forgotten holds nothing, so this comes to an end by itself
			continue
		}
		if op, due := p.leave(n); due && p.keeps(n, p.target(n)) {
			return op, true
		}
	}
	return Op{}, false
}

// leave takes the voter off a node, if it is to go.
func (p *grouper) leave(n int16) (Op, bool) {
	to, id := p.target(n), p.nodes[n].ID
	switch {
	case p.nodes[n].Removed && (to >= 0 || len(p.row) > 1):
		return p.op(KindMove, RuleDrain, n, to, "its member was removed")
	case p.role[n] == roleLost && !p.nodes[n].Draining && to >= 0 && p.l.Mode != ModeOff:
		return p.op(KindMove, RuleReplace, n, to, fmt.Sprintf("node %v is gone", id))
	case p.nodes[n].Draining && to >= 0:
		return p.op(KindMove, RuleDrain, n, to, fmt.Sprintf("node %v is to be empty", id))
	}
	return Op{}, false
}

// keeps tells whether the voters that answer are a majority before and after one has gone from a node to another: else the group would be stuck between both.
func (p *grouper) keeps(from, to int16) bool {
	answers := func(n int16) int {
		if n >= 0 && p.nodes[n].Liveness == Up {
			return 1
		}
		return 0
	}
	before := 0
	for _, n := range p.row {
		before += answers(n)
	}
	after, voters := before-answers(from)+answers(to), len(p.row)
	if to < 0 {
		voters--
	}
	return before > len(p.row)/2 && after > voters/2 || mutate.On(mutate.PlanGroupStuck)
}

// settled tells whether nothing is in the way of changes that can wait: all voters answer.
func (p *grouper) settled() bool {
	return !slices.ContainsFunc(p.row, func(n int16) bool { return n < 0 || p.nodes[n].Liveness != Up })
}

// resizes adds a voter, or takes one away. An even number is passed through only.
func (p *grouper) resizes() (Op, bool) {
	if !p.settled() {
		return Op{}, false
	}
	off := p.l.Mode == ModeOff
	free := p.candidates(off)
	have := len(p.row)
	why := fmt.Sprintf("%d voters, and %d are wanted", have, p.wanted)
	switch {
	case have < p.wanted && len(free) > have%2: // from an odd number two are needed
		return p.op(KindMove, RuleGrow, None, p.best(None, free), why)
	case have > max(p.wanted, 2) && !off:
		return p.op(KindMove, RuleShrink, p.surplus(), None, why)
	}
	return Op{}, false
}

// surplus is the voter that the group can best do without; not the leader.
func (p *grouper) surplus() int16 {
	best, least := int16(None), 0
	for k, n := range p.row {
		v := 2 * p.crowd(n, None)
		if p.role[n]&roleAbsent != 0 {
			v--
		}
		if p.g.Voters[k] != p.g.Leader && (best < 0 || v < least) {
			best, least = n, v
		}
	}
	return best
}

// spreads takes voters apart that would fail together, the leader last.
func (p *grouper) spreads() (Op, bool) {
	if p.l.Mode == ModeOff || !p.settled() {
		return Op{}, false
	}
	from, to, least := int16(None), int16(None), 2*p.crowd(None, None)
	for k, n := range p.row {
		t := p.target(n)
		if t < 0 {
			continue
		}
		v := 2 * p.crowd(n, t)
		if p.g.Voters[k] == p.g.Leader {
			v++
		}
		if v < least-1 || v < least && from >= 0 {
			from, to, least = n, t, v
		}
	}
	if from < 0 {
		return Op{}, false
	}
	return p.op(KindMove, RuleDomain, from, to, "two of its voters would fail together, and need not")
}

// leads hands the lead over where it is on a node that is to be empty, and whose replica nobody could take; or on one that has no processor time left,
// while another voter's has: every write of the cluster waits for this leader. Who has come to lead is left alone for a while, so that the lead does
// not go round where all are busy.
func (p *grouper) leads() (Op, bool) {
	at := slices.Index(p.g.Voters, p.g.Leader)
	if at < 0 || p.row[at] < 0 {
		return Op{}, false
	}
	here, best := p.row[at], int16(None)
	for _, n := range p.row {
		if n >= 0 && n != here && p.role[n] == roleServes && (best < 0 || p.nodes[n].CPU < p.nodes[best].CPU || p.nodes[n].CPU == p.nodes[best].CPU && p.nodes[n].ID < p.nodes[best].ID) {
			best = n
		}
	}
	node := &p.nodes[here]
	switch {
	case best < 0:
		return Op{}, false
	case p.role[here] == roleLeaves:
		return p.op(KindTransfer, RuleDrainLead, here, best, fmt.Sprintf("node %v is to be empty", p.g.Leader))
	case p.l.Mode == ModeOn && node.exhausted(p.l) && node.CPU-p.nodes[best].CPU >= p.l.Move.MetaLeadGain && p.now-node.Since >= p.l.Move.MetaLeadAfter:
		return p.op(KindTransfer, RuleLead, here, best, fmt.Sprintf("node %v has no processor time left, node %v uses %.0f %% of it", p.g.Leader, p.nodes[best].ID, p.nodes[best].CPU*percent))
	}
	return Op{}, false
}
