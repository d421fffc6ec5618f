package placement

import (
	"cmp"
	"fmt"
	"slices"

	"pontoon/internal/mutate"
)

const (
	// sourcesMax is how many nodes a round takes something away from: half of them those that carry most, half any.
	sourcesMax = 48
	// fitsMax is how many of the ranges that fit best, and drawsMax how many of any, are looked at per node.
	fitsMax, drawsMax = 6, 10
	// targetsMax is how many nodes are looked at per metric in the whole cluster, targetsNear in the failure domain of who gives.
	targetsMax, targetsNear = 8, 6
	// What moves must be that much of the node's mean range, or that much of all that it carries: many small moves would bring as little
	// as one.
	partMin, shareMin = 0.25, 0.002
	// moveCost is what of a move's gain counts beside a transfer's, which copies nothing.
	moveCost = 0.7
	// keepMin is what must be left of the gain in one respect after what is lost in others.
	keepMin = 0.25
	// gainMin is what an op must save at least.
	gainMin = 1e-8
	// networkMax is the share of its rate for moves from which a node gets none for balance.
	networkMax = 0.9
)

// balancer takes from nodes that carry too much and gives to those that carry little.
type balancer struct {
	*planner
	hasty  bool      // only leads are handed over, by nodes that have no processor time left
	level  []load    // per failure domain of the last tier: the mean of what its nodes carry, beside the cluster's
	low    []load    // per failure domain: the least that a node that may take something carries
	lowAll load      // the same of the cluster
	orders [][]int16 // per metric: nodes that may take something, the idlest first
	slot   []int16   // per node: its place in sets, or None
	sets   []candidates
}

// candidates are ranges that a node could give away.
type candidates struct {
	node   int16
	excess float64
	hash   uint64
	seen   int // ranges of it that are free, and not in their cooldown
	moving int // of these, those of which more than the lead may go elsewhere
	leads  shortlist
	bytes  shortlist
	small  shortlist
	any    shortlist
	led    shortlist
}

// shortlist keeps the ranges with the highest scores.
type shortlist struct {
	n     int
	score [drawsMax]float64
	at    [drawsMax]int32
}

func (s *shortlist) add(score float64, at int32, most int) {
	if s.n == most {
		if score <= s.score[s.n-1] {
			return
		}
		s.n--
	}
	k := s.n
	for ; k > 0 && s.score[k-1] < score; k-- {
		s.score[k], s.at[k] = s.score[k-1], s.at[k-1]
	}
	s.score[k], s.at[k] = score, at
	s.n++
}

func (s *shortlist) ranges() []int32 { return s.at[:s.n] }

func newBalancer(p *planner) *balancer { return &balancer{planner: p} }

// hurry lets nodes that have no processor time left hand leads over, and no more: that takes milliseconds, and whatever
// else would relieve them makes them work first.
func (b *balancer) hurry() {
	b.hasty = true
	b.run()
}

// run plans until a sweep over the nodes that carry too much finds nothing more.
func (b *balancer) run() {
	if mutate.On(mutate.PlanAlone) {
		return
	}
	b.levels()
	if !b.choose() {
		return
	}
	b.gather()
	first := true
	for again := true; again && b.fleet.all < b.l.Pace.Ops; first = false {
		again = false
		b.order()
		for k := range b.sets {
			switch done := b.relieve(&b.sets[k]); {
			case done:
				again = true
			case first && !b.hasty:
				b.stuck(&b.sets[k])
			}
		}
	}
}

// levels works out what the nodes of each failure domain carry, and the least in each.
func (b *balancer) levels() {
	f := b.fleet
	b.level, b.low = make([]load, f.doms.sizes), make([]load, f.doms.sizes)
	count := make([]float64, f.doms.sizes)
	const much = 1e18
	b.lowAll = load{much, much, much, much}
	for d := range b.low {
		b.low[d] = b.lowAll
	}
	for n := range f.role {
		if !f.hosts(n) {
			continue
		}
		d := f.doms.leaf(int16(n))
		count[d]++
		for m := range metrics {
			v := f.dev(int16(n), m)
			b.level[d][m] += v
			if f.role[n] == roleServes && !f.busy(int16(n)) && (m == metricLeaders || m == metricCPU || f.takes(int16(n), 0, f.l.Move.DiskFullEnd)) {
				b.low[d][m], b.lowAll[m] = min(b.low[d][m], v), min(b.lowAll[m], v)
			}
		}
	}
	for d := range b.level {
		for m := range metrics {
			b.level[d][m] /= max(count[d], 1)
		}
	}
}

