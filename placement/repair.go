package placement

import (
	"cmp"
	"fmt"
	"slices"

	"pontoon/internal/mutate"
)

// anyViolations is a limit for rules that do not look at failure domains first.
const anyViolations = 1 << 20

// repairer holds the rules for replicas and leads that are not where they must be.
type repairer struct{ *planner }

// giveUps takes back ops that nobody needs any more, or that cannot end.
func (p repairer) giveUps() {
	for _, op := range p.s.Running {
		if op.Kind != KindMove {
			continue
		}
		why := ""
		switch {
		case op.To >= 0 && p.fleet.role[op.To]&roleAbsent != 0:
			why = fmt.Sprintf("node %v, where it goes, is dead or to be empty", p.node(op.To))
		case op.Begun || op.From < 0:
		case op.Rule == RuleReplace && p.fleet.role[op.From] == roleServes:
			why = fmt.Sprintf("node %v is back", p.node(op.From))
		case op.Rule == RuleDrain && p.fleet.role[op.From] == roleServes:
			why = fmt.Sprintf("node %v is no longer drained", p.node(op.From))
		}
		if why != "" {
			o := p.op(KindGiveUp, RuleGiveUp, op.Range)
			o.Running, o.From, o.To, o.Why = op.ID, p.node(op.From), p.node(op.To), why
			p.out = append(p.out, o)
		}
	}
}

// repairs gives ranges as many replicas on living nodes as they should have.
func (p repairer) repairs() {
	if mutate.On(mutate.PlanReplace) {
		return
	}
	for _, n := range p.notes.repair.sorted() {
		if p.free(n.at) && (p.l.Mode != ModeOff || p.asked(n.at)) {
			p.repair(n.at)
		}
	}
}

// removedOf are the nodes of a row whose members were removed, the first of them first. Nobody counts on that one any more: it may have been stopped, while
// the others are still to stay until their ranges can do without them.
func removedOf(nodes []Node, row []int16) []int16 {
	var out []int16
	for _, n := range row {
		if n >= 0 && nodes[n].Removed {
			out = append(out, n)
		}
	}
	if !mutate.On(mutate.PlanAnyFirst) {
		slices.SortStableFunc(out, func(a, b int16) int { return cmp.Compare(nodes[a].Left, nodes[b].Left) })
	}
	return out
}

// asked tells whether a range has a replica where somebody wants none.
func (p repairer) asked(i int32) bool {
	for _, n := range p.s.Ranges.Row(int(i)) {
		if n >= 0 && (p.s.Nodes[n].Removed || p.s.Nodes[n].Draining) {
			return true
		}
	}
	return false
}

func (p repairer) repair(i int32) {
	f, row := p.fleet, p.s.Ranges.Row(int(i))
	voters, up := f.alive(row)
	lost := p.first(row, roleLost)
	rule, from, why := RuleReplace, lost, ""
	switch {
	case voters > f.wanted:
		rule, from = RuleShrink, p.surplus(i)
		why = fmt.Sprintf("%d replicas, and %d are wanted", voters, f.wanted)
	case lost >= 0:
		why = fmt.Sprintf("node %v is gone, %d of %d replicas live", p.node(lost), up, voters)
	default:
		rule = RuleGrow
		why = fmt.Sprintf("%d replicas, and %d are wanted", voters, f.wanted)
	}
	op := p.op(KindMove, rule, i)
	op.From, op.Why = p.node(from), why
	if !f.quorate(row) {
		p.hold(op, "a majority of its replicas is dead: it can log nothing until one of them is back")
		return
	}
	if rule == RuleShrink {
		if !spares(f, row, from) {
			p.hold(op, "the replicas that stay would have no majority")
			return
		}
		p.moveTo(rule, i, from, None, why)
		return
	}
	to, none := p.target(i, from, anyViolations)
	if to < 0 {
		p.hold(op, none)
		return
	}
	p.moveTo(rule, i, from, to, why)
}

// first is the first node of a row with one of these roles, or None.
func (p repairer) first(row []int16, roles role) int16 {
	for _, n := range row {
		if n >= 0 && p.fleet.role[n]&roles != 0 {
			return n
		}
	}
	return None
}

