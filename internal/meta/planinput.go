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

// snapshotMaker puts a snapshot together.
type snapshotMaker struct {
	*planInput
	s          *placement.Snapshot
	places     map[shard.NodeID]int16
	mergeAfter uint32 // seconds for which a load must have been watched for a merge
	moves      map[shard.RangeID]*shard.Op
	on         []shard.NodeID // of the range that is being added
}

// snapshot is what the planner is to know.
func (in *planInput) snapshot(l *placement.Limits) *placement.Snapshot {
	m := snapshotMaker{planInput: in, mergeAfter: uint32(max(min(l.Merge.Cooldown, loadPeaks), 0)), s: &placement.Snapshot{Round: uint64(in.now), ReplicationFactor: in.factor},
		places: make(map[shard.NodeID]int16, len(in.members)), moves: make(map[shard.RangeID]*shard.Op)}
	for _, member := range in.members {
		m.addNode(placement.Node{ID: member.ID, Learner: member.Learner, Locality: member.Locality,
			Draining: member.State == shard.MemberDraining, Removed: member.State == shard.MemberLeaving})
	}
	for i := range in.ops {
		if in.ops[i].Kind == shard.OpMove {
			m.moves[in.ops[i].Range] = &in.ops[i]
		}
	}
	m.width()
	for d := range in.ranges.All() {
		m.addRange(d)
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

// addNode adds a node as it is seen, and returns its place.
func (m *snapshotMaker) addNode(n placement.Node) int16 {
	p, seen := m.heard.pulses[n.ID]
	n.Liveness, n.Since = placement.Suspect, m.now
	if seen {
		n.Liveness, n.Since = p.liveness, p.since
	}
	if st := m.heard.told[n.ID]; st != nil {
		n.DiskFree, n.DiskUsed = float64(st.DiskFree), float64(st.DiskUsed)
		n.CPU, n.Cores = float32(st.CpuPermille)/1000, float32(st.CoresMilli)/1000
	}
	at := int16(len(m.s.Nodes))
	m.places[n.ID] = at
	m.s.Nodes = append(m.s.Nodes, n)
	return at
}

// width is how many replicas a row has room for: those that a range has, and those that it should have.
func (m *snapshotMaker) width() {
	w := m.factor
	for d := range m.ranges.All() {
		w = max(w, len(d.Replicas))
	}
	r, n := &m.s.Ranges, m.ranges.Len()
	r.Width = min(w, replicasMax)
	r.IDs, r.Generations, r.KeyEnds = make([]shard.RangeID, 0, n), make([]shard.Generation, 0, n), make([]uint32, 0, n)
	r.Replicas, r.Leaders, r.Flags = make([]int16, 0, n*r.Width), make([]int8, 0, n), make([]placement.Flags, 0, n)
	r.Bytes, r.CPU, r.Peak.CPU, r.Peak.Writes = make([]float32, 0, n), make([]float32, 0, n), make([]float32, 0, n), make([]float32, 0, n)
	r.At = placement.History{Moved: make([]placement.Seconds, n), Led: make([]placement.Seconds, n), Cut: make([]placement.Seconds, n), Sticky: make([]placement.Seconds, n)}
}

// replicas are where a range is: its voters; during a move those that it began with, whatever the configuration is by now.
func (m *snapshotMaker) replicas(d *shard.Descriptor) []shard.NodeID {
	op, out := m.moves[d.ID], m.on[:0]
	left := op == nil || op.From.ID == 0
	for _, r := range d.Replicas {
		switch {
		case op != nil && (r.ID == op.To.ID && !mutate.On(mutate.PlannerTwice)):
		case op != nil && r.ID == op.From.ID:
			left = true
			out = append(out, r.Node)
		case op != nil || r.Role == shard.Voter:
			out = append(out, r.Node)
		}
	}
	if !left && !mutate.On(mutate.PlannerTwice) {
		out = append(out, op.From.Node)
	}
	m.on = out
	return out
}

// addRange appends a range as the map has it, with what its leader has told of the same generation. In a move generations rise, and what
// was told before counts: nobody cuts it meanwhile.
func (m *snapshotMaker) addRange(d shard.Descriptor) {
	r := &m.s.Ranges
	l := m.heard.leaders[d.ID]
	node, st := l.node, l.status
	if now, changed := m.leads[d.ID]; changed && now.term > l.term {
		node = now.node
	}
	if st != nil && st.Descriptor_.Generation != uint64(d.Generation) && m.moves[d.ID] == nil && !mutate.On(mutate.SizeOldMap) {
		st, node = nil, 0
	}
	flags, bytes := placement.LoadUnknown, float32(0)
	load := st.GetLoad()
	if load.GetKnownS() >= loadKnownMin || mutate.On(mutate.PlannerNews) {
		flags = 0
	}
	if load.GetKnownS() < m.mergeAfter {
		flags |= placement.LoadShort
	}
	if st != nil {
		bytes = float32(st.SizeInUse)
		if st.Untrimmed && !mutate.On(mutate.SizeUntrimmed) {
			flags |= placement.Untrimmed
		}
	}
	leader, from := int8(placement.None), len(r.Replicas)
	for _, n := range m.replicas(&d) {
		if len(r.Replicas)-from == r.Width {
			break
		}
		at, known := m.places[n]
		if !known { // a member that was removed; what it holds is to go
			at = m.addNode(placement.Node{ID: n, Removed: true})
		}
		if n == node {
			leader = int8(len(r.Replicas) - from)
		}
		r.Replicas = append(r.Replicas, at)
	}
	for len(r.Replicas)-from < r.Width {
		r.Replicas = append(r.Replicas, placement.None)
	}
	r.IDs, r.Generations = append(r.IDs, d.ID), append(r.Generations, d.Generation)
	r.Keys = append(r.Keys, d.Span.Start...)
	r.KeyEnds = append(r.KeyEnds, uint32(len(r.Keys)))
	r.Leaders, r.Flags, r.Bytes, r.CPU = append(r.Leaders, leader), append(r.Flags, flags), append(r.Bytes, bytes), append(r.CPU, float32(load.GetCpuNs()))
	r.Peak.CPU, r.Peak.Writes = append(r.Peak.CPU, float32(load.GetPeakCpuNs())), append(r.Peak.Writes, perSecond(load.GetPeakWritesMilli()))
	m.addSample(int32(r.Len()-1), load)
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

// place is where a range is in the columns.
func (m *snapshotMaker) place(id shard.RangeID) (int32, bool) {
	d, known := m.ranges.Get(id)
	if !known {
		return 0, false
	}
	return int32(m.s.Ranges.Find(d.Span.Start)), true
}

func (m *snapshotMaker) nodeAt(n shard.NodeID) int16 {
	if at, known := m.places[n]; known && n != 0 {
		return at
	}
	return placement.None
}

// addOp adds an op that is under way.
func (m *snapshotMaker) addOp(op *shard.Op) {
	i, there := m.place(op.Range)
	if !there {
		return
	}
	run := placement.Running{ID: uint64(op.ID), Range: i, Right: placement.None, From: placement.None, To: placement.None, Leader: placement.None, Rule: ruleOf(op.Reason)}
	switch op.Kind {
	case shard.OpSplit:
		run.Kind, run.Begun = placement.KindSplit, true
	case shard.OpMerge:
		right, there := m.place(op.Child)
		if !there {
			return
		}
		run.Kind, run.Right, run.Begun = placement.KindMerge, right, true
	case shard.OpMove:
		run.Kind, run.From, run.To = placement.KindMove, m.nodeAt(op.From.Node), m.nodeAt(op.To.Node)
		run.Begun = m.s.Ranges.Generations[i] > op.Generation
		if r := &m.s.Ranges; r.Leaders[i] >= 0 && r.Row(int(i))[r.Leaders[i]] == run.From {
			run.Leader = run.To
		}
	}
	m.s.Running = append(m.s.Running, run)
}

func (m *snapshotMaker) addHandOver(o handOver) {
	if i, there := m.place(o.id); there {
		to := m.nodeAt(o.to)
		m.s.Running = append(m.s.Running, placement.Running{Kind: placement.KindTransfer, Range: i, Right: placement.None, From: m.nodeAt(o.from), To: to, Leader: to, Rule: o.rule})
	}
}

// addPast adds what was done to ranges lately.
func (m *snapshotMaker) addPast() {
	s := m.s
	for id, d := range m.past {
		i, there := m.place(id)
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