// excess is how far a node is above what it should carry of metric m, if something is to be done about it: it is out of tolerance, or
// somebody else is below.
func (b *balancer) excess(n int16, m int) float64 {
	f, tol := b.fleet, b.tolerance()
	if f.weight[m] < triggerWeight {
		return 0
	}
	d := f.doms.leaf(n)
	v := f.dev(n, m)
	over := 0.0
	if v > 1+tol || v > 1 && b.lowAll[m] < 1-tol {
		over = v - 1
	}
	if at := b.level[d][m]; v > at*(1+tol) || v > at && b.low[d][m] < at*(1-tol) {
		over = max(over, v-at)
	}
	return over
}

// tolerance is the share of the mean that a node may be away from it.
func (b *balancer) tolerance() float64 {
	if mutate.On(mutate.PlanTolerance) {
		return 0
	}
	return b.l.Move.Tolerance
}

// wants is the greatest excess of a node, and the metric.
func (b *balancer) wants(n int16) (float64, int) {
	if b.fleet.deficit(n, b.fleet.free[n]) > 0 {
		return 1 + b.fleet.deficit(n, b.fleet.free[n]), metricDisk
	}
	most, of := 0.0, 0
	for m := range metrics {
		if e := b.excess(n, m); e > most {
			most, of = e, m
		}
	}
	return most, of
}

// choose picks the nodes that are to give something away.
func (b *balancer) choose() bool {
	f := b.fleet
	for n := range f.role {
		if f.role[n] != roleServes || f.busy(int16(n)) || f.loads[n][metricReplicas] < 1 {
			continue
		}
		if b.hasty && (!f.time.none(int16(n)) || b.excess(int16(n), metricCPU) <= 0) {
			continue
		}
		if e, _ := b.wants(int16(n)); e > 0 {
			b.sets = append(b.sets, candidates{node: int16(n), excess: e, hash: mix(b.s.Round, int32(n))})
		}
	}
	most := func(x, y candidates) int { return cmp.Or(cmp.Compare(y.excess, x.excess), cmp.Compare(x.node, y.node)) }
	slices.SortFunc(b.sets, most)
	if len(b.sets) > sourcesMax {
		rest := b.sets[sourcesMax/2:]
		slices.SortFunc(rest, func(x, y candidates) int { return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.node, y.node)) })
		b.sets = b.sets[:sourcesMax]
	}
	b.slot = make([]int16, len(f.role))
	for n := range b.slot {
		b.slot[n] = None
	}
	for k := range b.sets {
		b.slot[b.sets[k].node] = int16(k)
	}
	return len(b.sets) > 0
}

// gather is the second pass: ranges of the nodes that give.
func (b *balancer) gather() {
	r := &b.s.Ranges
	busy := b.running()
	fits := make([]load, len(b.sets)) // the most that may move: half of what the node is above the idlest
	for k := range b.sets {
		n := b.sets[k].node
		for m := range metrics {
			fits[k][m] = (b.fleet.dev(n, m) - min(b.lowAll[m], 1)) / 2 * b.fleet.mean[m] * b.fleet.size[n][m]
		}
		if b.fleet.deficit(n, b.fleet.free[n]) > 0 {
			fits[k][metricDisk] = 1e18
		}
	}
	for i := range r.IDs {
		if int32(i) == busy[0] {
			busy = busy[1:]
			continue
		}
		lead := int(r.Leaders[i])
		for k, n := range r.Replicas[i*r.Width : (i+1)*r.Width] {
			if n < 0 {
				break
			}
			if b.slot[n] >= 0 {
				b.consider(int32(i), &b.sets[b.slot[n]], &fits[b.slot[n]], k == lead)
			}
		}
	}
}

func (b *balancer) consider(i int32, c *candidates, fit *load, leads bool) {
	moves, hands := b.now >= b.movedUntil(i), leads && b.rested(i) && b.now >= b.ledUntil(i)
	if !moves && !hands {
		return
	}
	r := &b.s.Ranges
	if r.Leaders[i] < 0 { // it has changed, and nobody has told of it since: what it does, and whether it is cut next, is not known
		return
	}
	if c.seen++; moves {
		c.moving++
	}
	if cpu := float64(r.CPU[i]); leads && cpu <= fit[metricCPU] {
		c.leads.add(cpu, i, fitsMax)
	}
	draw := float64(mix(b.s.Round, i) >> 11)
	if hands {
		c.led.add(draw, i, fitsMax)
	}
	if moves {
		if size := float64(r.Bytes[i]); size <= fit[metricDisk] {
			c.bytes.add(size, i, fitsMax)
		}
		c.small.add(-float64(r.Bytes[i]), i, fitsMax)
		c.any.add(draw, i, drawsMax)
	}
}

