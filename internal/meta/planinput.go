package meta

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// replicasMax is how many replicas of a range a snapshot has room for.
const replicasMax = 8

// planInput is what a snapshot is made from: all of one moment, and nothing of it is written.
type planInput struct {
	now     placement.Seconds
	ranges  *shard.Map
	members []shard.Member
	ops     []shard.Op // under way
	handing []handOver // the same
	heard   *heard
	leads   map[shard.RangeID]led // that have changed since
	past    past
	borders []state.Border // that stay
	layout  *planLayout
	group   shard.Descriptor // the meta group
	since   uint64           // the version of the map that changed is about; 0: it says nothing
	changed []shard.RangeID
	factor  int
	first   int // ranges of the first layout, below which none are merged; 0: nobody knows, and none are
}

// limits are those of a plan in a mode.
func (in *planInput) limits(c *Placement, mode placement.Mode) placement.Limits {
	l := c.limits(mode)
	if in.first > 0 {
		l.Merge.RangesMin = in.first
	}
	return l
}

// leaves tells whether a member is to hold nothing, and leaving why.
func leaves(m shard.Member) bool { return leaving(m) != "" }

func leaving(m shard.Member) string {
	switch m.State {
	case shard.MemberDraining:
		return "draining"
	case shard.MemberLeaving:
		return "removed"
	}
	return ""
}

// plan is what is due. untold: more may be, once a part of a range that was cut a moment ago has told of itself.
func (in *planInput) plan(l placement.Limits) (ops []placement.Op, untold bool) {
	in.layout.mu.Lock()
	defer in.layout.mu.Unlock()
	s := in.snapshot(&l)
	return placement.Plan(s, l, in.now), in.untold(s)
}

// untold looks at the ranges to which something was done lately.
func (in *planInput) untold(s *placement.Snapshot) bool {
	for id := range in.past {
		if i, there := in.layout.place(id); there && s.Ranges.Untold(int(i), in.now) {
			return true
		}
	}
	return false
}

// snapshotMaker puts a snapshot together.
type snapshotMaker struct {
	*planInput
	s          *placement.Snapshot
	mergeAfter uint32 // seconds for which a load must have been watched for a merge
	moves      map[shard.RangeID]*shard.Op
}

// snapshot is what the planner is to know. It shares the columns of the layout, whose lock is held.
func (in *planInput) snapshot(l *placement.Limits) *placement.Snapshot {
	m := snapshotMaker{planInput: in, mergeAfter: uint32(max(min(l.Merge.Cooldown, loadPeaks), 0)),
		s: &placement.Snapshot{Round: uint64(in.now), ReplicationFactor: in.factor}, moves: movesOf(in.ops)}
	in.layout.follow(in, m.moves)
	m.s.Ranges = in.layout.columns
	for i, id := range in.layout.nodes {
		var member *shard.Member
		if i < len(in.members) {
			member = &in.members[i]
		}
		m.s.Nodes = append(m.s.Nodes, in.node(id, member))
	}
	for i := range m.s.Ranges.IDs {
		m.addLoad(i)
	}
	for i := range in.ops {
		m.addOp(&in.ops[i])
	}
	for _, o := range in.handing {
		m.addHandOver(o)
	}
	m.addPast()
	m.addBorders()
	return m.s
}

// node is a node as it is seen; nil: it is no member any more.
func (in *planInput) node(id shard.NodeID, member *shard.Member) placement.Node {
	n := placement.Node{ID: id, Removed: true, Liveness: placement.Suspect, Since: in.now}
	if member != nil {
		n.Learner, n.Locality, n.Draining, n.Removed, n.Left = member.Learner, member.Locality, member.State == shard.MemberDraining, member.State == shard.MemberLeaving, member.Left
	}
	if p, seen := in.heard.pulses[id]; seen {
		n.Liveness, n.Since = p.liveness, p.since
	}
	if st := in.heard.told[id]; st != nil {
		n.DiskFree, n.DiskUsed = float64(st.DiskFree), float64(st.DiskUsed)
		n.CPU, n.Cores = float32(st.CpuPermille)/1000, float32(st.CoresMilli)/1000
	}
	return n
}

