package placement

import (
	"fmt"
	"math"
	"strings"

	"pontoon/internal/mutate"
)

// role is what a node is to the plan, as bits: a set of roles is a mask.
type role uint8

const (
	roleServes role = 0         // takes replicas and leads
	roleWaits  role = 1 << iota // silent, and not for long enough: keeps what it has
	roleLeaves                  // lives, and is to be empty
	roleLost                    // its replicas are gone
	roleBarred                  // a member that may hold nothing yet

	roleAbsent = roleLeaves | roleLost // what it holds counts as missing
)

// The metrics that are balanced.
const (
	metricReplicas = iota
	metricDisk
	metricCPU
	metricLeaders
	metrics
)

var metricNames = [metrics]string{"replicas", "bytes", "CPU", "leaders"}

// load is what a node carries: replicas, bytes, ns a second, leads.
type load [metrics]float64

// triggerWeight is how much a metric must count before it moves anything: below it lies noise.
const triggerWeight = 0.2

// fullCost is what a disk without any free byte costs, beside squared deviations from the mean.
const fullCost = 100

// fleet is the nodes of a round: what each carries with all ops under way counted as done, and what it may
// still take part in.
type fleet struct {
	s      *Snapshot
	l      *Limits
	role   []role
	loads  []load
	size   []load    // what each could carry, beside the others
	free   []float64 // bytes, with ops counted as done
	ops    []int     // that each takes part in
	byes   []int     // by which leads leave nodes that are to be empty: counted apart
	all    int       // ops of the cluster
	time   processors
	wanted int  // replicas of a range
	mean   load // of load by size
	weight load
	doms   domains
}

func newFleet(s *Snapshot, l *Limits, now Seconds) *fleet {
	n := len(s.Nodes)
	f := &fleet{s: s, l: l, role: make([]role, n), loads: make([]load, n), size: make([]load, n), free: make([]float64, n), ops: make([]int, n), byes: make([]int, n), time: processors{s, l, make([]bool, n)}}
	members := 0
	for i := range s.Nodes {
		node := &s.Nodes[i]
		f.role[i] = roleOf(node, l, now)
		f.free[i] = node.DiskFree
		f.size[i] = load{1, max(node.DiskUsed+node.DiskFree, 1), float64(node.processors()), 1}
		if !node.Removed && !node.Learner {
			members++
		}
	}
	f.wanted = min(max(s.ReplicationFactor, 1), max(members, 1), max(s.Ranges.Width, 1))
	f.doms = domainsOf(s.Nodes, f.hosts, f.wanted)
	return f
}

func roleOf(n *Node, l *Limits, now Seconds) role {
	leaves := n.Draining || n.Removed
	switch {
	case n.Liveness == Dead && (leaves || now-n.Since >= l.Pace.DeadAfter):
		return roleLost
	case n.Liveness != Up:
		return roleWaits
	case leaves:
		return roleLeaves
	case n.Learner:
		return roleBarred
	}
	return roleServes
}

// hosts tells whether node i counts as a place where replicas are.
func (f *fleet) hosts(i int) bool { return f.role[i]&(roleAbsent|roleBarred) == 0 }

// up tells whether a node answers.
func (f *fleet) up(n int16) bool { return f.s.Nodes[n].Liveness == Up }

// alive counts the replicas of a row, and those on nodes that answer.
func (f *fleet) alive(row []int16) (voters, up int) {
	for _, n := range row {
		if n >= 0 {
			voters++
			if f.up(n) {
				up++
			}
		}
	}
	return voters, up
}

// quorate tells whether a range can log anything.
func (f *fleet) quorate(row []int16) bool {
	voters, up := f.alive(row)
	return up > voters/2 || mutate.On(mutate.PlanQuorum)
}

// spares tells whether most of the replicas of a row that stay answer once one has gone.
func spares(f *fleet, row []int16, n int16) bool {
	voters, up := f.alive(row)
	if f.up(n) {
		up--
	}
	return up > (voters-1)/2
}

// settle works out means and weights from the loads.
func (f *fleet) settle() {
	var sum, size load
	hosts := 0.0
	for i := range f.loads {
		for m := range metrics {
			sum[m] += f.loads[i][m] // what lies on nodes that go has to go to the others
		}
		if f.hosts(i) {
			hosts++
			for m := range metrics {
				size[m] += f.size[i][m]
			}
		}
	}
	hosts = max(hosts, 1)
	for m := range metrics {
		f.mean[m] = sum[m] / max(size[m], 1)
	}
	f.weight = load{
		1,
		min(1, sum[metricDisk]/hosts/max(f.l.Move.DiskNoise, 1)),
		min(1, sum[metricCPU]/hosts/1e9/max(f.l.Move.CPUNoise, 1e-9)),
		0.25,
	}
}

