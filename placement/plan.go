package placement

import (
	"fmt"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Plan returns what is due, in the order in which it should begin, and behind that what would be due but may
// not begin now: Op.Due tells which. now is on the clock of the snapshot. Ops that cannot be carried out at the same
// time are never in one plan: it may begin as a whole. Nothing is kept, and the ops are the caller's but for their keys.
func Plan(s *Snapshot, l Limits, now Seconds) []Op {
	p := newPlanner(s, &l, now)
	repair, split := repairer{p}, splitter{p}
	repair.giveUps()
	p.scan()
	repair.repairs()
	split.hand()
	repair.drains()
	if l.Mode != ModeOff {
		repair.spread()
	}
	if l.Mode == ModeOn {
		split.sizes()
		newBalancer(p).hurry()
		split.hot()
		merger{p}.merges()
		repair.prefer()
		newBalancer(p).run()
	}
	return append(p.out, p.held...)
}

// planner is one round.
type planner struct {
	s         *Snapshot
	l         *Limits
	now       Seconds
	fleet     *fleet
	taken     map[int32]struct{} // ranges that take part in an op, of this round too
	notes     notes
	count     int     // ranges there will be
	usedShare float32 // what each node would use of its processors, if all did as much, in ns a second
	out       []Op
	held      []Op // may not begin
}

// notes are the ranges that some rule may have something to do for.
type notes struct {
	repair, drainLead, drain, domain, size, merge, prefer top
}

func newPlanner(s *Snapshot, l *Limits, now Seconds) *planner {
	p := &planner{s: s, l: l, now: now, fleet: newFleet(s, l, now), taken: make(map[int32]struct{}, len(s.Running)), count: s.Ranges.Len()}
	p.usedShare = usedShare(s, p.fleet)
	for _, op := range s.Running {
		p.taken[op.Range] = struct{}{}
		switch op.Kind {
		case KindMerge:
			p.taken[op.Right] = struct{}{}
			p.count--
		case KindSplit:
			p.count++
		}
	}
	return p
}

// running returns the positions of the ranges that take part in an op, in order.
func (p *planner) running() []int32 {
	out := make([]int32, 0, len(p.taken)+1)
	for i := range p.taken {
		out = append(out, i)
	}
	slices.Sort(out)
	return append(out, int32(p.s.Ranges.Len()))
}

// scan is the pass over all ranges: sums per node, and what the rules look at.
func (p *planner) scan() {
	r, f := &p.s.Ranges, p.fleet
	follower := f.l.Move.FollowerCPU
	busy := p.running()
	prefers := p.l.Move.PreferredTier != ""
	join := merger{p}
	merges := join.mergesAtAll()
	run := 0 // how many pairs in front of this one could be one range, without a gap
	for i := range r.IDs {
		row := r.Replicas[i*r.Width : (i+1)*r.Width]
		bytes, cpu, lead := float64(r.Bytes[i]), float64(r.CPU[i]), int(r.Leaders[i])
		voters, roles := 0, roleServes
		untold := r.Untold(i, p.now)
		for k, n := range row {
			if n < 0 {
				break
			}
			at := &f.loads[n]
			at[metricReplicas]++
			at[metricDisk] += bytes
			if k == lead {
				at[metricCPU] += cpu
				at[metricLeaders]++
			} else {
				at[metricCPU] += cpu * follower
			}
			roles |= f.role[n]
			voters++
			if untold {
				f.time.news[n] = true
			}
		}
		if run++; !merges || i == 0 || r.Bytes[i]+r.Bytes[i-1] >= p.l.Merge.Bytes || !join.mergeable(int32(i-1)) {
			run = 0
		}
		if int32(i) == busy[0] {
			busy = busy[1:]
			continue
		}
		if run%2 == 1 {
			p.notes.merge.add(mix(p.s.Round, int32(i)), int32(i-1))
		}
		if roles&roleAbsent != 0 || voters != f.wanted {
			p.noteAbsent(i, row, voters, roles)
		} else if !f.doms.clear(row) && f.doms.violations(row, f.role, roleAbsent) > 0 {
			p.notes.domain.add(mix(p.s.Round, int32(i)), int32(i))
		}
		if r.Bytes[i] >= p.l.Split.Bytes {
			p.notes.size.add(^uint64(r.Bytes[i]), int32(i))
		}
		if prefers && lead >= 0 && !f.preferred(row[lead]) {
			p.notes.prefer.add(mix(p.s.Round, int32(i)), int32(i))
		}
	}
	f.count(p.s.Running)
	f.settle()
}

// noteAbsent notes a range that has not the replicas that it should have. Those with the least to spare come first, then
// the smallest: so most ranges are safe soonest.
func (p *planner) noteAbsent(i int, row []int16, voters int, roles role) {
	_, up := p.fleet.alive(row)
	spare := max(up-(voters/2+1), 0)
	if roles&roleLost == 0 && voters == p.fleet.wanted {
		spare++ // a node that is to be empty still works
	}
	key := uint64(spare)<<56 | min(uint64(p.s.Ranges.Bytes[i]), 1<<40-1)<<16 | mix(p.s.Round, int32(i))&0xffff
	leader := p.s.Ranges.leader(i)
	switch {
	case roles&roleLost != 0 || voters != p.fleet.wanted:
		p.notes.repair.add(key, int32(i))
	case leader >= 0 && p.fleet.role[leader] == roleLeaves && voters > 1:
		p.notes.drainLead.add(key, int32(i))
	default:
		p.notes.drain.add(key, int32(i))
	}
}

// free tells whether a range may take part in an op.
func (p *planner) free(i int32) bool {
	_, taken := p.taken[i]
	return !taken || mutate.On(mutate.PlanOneOp)
}

// node is the id of a node by its position; 0 for None.
func (p *planner) node(n int16) shard.NodeID {
	if n < 0 {
		return 0
	}
	return p.s.Nodes[n].ID
}

// op begins the description of an op on range i.
func (p *planner) op(kind Kind, rule Rule, i int32) Op {
	return Op{Kind: kind, Rule: rule, Range: p.s.Ranges.IDs[i], Generation: p.s.Ranges.Generations[i]}
}

// hold reports an op that may not begin.
func (p *planner) hold(op Op, why string) {
	if len(p.held) < p.l.Pace.BlockedMax {
		op.Blocked = why
		p.held = append(p.held, op)
	}
}

// begin puts an op into the plan if there is room for it, and says whether it did.
func (p *planner) begin(op Op, i int32, from, to int16) bool {
	if until := p.s.vain(i, op.Kind); p.now < until && !mutate.On(mutate.PlanVain) {
		p.hold(op, fmt.Sprintf("it was tried in vain: again in %d s", until-p.now))
		return false
	}
	party := partyOf(&p.s.Ranges, op.Kind, i, from, to)
	if why := p.fleet.room(&party, op.Rule); why != "" {
		p.hold(op, why)
		return false
	}
	p.fleet.engage(&party, op.Rule)
	p.taken[i] = struct{}{}
	p.out = append(p.out, op)
	return true
}

// moveTo plans that a replica moves, and the lead with it if it is the leader's. None in either adds or takes away.
func (p *planner) moveTo(rule Rule, i int32, from, to int16, why string) bool {
	leads := from >= 0 && p.s.Ranges.leader(int(i)) == from
	leader := int16(None)
	if leads {
		if leader = to; to < 0 {
			leader = p.successor(i, from)
		}
	}
	op := p.op(KindMove, rule, i)
	op.From, op.To, op.Leader, op.Why = p.node(from), p.node(to), p.node(leader), why
	if !p.begin(op, i, from, to) {
		return false
	}
	p.fleet.move(i, from, to, leader, leads)
	return true
}

// transfer plans that a lead is handed over.
func (p *planner) transfer(rule Rule, i int32, from, to int16, why string) bool {
	op := p.op(KindTransfer, rule, i)
	op.From, op.To, op.Why = p.node(from), p.node(to), why
	if !p.begin(op, i, from, to) {
		return false
	}
	p.fleet.shift(from, to, p.fleet.handOver(i))
	return true
}

// successor is the voter that had best lead instead of from, or None: one where leads are preferred, with the least work.
func (p *planner) successor(i int32, from int16) int16 {
	best := int16(None)
	for _, n := range p.s.Ranges.Row(int(i)) {
		if n < 0 || n == from || p.fleet.role[n] != roleServes {
			continue
		}
		if best < 0 || p.fleet.preferred(n) && !p.fleet.preferred(best) ||
			p.fleet.preferred(n) == p.fleet.preferred(best) && p.leadCost(n) < p.leadCost(best) {
			best = n
		}
	}
	return best
}

// leadCost orders nodes by how much they already have to do for what they lead.
func (p *planner) leadCost(n int16) float64 {
	return p.fleet.weight[metricCPU]*p.fleet.dev(n, metricCPU) + p.fleet.weight[metricLeaders]*p.fleet.dev(n, metricLeaders)
}

// target is the node that had best get a replica of range i for the one on from: with the fewest replicas in its failure
// domain, at most so many as limit says, then with the least to carry. Where there is none, why says so.
func (p *planner) target(i int32, from int16, limit int) (to int16, why string) {
	f, row := p.fleet, p.s.Ranges.Row(int(i))
	if why := f.full(); why != "" {
		return None, why
	}
	to = None
	bestViolations, bestCost := 0, 0.0
	var full, busy, near int
	w := f.work(i, false)
	for n := range f.role {
		t := int16(n)
		if f.role[n] != roleServes || slices.Contains(row, t) {
			continue
		}
		if !f.takes(t, w[metricDisk], f.l.Move.DiskFull) {
			full++
			continue
		}
		v := f.doms.after(row, from, t, f.role, roleAbsent)
		if v > limit {
			near++
			continue
		}
		if f.busy(t) {
			busy++
			continue
		}
		cost := f.pressure(t)
		if to < 0 || v < bestViolations || v == bestViolations && cost < bestCost {
			to, bestViolations, bestCost = t, v, cost
		}
	}
	if to >= 0 {
		return to, ""
	}
	switch {
	case busy > 0:
		return None, fmt.Sprintf("every node that could take it takes part in %d ops", f.l.Pace.OpsPerNode)
	case full > 0:
		return None, fmt.Sprintf("no node could take it and keep %.0f %% of its disk free", f.l.Move.DiskFull*100)
	case near > 0:
		return None, "no node that could take it stands in another failure domain"
	}
	return None, "no node that serves is without a replica of it"
}

// ledUntil is when the cooldown of a lead is over, movedUntil that of a move.
func (p *planner) ledUntil(i int32) Seconds {
	if mutate.On(mutate.PlanLeadCooldown) {
		return 0
	}
	return after(p.s.Ranges.At.Led[i], p.l.Move.LeadCooldown)
}

func (p *planner) movedUntil(i int32) Seconds {
	if mutate.On(mutate.PlanCooldown) {
		return 0
	}
	cooldown := p.l.Move.Cooldown
	if p.s.Ranges.Flags[i]&MovedToAlign != 0 { // until it is merged, or nothing comes of that
		cooldown += p.l.Merge.Cooldown
	}
	return after(p.s.Ranges.At.Moved[i], cooldown)
}

// after is when so much time has passed since at; never is long ago.
func after(at, d Seconds) Seconds {
	if at == 0 {
		return 0
	}
	return at + d
}