// leaderOf is who leads a range, 0: nobody knows, and what it has told of the same generation; nil: nothing. In a move generations rise, and what was told
// before counts: nobody cuts it meanwhile.
func (in *planInput) leaderOf(id shard.RangeID, generation shard.Generation, moves bool) (shard.NodeID, *pb.RangeStatusResponse) {
	l := in.heard.leaders[id]
	node, st := l.node, l.status
	if now, changed := in.leads[id]; changed && now.term > l.term {
		node = now.node
	}
	if st != nil && l.generation != generation && !moves && !mutate.On(mutate.SizeOldMap) {
		return 0, nil
	}
	return node, st
}

// addLoad enters what the leader of a range has told.
func (m *snapshotMaker) addLoad(i int) {
	r := &m.s.Ranges
	id := r.IDs[i]
	node, st := m.leaderOf(id, r.Generations[i], m.moves[id] != nil)
	r.Leaders[i] = placement.None
	if at := m.layout.nodeAt(node); at >= 0 {
		r.Leaders[i] = int8(slices.Index(r.Row(i), at))
	}
	load := st.GetLoad()
	flags := placement.LoadUnknown
	if load.GetKnownS() >= loadKnownMin || mutate.On(mutate.PlannerNews) {
		flags = 0
	}
	if load.GetKnownS() < m.mergeAfter {
		flags |= placement.LoadShort
	}
	if st != nil {
		r.Bytes[i] = float32(st.SizeInUse)
		if st.Untrimmed && !mutate.On(mutate.SizeUntrimmed) {
			flags |= placement.Untrimmed
		}
	}
	r.Flags[i] = flags
	if load != nil {
		r.CPU[i], r.Peak.CPU[i], r.Peak.Writes[i] = float32(load.CpuNs), float32(load.PeakCpuNs), perSecond(load.PeakWritesMilli)
		m.addSample(int32(i), load)
	}
}

const (
	// loadKnownMin is for how many seconds a load must have been watched to be known.
	loadKnownMin = 30
	// loadPeaks is for how many seconds the highest load is remembered.
	loadPeaks = 600
)

func perSecond(milli uint64) float32 { return float32(milli) / 1000 }

// addSample adds what the leader of a busy range has seen of where its load lies.
func (m *snapshotMaker) addSample(i int32, l *pb.RangeLoad) {
	if len(l.GetPoints()) == 0 && l.GetTailPermille() == 0 || l.LowCpuNs == 0 && l.LowWritesMilli == 0 {
		return
	}
	s := placement.Sample{Range: i, CPU: float32(l.LowCpuNs), Writes: perSecond(l.LowWritesMilli), Tail: float32(l.TailPermille) / 1000}
	for _, p := range l.Points {
		s.Points = append(s.Points, placement.SamplePoint{Key: p.Key, Left: float32(p.Left) / 1000, Cross: float32(p.Cross) / 1000})
	}
	m.s.Samples = append(m.s.Samples, s)
}

// addOp adds an op that is under way.
func (m *snapshotMaker) addOp(op *shard.Op) {
	i, there := m.layout.place(op.Range)
	if !there {
		return
	}
	run := placement.Running{ID: uint64(op.ID), Range: i, Right: placement.None, From: placement.None, To: placement.None, Leader: placement.None, Rule: ruleOf(op.Reason)}
	switch op.Kind {
	case shard.OpSplit:
		run.Kind, run.Begun = placement.KindSplit, true
	case shard.OpMerge:
		right, there := m.layout.place(op.Child)
		if !there {
			return
		}
		run.Kind, run.Right, run.Begun = placement.KindMerge, right, true
	case shard.OpMove:
		run.Kind, run.From, run.To = placement.KindMove, m.layout.nodeAt(op.From.Node), m.layout.nodeAt(op.To.Node)
		run.Begun = m.s.Ranges.Generations[i] > op.Generation
		if r := &m.s.Ranges; r.Leaders[i] >= 0 && r.Row(int(i))[r.Leaders[i]] == run.From {
			run.Leader = run.To
		}
	}
	m.s.Running = append(m.s.Running, run)
}