// dev is how much of metric m a node carries beside the mean: 1 is the mean.
func (f *fleet) dev(n int16, m int) float64 { return f.share(n, m, f.loads[n][m]) }

// share is what an amount of metric m is to a node, beside the mean.
func (f *fleet) share(n int16, m int, amount float64) float64 {
	if f.mean[m] <= 0 {
		return 0
	}
	return amount / f.size[n][m] / f.mean[m]
}

// pressure orders nodes by what they carry of everything that a replica brings.
func (f *fleet) pressure(n int16) float64 {
	sum := 0.0
	for m := range metricLeaders {
		sum += f.weight[m] * f.dev(n, m)
	}
	return sum
}

// cost is what a node adds to the imbalance, carrying that with so much disk free.
func (f *fleet) cost(n int16, with *load, free float64) float64 {
	c := 0.0
	for m := range metrics {
		if f.mean[m] > 0 {
			d := f.share(n, m, with[m]) - 1
			c += f.weight[m] * d * d
		}
	}
	d := f.deficit(n, free)
	return c + fullCost*d*d
}

// saves is how much less two nodes cost once a load has moved from one to the other.
func (f *fleet) saves(from, to int16, w load) float64 {
	left, got := f.loads[from], f.loads[to]
	left.sub(w)
	got.add(w)
	return f.cost(from, &f.loads[from], f.free[from]) + f.cost(to, &f.loads[to], f.free[to]) -
		f.cost(from, &left, f.free[from]+w[metricDisk]) - f.cost(to, &got, f.free[to]-w[metricDisk])
}

// deficit is how far a disk is below what must stay free: 0 is not at all, 1 has no byte left.
func (f *fleet) deficit(n int16, free float64) float64 {
	floor := f.l.Move.DiskFull * f.size[n][metricDisk]
	if floor <= 0 || f.s.Nodes[n].DiskUsed+f.s.Nodes[n].DiskFree <= 0 {
		return 0
	}
	return min(1, max(0, (floor-free)/floor))
}

// takes tells whether so many more bytes leave share of a node's disk free. A node that has not told its disk's
// size takes everything.
func (f *fleet) takes(n int16, more, share float64) bool {
	if f.s.Nodes[n].DiskUsed+f.s.Nodes[n].DiskFree <= 0 {
		return true
	}
	return f.free[n]-more >= share*f.size[n][metricDisk] || mutate.On(mutate.PlanDisk)
}

// preferred tells whether leads belong on a node.
func (f *fleet) preferred(n int16) bool {
	tier := f.l.Move.PreferredTier
	if tier == "" {
		return true
	}
	for part := range strings.SplitSeq(f.s.Nodes[n].Locality, ",") {
		if part == tier {
			return true
		}
	}
	return false
}

// work is what a replica of range i costs its node, leading or not.
func (f *fleet) work(i int32, leads bool) load {
	cpu := float64(f.s.Ranges.CPU[i])
	if leads {
		return load{1, float64(f.s.Ranges.Bytes[i]), cpu, 1}
	}
	return load{1, float64(f.s.Ranges.Bytes[i]), cpu * f.l.Move.FollowerCPU, 0}
}

// handOver is what a lead costs beside following.
func (f *fleet) handOver(i int32) load {
	return load{0, 0, float64(f.s.Ranges.CPU[i]) * (1 - f.l.Move.FollowerCPU), 1}
}

func (l *load) add(o load) {
	for m := range metrics {
		l[m] += o[m]
	}
}

func (l *load) sub(o load) {
	for m := range metrics {
		l[m] -= o[m]
	}
}

// shift moves a load; None is nowhere.
func (f *fleet) shift(from, to int16, w load) {
	if from >= 0 {
		f.loads[from].sub(w)
		f.free[from] += w[metricDisk]
	}
	if to >= 0 {
		f.loads[to].add(w)
		f.free[to] -= w[metricDisk]
	}
}

// party is the nodes that an op keeps busy.
type party struct {
	n  int
	at [2*rowMax + 2]int16
}