// order sorts the nodes that may take something, by each metric.
func (b *balancer) order() {
	f := b.fleet
	b.orders = b.orders[:0]
	var may []int16
	for n := range f.role {
		if f.role[n] == roleServes && !f.busy(int16(n)) && f.s.Nodes[n].Network < networkMax {
			may = append(may, int16(n))
		}
	}
	for m := range metricLeaders { // a lead is handed to a voter, who is found in the row
		of := slices.Clone(may)
		slices.SortFunc(of, func(x, y int16) int { return cmp.Or(cmp.Compare(f.dev(x, m), f.dev(y, m)), cmp.Compare(x, y)) })
		b.orders = append(b.orders, of)
	}
}

// targets are nodes that could take something from n: the idlest by each metric, and the idlest next to it, where every range of it
// may go without standing nearer to its other replicas.
func (b *balancer) targets(n int16) []int16 {
	out := make([]int16, 0, len(b.orders)*(targetsMax+targetsNear))
	add := func(t int16) {
		if t != n && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	d := b.fleet.doms.leaf(n)
	for _, of := range b.orders {
		for _, t := range of[:min(targetsMax, len(of))] {
			add(t)
		}
		near := 0
		for _, t := range of {
			if near == targetsNear {
				break
			}
			if b.fleet.doms.leaf(t) == d {
				add(t)
				near++
			}
		}
	}
	return out
}

// step is one way to relieve a node.
type step struct {
	i        int32
	from, to int16
	transfer bool
	metric   int
	gain     float64
}

// relieve plans the best step for a node, and says whether there was one.
func (b *balancer) relieve(c *candidates) bool {
	n := c.node
	if b.fleet.busy(n) || b.fleet.all >= b.l.Pace.Ops {
		return false
	}
	if most, _ := b.wants(n); most <= 0 {
		return false
	}
	best := step{to: None}
	targets := b.targets(n)
	for _, list := range []*shortlist{&c.leads, &c.led, &c.bytes, &c.small, &c.any} {
		for _, i := range list.ranges() {
			if b.free(i) {
				b.try(i, n, targets, &best)
			}
		}
	}
	if best.to < 0 {
		return false
	}
	why := fmt.Sprintf("node %v has %.0f %% of the mean %s, node %v %.0f %%", b.node(n), b.fleet.dev(n, best.metric)*percent, metricNames[best.metric],
		b.node(best.to), b.fleet.dev(best.to, best.metric)*percent)
	if best.metric == metricDisk && b.fleet.deficit(n, b.fleet.free[n]) > 0 {
		why = fmt.Sprintf("node %v has %.0f MiB of its disk free", b.node(n), b.fleet.free[n]/mib)
	}
	if best.transfer {
		return b.transfer(RuleLead, best.i, n, best.to, why)
	}
	return b.moveTo(RuleBalance, best.i, n, best.to, why)
}

// try looks at everything that can be done with one range of a node.
func (b *balancer) try(i int32, n int16, targets []int16, best *step) {
	leads := b.s.Ranges.leader(int(i)) == n
	if leads && b.rested(i) && b.now >= b.ledUntil(i) && !mutate.On(mutate.PlanLeads) {
		b.tryTransfers(i, n, best)
	}
	if b.moves(i, n) {
		b.tryMoves(i, n, leads, targets, best)
	}
}

func (b *balancer) tryTransfers(i int32, n int16, best *step) {
	f := b.fleet
	w := f.handOver(i)
	for _, t := range b.s.Ranges.Row(int(i)) {
		if t < 0 || t == n || f.role[t] != roleServes || f.busy(t) || !f.preferred(t) && f.preferred(n) || b.hasty && !b.helps(n, t) {
			continue
		}
		if gain, m := b.gain(n, t, w); gain > best.gain {
			*best = step{i, n, t, true, m, gain}
		}
	}
}

// moves tells whether a replica may move away from a node for balance.
func (b *balancer) moves(i int32, n int16) bool {
	f, leader := b.fleet, b.s.Ranges.leader(int(i))
	switch {
	case b.hasty, !f.time.forCopies(n, f.ops[n]), b.now < b.movedUntil(i):
		return false
	case leader >= 0 && !f.time.forCopies(leader, f.ops[leader]), leader >= 0 && leader != n && f.busy(leader):
		return false // it is the leader who sends
	}
	return f.quorate(b.s.Ranges.Row(int(i))) && !(merger{b.planner}).inPair(i)
}

func (b *balancer) tryMoves(i int32, n int16, leads bool, targets []int16, best *step) {
	f, row := b.fleet, b.s.Ranges.Row(int(i))
	w := f.work(i, leads)
	violations := f.doms.violations(row, f.role, roleAbsent)
	for _, t := range targets {
		if f.busy(t) || in(row, t) || leads && !f.preferred(t) && f.preferred(n) || !f.takes(t, w[metricDisk], f.l.Move.DiskFullEnd) {
			continue
		}
		gain, m := b.gain(n, t, w)
		gain *= b.suits(t, w)
		if gain*moveCost <= best.gain || f.doms.after(row, n, t, f.role, roleAbsent) > violations {
			continue
		}
		*best = step{i, n, t, false, m, gain * moveCost}
	}
}

// restSeconds is for how long a range that stood for a cut, on a node without processor time left, is let serve what has waited before it stands again for a change of its leader.
const restSeconds Seconds = 5

func (b *balancer) rested(i int32) bool {
	leader := b.s.Ranges.leader(int(i))
	return leader < 0 || !b.fleet.time.none(leader) || b.now >= after(b.s.Ranges.At.Cut[i], restSeconds)
}

// helps tells whether a node has time for what another one has none left for. Both keep half of what they may take part in for what else is due.
func (b *balancer) helps(n, t int16) bool {
	f := b.fleet
	return 2*max(f.ops[n], f.ops[t]) < b.l.Pace.OpsPerNode && f.s.Nodes[n].CPU-f.s.Nodes[t].CPU >= b.l.Split.NodeLead
}

// suits is how well a range fills what a node lacks: 1 if it brings replicas and bytes in the proportion in which both are missing. Who is filled
// with the largest ranges first has all bytes and half of the replicas, and exchanges them for smaller ones for hours.
func (b *balancer) suits(to int16, w load) float64 {
	f := b.fleet
	replicas, bytes := 1-f.dev(to, metricReplicas), 1-f.dev(to, metricDisk)
	if tol := b.l.Move.Tolerance; replicas < tol || bytes < tol || f.weight[metricDisk] < triggerWeight || w[metricDisk] <= 0 {
		return 1
	}
	ratio := f.share(to, metricDisk, w[metricDisk]) / f.share(to, metricReplicas, 1) * replicas / bytes
	return min(ratio, 1/ratio)
}

// gain is how much less imbalance there is once a load has moved, and the metric that wanted it; 0 if it must not.
func (b *balancer) gain(from, to int16, w load) (float64, int) {
	f := b.fleet
	total := f.saves(from, to, w)
	if total <= gainMin {
		return 0, 0
	}
	if f.deficit(from, f.free[from]) > 0 && w[metricDisk] > 0 {
		return total, metricDisk
	}
	for m := range metrics {
		if own := b.ownGain(from, to, w, m); own > 0 && total >= keepMin*own {
			return total, m
		}
	}
	return 0, 0
}

// ownGain is what metric m alone gains: 0 unless one of the two is out of tolerance, the other one on the other side of the mean, the
// order of both stays, and what moves is worth it.
func (b *balancer) ownGain(from, to int16, w load, m int) float64 {
	f, tol := b.fleet, b.tolerance()
	if f.weight[m] < triggerWeight || w[m] <= 0 {
		return 0
	}
	mean := 1.0
	if d := f.doms.leaf(from); d == f.doms.leaf(to) {
		mean = b.level[d][m]
	}
	x, y := f.dev(from, m), f.dev(to, m)
	if !(x > mean*(1+tol) && y < mean || y < mean*(1-tol) && x > mean) {
		return 0
	}
	v, u := f.share(from, m, w[m]), f.share(to, m, w[m])
	if x-y < v+u {
		return 0
	}
	held := f.loads[from][metricReplicas]
	if m == metricCPU && w[metricLeaders] > 0 {
		held = f.loads[from][metricLeaders]
	}
	if w[m] < min(partMin/max(held, 1), shareMin)*f.loads[from][m] {
		return 0
	}
	return f.weight[m] * (x*x - (x-v)*(x-v) + y*y - (y+u)*(y+u) - 2*mean*(v-u))
}

// stuck reports a node that carries too much, by more than two of its ranges bring, and that nothing can be taken from.
func (b *balancer) stuck(c *candidates) {
	most, m := b.wants(c.node)
	held := b.fleet.loads[c.node][metricReplicas]
	if m == metricCPU || m == metricLeaders {
		held = b.fleet.loads[c.node][metricLeaders]
	}
	if most <= max(b.l.Move.Tolerance, 2*b.fleet.dev(c.node, m)/max(held, 1)) || b.fleet.busy(c.node) || b.fleet.full() != "" {
		return
	}
	op := Op{Kind: KindMove, Rule: RuleBalance, From: b.node(c.node)}
	op.Why = fmt.Sprintf("node %v has %.0f %% of the mean %s", op.From, b.fleet.dev(c.node, m)*percent, metricNames[m])
	if c.seen == 0 || c.moving == 0 && (m == metricReplicas || m == metricDisk) {
		b.hold(op, "everything that it holds takes part in an op or was moved a moment ago")
		return
	}
	b.hold(op, "of its ranges that were looked at, none would bring it and another node nearer to the mean")
}