func (m *snapshotMaker) addHandOver(o handOver) {
	if i, there := m.layout.place(o.id); there {
		to := m.layout.nodeAt(o.to)
		m.s.Running = append(m.s.Running, placement.Running{Kind: placement.KindTransfer, Range: i, Right: placement.None, From: m.layout.nodeAt(o.from), To: to, Leader: to, Rule: o.rule})
	}
}

// addPast adds what was done to ranges lately.
func (m *snapshotMaker) addPast() {
	s := m.s
	for id, d := range m.past {
		i, there := m.layout.place(id)
		if !there {
			continue
		}
		s.Ranges.At.Moved[i], s.Ranges.At.Led[i], s.Ranges.At.Cut[i] = d.moved, d.led, d.cut
		if d.aligned {
			s.Ranges.Flags[i] |= placement.MovedToAlign
		}
		if d.merged {
			s.Ranges.Flags[i] |= placement.CutByMerge
		}
		for _, v := range []struct {
			kind placement.Kind
			tries
		}{{placement.KindSplit, d.vainSplit}, {placement.KindMove, d.vainMove}, {placement.KindTransfer, d.vainLead}, {placement.KindMerge, d.vainMerge}} {
			if m.now < v.until {
				s.Vain = append(s.Vain, placement.Vain{Range: i, Kind: v.kind, Until: v.until})
			}
		}
		if d.backoff != 0 {
			s.Backoffs = append(s.Backoffs, placement.Backoff{Range: i, Until: d.backoff, For: d.backoffFor})
		}
	}
	slices.SortFunc(s.Vain, func(a, b placement.Vain) int {
		return cmp.Or(cmp.Compare(a.Range, b.Range), cmp.Compare(a.Kind, b.Kind))
	})
	slices.SortFunc(s.Backoffs, func(a, b placement.Backoff) int { return cmp.Compare(a.Range, b.Range) })
}

// addBorders adds which borders stay.
func (m *snapshotMaker) addBorders() {
	r := &m.s.Ranges
	for _, b := range m.borders {
		until := placement.Forever
		if b.Until != shard.Forever {
			until = secondsOf(min(b.Until, untilMax)) + 1
		}
		if i := r.Find(b.Key); bytes.Equal(r.Start(i), b.Key) {
			r.At.Sticky[i] = until
		}
	}
}

// untilMax is a time in milliseconds that has a place among those of a snapshot.
const untilMax = (int64(placement.Forever)/2 + sizesEpoch) * 1000

// reasonOf is the reason of an op that was planned, and ruleOf finds the rule in it again: whoever leads next has to know it. 0: somebody else's.
func reasonOf(op *placement.Op) string { return "by " + op.Rule.String() + ": " + op.Why }

func ruleOf(reason string) placement.Rule {
	name, _, _ := strings.Cut(strings.TrimPrefix(reason, "by "), ": ")
	rule, _ := placement.RuleNamed(name)
	return rule
}

// holders are the nodes that hold something, or may: the members, and where the map has replicas.
func holders(members []shard.Member, m *shard.Map) []shard.NodeID {
	seen := make(map[shard.NodeID]struct{}, len(members))
	var out []shard.NodeID
	add := func(n shard.NodeID) {
		if _, twice := seen[n]; !twice {
			seen[n] = struct{}{}
			out = append(out, n)
		}
	}
	for _, member := range members {
		add(member.ID)
	}
	for d := range m.All() {
		for _, r := range d.Replicas {
			add(r.Node)
		}
	}
	return out
}