func (p *party) add(nodes ...int16) {
next:
	for _, n := range nodes {
		if n < 0 {
			continue
		}
		for _, m := range p.at[:p.n] {
			if m == n {
				continue next
			}
		}
		p.at[p.n] = n
		p.n++
	}
}

// partyOf says who takes part in an op: in a move who gives, who gets and who leads, in a cut all replicas.
func partyOf(r *Ranges, kind Kind, i int32, from, to int16) party {
	var p party
	switch kind {
	case KindMove:
		p.add(from, to, r.leader(int(i)))
	case KindTransfer:
		p.add(from, to)
	case KindSplit, KindMerge:
		p.add(r.Row(int(i))...)
	}
	return p
}

// room says what keeps a party from another op of a rule, in words; "" is nothing.
func (f *fleet) room(p *party, rule Rule) string {
	if why := f.full(); why != "" {
		return why
	}
	for _, n := range p.at[:p.n] {
		switch {
		case rule == RuleDrainLead && f.byes[n] >= f.l.Pace.Farewells && !mutate.On(mutate.PlanPace):
			return fmt.Sprintf("node %v takes part in %d transfers", f.s.Nodes[n].ID, f.byes[n])
		case rule == RuleDrain && f.byes[n] >= f.l.Pace.OpsPerNode: // leads first
			return fmt.Sprintf("node %v takes part in %d transfers", f.s.Nodes[n].ID, f.byes[n])
		case rule != RuleDrainLead && f.busy(n):
			return fmt.Sprintf("node %v takes part in %d ops", f.s.Nodes[n].ID, f.ops[n])
		}
	}
	return ""
}

// full says so where the cluster has as many ops as it may.
func (f *fleet) full() string {
	if f.all >= f.l.Pace.Ops && !mutate.On(mutate.PlanPaceAll) {
		return fmt.Sprintf("the cluster has %d ops under way", f.all)
	}
	return ""
}

// busy tells whether a node takes part in as many ops as it may. What is gone does no work.
func (f *fleet) busy(n int16) bool {
	return f.role[n] != roleLost && f.ops[n] >= f.l.Pace.OpsPerNode && !mutate.On(mutate.PlanPace)
}

func (f *fleet) engage(p *party, rule Rule) {
	f.all++
	of := f.ops
	if rule == RuleDrainLead {
		of = f.byes
	}
	for _, n := range p.at[:p.n] {
		of[n]++
	}
}

// count enters the ops that are under way, as if they were done.
func (f *fleet) count(running []Running) {
	r := &f.s.Ranges
	for _, op := range running {
		p := partyOf(r, op.Kind, op.Range, op.From, op.To)
		f.engage(&p, op.Rule)
		if mutate.On(mutate.PlanUnderWay) {
			continue
		}
		switch op.Kind {
		case KindMove:
			leads := op.From >= 0 && r.leader(int(op.Range)) == op.From
			f.move(op.Range, op.From, op.To, op.Leader, leads)
		case KindTransfer:
			if r.leader(int(op.Range)) == op.From {
				f.shift(op.From, op.To, f.handOver(op.Range))
			}
		case KindSplit:
			f.add(op.Range, 1)
		case KindMerge:
			f.shift(r.leader(int(op.Right)), r.leader(int(op.Range)), f.handOver(op.Right))
			f.add(op.Range, -1)
		}
	}
}

// add enters that there is one range more, or one less, where range i is: bytes and loads stay what they are together.
func (f *fleet) add(i int32, n float64) {
	r := &f.s.Ranges
	for _, m := range r.Row(int(i)) {
		if m >= 0 {
			f.loads[m][metricReplicas] += n
		}
	}
	if l := r.leader(int(i)); l >= 0 {
		f.loads[l][metricLeaders] += n
	}
}

// move enters that a replica has gone from one node to another, and the lead with it to leader.
func (f *fleet) move(i int32, from, to, leader int16, leads bool) {
	f.shift(from, None, f.work(i, leads))
	f.shift(None, to, f.work(i, leads && leader == to))
	if leads && leader >= 0 && leader != to {
		f.shift(None, leader, f.handOver(i))
	}
}

// imbalance is the sum of what all nodes cost.
func (f *fleet) imbalance() float64 {
	sum := 0.0
	for n := range f.loads {
		if f.hosts(n) {
			sum += f.cost(int16(n), &f.loads[n], f.free[n])
		}
	}
	return math.Max(sum, 0)
}