// surplus is the replica that a range with too many can best do without: a lost one, one that is to go anyway, one that stands
// too near to others, and then the one on the node that carries most; the leader last.
func (p repairer) surplus(i int32) int16 {
	f, row := p.fleet, p.s.Ranges.Row(int(i))
	if n := p.first(row, roleLost); n >= 0 {
		return n
	}
	for _, n := range removedOf(p.s.Nodes, row) {
		if spares(f, row, n) {
			return n
		}
	}
	if n := p.first(row, roleLeaves); n >= 0 {
		return n
	}
	best, bestCost := int16(None), 0.0
	for _, n := range row {
		if n < 0 {
			continue
		}
		cost := float64(f.doms.after(row, n, None, f.role, roleAbsent))*1e6 - f.dev(n, metricDisk) - f.dev(n, metricReplicas)
		if p.s.Ranges.leader(int(i)) == n {
			cost += 1e3
		}
		if best < 0 || cost < bestCost {
			best, bestCost = n, cost
		}
	}
	return best
}

// drains empties nodes that are to be empty: leads first, then replicas, those of ranges with the least to spare first.
func (p repairer) drains() {
	if mutate.On(mutate.PlanDrain) {
		return
	}
	for _, n := range p.notes.drainLead.sorted() {
		if !p.free(n.at) {
			continue
		}
		from := p.s.Ranges.leader(int(n.at))
		why := fmt.Sprintf("node %v is to be empty", p.node(from))
		if to := p.successor(n.at, from); to >= 0 {
			p.transfer(RuleDrainLead, n.at, from, to, why)
			continue
		}
		op := p.op(KindTransfer, RuleDrainLead, n.at)
		op.From, op.Why = p.node(from), why
		p.hold(op, "no other replica of it may lead")
	}
	for _, n := range p.notes.drain.sorted() {
		if p.free(n.at) {
			p.drain(n.at)
		}
	}
}

func (p repairer) drain(i int32) {
	row := p.s.Ranges.Row(int(i))
	from := p.first(row, roleLeaves)
	if from < 0 {
		return
	}
	op := p.op(KindMove, RuleDrain, i)
	op.From, op.Why = p.node(from), fmt.Sprintf("node %v is to be empty", p.node(from))
	if !p.fleet.quorate(row) {
		p.hold(op, "a majority of its replicas is dead: it can log nothing until one of them is back")
		return
	}
	to, none := p.target(i, from, anyViolations)
	if to < 0 {
		p.hold(op, none)
		return
	}
	p.moveTo(RuleDrain, i, from, to, op.Why)
}

// spread takes replicas of one range apart that would fail together.
func (p repairer) spread() {
	for _, n := range p.notes.domain.sorted() {
		if p.free(n.at) {
			p.apart(n.at)
		}
	}
}

func (p repairer) apart(i int32) {
	f, row := p.fleet, p.s.Ranges.Row(int(i))
	now := f.doms.violations(row, f.role, roleAbsent)
	leader := p.s.Ranges.leader(int(i))
	from, to, least, none := int16(None), int16(None), now, ""
	look := func(n int16) {
		if n < 0 || !f.up(n) || f.busy(n) || least == 0 {
			return
		}
		t, why := p.target(i, n, least-1)
		if t < 0 {
			none = why
			return
		}
		from, to, least = n, t, f.doms.after(row, n, t, f.role, roleAbsent)
	}
	for _, n := range row {
		if n != leader {
			look(n)
		}
	}
	look(leader) // it had better stay
	op := p.op(KindMove, RuleDomain, i)
	op.Why = fmt.Sprintf("%d of its replicas would fail with another one", now)
	switch {
	case !f.quorate(row):
		p.hold(op, "a majority of its replicas is dead: it can log nothing until one of them is back")
	case from >= 0:
		p.moveTo(RuleDomain, i, from, to, op.Why)
	case none != "":
		p.hold(op, none)
	}
}

// prefer brings leads to where they are preferred.
func (p repairer) prefer() {
	for _, n := range p.notes.prefer.sorted() {
		from := p.s.Ranges.leader(int(n.at))
		if !p.free(n.at) || p.fleet.role[from] != roleServes || p.now < p.ledUntil(n.at) {
			continue
		}
		if to := p.successor(n.at, from); to >= 0 && p.fleet.preferred(to) {
			p.transfer(RulePrefer, n.at, from, to, fmt.Sprintf("leads are preferred in %s", p.l.Move.PreferredTier))
		}
	}
}
