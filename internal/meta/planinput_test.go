package meta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// inputOf is a cluster of four members and two ranges on the first three; node 1 leads both, and has told of them.
func inputOf(t *testing.T) *planInput {
	t.Helper()
	replicas := func(first shard.ReplicaID) []shard.Replica {
		return []shard.Replica{{ID: first, Node: 1}, {ID: first + 1, Node: 2}, {ID: first + 2, Node: 3}}
	}
	m, err := shard.NewMap(1, []shard.Descriptor{
		{ID: 2, Span: shard.Span{End: []byte("m")}, Generation: 5, Replicas: replicas(1)},
		{ID: 3, Span: shard.Span{Start: []byte("m")}, Generation: 7, Replicas: replicas(4)},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := &planInput{now: 1000, ranges: m, factor: 3, past: past{}, leads: map[shard.RangeID]led{},
		members: []shard.Member{{ID: 1, Locality: "zone=a"}, {ID: 2, State: shard.MemberDraining}, {ID: 3, State: shard.MemberLeaving}, {ID: 4, Learner: true}}}
	told := map[shard.NodeID]*pb.NodeStatusResponse{1: {DiskFree: 70, DiskUsed: 30, CpuPermille: 250, CoresMilli: 4000}}
	for d := range m.All() {
		told[1].Ranges = append(told[1].Ranges, &pb.RangeStatusResponse{Descriptor_: pb.FromDescriptor(d), Leader: uint64(d.Replicas[0].ID), Term: 6, SizeInUse: 100})
	}
	c := &Placement{}
	c.setDefaults()
	in.heard, _ = (*heard)(nil).hear([]shard.NodeID{1, 2, 3, 4}, told, c, time.Time{}, in.now)
	return in
}

func snapshotOf(in *planInput) *placement.Snapshot {
	c := &Placement{}
	c.setDefaults()
	l := in.limits(c, placement.ModeOn)
	in.layout = &planLayout{}
	return in.snapshot(&l)
}

func rowOf(s *placement.Snapshot, i int) (ids []shard.NodeID) {
	for _, n := range s.Ranges.Row(i) {
		if n >= 0 {
			ids = append(ids, s.Nodes[n].ID)
		}
	}
	return ids
}

// TestPlannerInput: the columns say what is known.
func TestPlannerInput(t *testing.T) {
	in := inputOf(t)
	in.past.note(3, func(d *deed) { d.moved, d.led, d.cut = 900, 901, 902 })
	in.past.failed(3, placement.KindMove, 995)
	s := snapshotOf(in)
	if n := s.Nodes; len(n) != 4 || n[0].Locality != "zone=a" || n[0].DiskFree != 70 || n[0].DiskUsed != 30 || n[0].CPU != 0.25 || n[0].Cores != 4 ||
		n[0].Liveness != placement.Up || n[1].Liveness != placement.Suspect || !n[1].Draining || !n[2].Removed || !n[3].Learner {
		t.Errorf("%+v", s.Nodes)
	}
	r := &s.Ranges
	if r.Len() != 2 || r.Width != 3 || !slices.Equal(rowOf(s, 1), []shard.NodeID{1, 2, 3}) || r.Leaders[0] != 0 || r.Bytes[1] != 100 ||
		string(r.Start(1)) != "m" || r.Generations[1] != 7 || r.At.Moved[1] != 900 || r.At.Led[1] != 901 || r.At.Cut[1] != 902 {
		t.Errorf("%+v", r)
	}
	if len(s.Vain) != 1 || s.Vain[0] != (placement.Vain{Range: 1, Kind: placement.KindMove, Until: 1005}) {
		t.Errorf("%+v", s.Vain)
	}
}

// TestPlannerInputOfALoad: what a leader tells of the load is in the columns, and known once it was watched for long enough.
func TestPlannerInputOfALoad(t *testing.T) {
	in := inputOf(t)
	in.heard.told[1].Ranges[1].Load = &pb.RangeLoad{CpuNs: 7e8, PeakCpuNs: 9e8, PeakWritesMilli: 5_000_000, LowCpuNs: 6e8, LowWritesMilli: 3_000_000, KnownS: 30,
		TailPermille: 120, Points: []*pb.LoadPoint{{Key: []byte("p"), Left: 480, Cross: 20}}}
	in.heard.told[1].Ranges[0].Load = &pb.RangeLoad{CpuNs: 10, KnownS: 20, LowCpuNs: 10}
	s := snapshotOf(in)
	r := &s.Ranges
	if r.CPU[1] != 7e8 || r.Peak.CPU[1] != 9e8 || r.Peak.Writes[1] != 5000 || r.Flags[1]&placement.LoadUnknown != 0 || r.Flags[0]&placement.LoadUnknown == 0 {
		t.Errorf("%+v", r)
	}
	if len(s.Samples) != 1 {
		t.Fatalf("%+v", s.Samples)
	}
	if c := s.Samples[0]; c.Range != 1 || c.CPU != 6e8 || c.Writes != 3000 || c.Tail != 0.12 || len(c.Points) != 1 || string(c.Points[0].Key) != "p" ||
		c.Points[0].Left != 0.48 || c.Points[0].Cross != 0.02 {
		t.Errorf("%+v", c)
	}
}

// TestPlannerInputOfMerges: which borders stay, whose load has been watched for long enough, and who was brought beside a neighbour.
func TestPlannerInputOfMerges(t *testing.T) {
	in := inputOf(t)
	in.heard.told[1].Ranges[0].Load, in.heard.told[1].Ranges[1].Load = &pb.RangeLoad{KnownS: 590}, &pb.RangeLoad{KnownS: 600}
	in.past.ended(&shard.Op{Kind: shard.OpMove, Range: 3, Ended: sizesEpoch*1000 + 50_000, Reason: "by align: to lie where r2 does, for a merge"})
	in.past.ended(&shard.Op{Kind: shard.OpMerge, Range: 2, Child: 9, Ended: sizesEpoch*1000 + 990_000, Failure: "for a reason of the test's"})
	r := func(bs ...state.Border) *placement.Ranges {
		in.borders = bs
		return &snapshotOf(in).Ranges
	}
	if got := r(); got.Flags[0]&placement.LoadShort == 0 || got.Flags[1] != placement.MovedToAlign || got.At.Sticky[1] != 0 {
		t.Errorf("%+v", got)
	}
	if got := r(state.Border{Key: []byte("l"), Until: shard.Forever}, state.Border{Key: []byte("m"), Until: shard.Forever}); got.At.Sticky[0] != 0 || got.At.Sticky[1] != placement.Forever {
		t.Errorf("%+v", got.At.Sticky)
	}
	if got := r(state.Border{Key: []byte("m"), Until: (sizesEpoch + 2000) * 1000}); got.At.Sticky[1] != 2001 {
		t.Errorf("%+v", got.At.Sticky)
	}
	if got := r(state.Border{Key: []byte("m"), Until: shard.Forever - 1}); got.At.Sticky[1] < 1<<29 {
		t.Errorf("%+v", got.At.Sticky)
	}
	if v := snapshotOf(in).Vain; len(v) != 1 || v[0] != (placement.Vain{Range: 0, Kind: placement.KindMerge, Until: 1050}) {
		t.Errorf("%+v", v)
	}
	c := &Placement{SplitBytes: 8 << 20, MergeAfter: time.Minute}
	if l := in.limits(c, placement.ModeOn); l.Merge.RangesMin < 1<<40 || l.Merge.Bytes != 2<<20 || l.Merge.Cooldown != 60 {
		t.Errorf("%+v", l.Merge)
	}
	in.first = 7
	if l := in.limits(c, placement.ModeOn); l.Merge.RangesMin != 7 {
		t.Errorf("%+v", l.Merge)
	}
}

// TestPlannerInputOfAMove: a range that is being moved is, for the plan, where it was when that began, whatever its configuration is by
// now; and what was told of it at an earlier generation counts.
func TestPlannerInputOfAMove(t *testing.T) {
	op := shard.Op{ID: 9, Kind: shard.OpMove, Range: 2, Generation: 5, From: shard.Replica{ID: 2, Node: 2}, To: shard.Replica{ID: 8, Node: 4}, Reason: "by drain: node 2 is to be empty"}
	in := inputOf(t)
	in.ops = []shard.Op{op}
	d, _ := in.ranges.Get(2)
	one, two, three := d.Replicas[0], d.Replicas[1], d.Replicas[2]
	learns := shard.Replica{ID: 8, Node: 4, Role: shard.Learner}
	for i, step := range [][]shard.Replica{
		{one, two, three}, {one, two, three, learns}, {one, {ID: 2, Node: 2, Role: shard.Leaving}, three, {ID: 8, Node: 4, Role: shard.Joining}}, {one, three, {ID: 8, Node: 4}},
	} {
		d.Replicas, d.Generation = step, 5+shard.Generation(i)
		m, err := in.ranges.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		in.ranges = m
		s := snapshotOf(in)
		row := rowOf(s, 0)
		slices.Sort(row)
		if !slices.Equal(row, []shard.NodeID{1, 2, 3}) || s.Ranges.Bytes[0] != 100 || s.Ranges.Leaders[0] != 0 {
			t.Errorf("step %d: %v, %+v", i, row, s.Ranges)
		}
		run := s.Running
		if len(run) != 1 || run[0].ID != 9 || run[0].Kind != placement.KindMove || run[0].Range != 0 || run[0].From != 1 || run[0].To != 3 ||
			run[0].Rule != placement.RuleDrain || run[0].Begun != (i > 0) {
			t.Errorf("step %d: %+v", i, run)
		}
	}
}

// TestPlannerInputOfALead: a lead that has gone since the nodes were asked is where it went.
func TestPlannerInputOfALead(t *testing.T) {
	in := inputOf(t)
	in.leads[2], in.leads[3] = led{node: 3, term: 7}, led{node: 3, term: 5} // who leads r3 has told of a later term
	in.handing = []handOver{{id: 3, from: 1, to: 2, rule: placement.RuleLead}}
	s := snapshotOf(in)
	if s.Ranges.Leaders[0] != 2 || s.Ranges.Bytes[0] != 100 || s.Ranges.Leaders[1] != 0 {
		t.Errorf("%+v", s.Ranges)
	}
	if len(s.Running) != 1 || s.Running[0].Kind != placement.KindTransfer || s.Running[0].Range != 1 || s.Running[0].From != 0 || s.Running[0].To != 1 {
		t.Errorf("%+v", s.Running)
	}
}

// TestPlannerInputOfAMerge: both ranges take part in it, and what came of one is known as that.
func TestPlannerInputOfAMerge(t *testing.T) {
	in := inputOf(t)
	in.ops = []shard.Op{{ID: 4, Kind: shard.OpMerge, Range: 2, Child: 3}}
	in.past.ended(&shard.Op{Kind: shard.OpMerge, Range: 2, Child: 9, Ended: sizesEpoch*1000 + 50_000})
	s := snapshotOf(in)
	if len(s.Running) != 1 || s.Running[0].Kind != placement.KindMerge || s.Running[0].Range != 0 || s.Running[0].Right != 1 {
		t.Errorf("%+v", s.Running)
	}
	if s.Ranges.Flags[0]&placement.CutByMerge == 0 || s.Ranges.Flags[1]&placement.CutByMerge != 0 || s.Ranges.At.Cut[0] != 50 {
		t.Errorf("%+v", s.Ranges)
	}
}

// TestPlannerInputOfWhoIsGone: what a node holds that is no member any more is to go.
func TestPlannerInputOfWhoIsGone(t *testing.T) {
	in := inputOf(t)
	in.members = in.members[:2]
	s := snapshotOf(in)
	if len(s.Nodes) != 3 || s.Nodes[2].ID != 3 || !s.Nodes[2].Removed || !slices.Equal(rowOf(s, 0), []shard.NodeID{1, 2, 3}) {
		t.Errorf("%+v", s.Nodes)
	}
	if got := holders(in.members, in.ranges); !slices.Equal(got, []shard.NodeID{1, 2, 3}) {
		t.Errorf("%v are asked", got)
	}
}

// TestPlannerPulse: since when a node is silent, and what it is taken for.
func TestPlannerPulse(t *testing.T) {
	const deadAfter = 60
	var p pulse
	for i, c := range []struct {
		now             placement.Seconds
		answered, alive bool
		want            pulse
	}{
		{10, false, true, pulse{placement.Suspect, 10, 0}}, // nobody has ever heard of it
		{20, true, true, pulse{placement.Up, 20, 0}},
		{30, true, false, pulse{placement.Up, 20, 0}},
		{33, false, false, pulse{placement.Up, 20, 33}}, // one answer that does not come says nothing yet
		{36, true, true, pulse{placement.Up, 20, 0}},
		{38, false, true, pulse{placement.Up, 20, 38}},
		{40, false, true, pulse{placement.Suspect, 38, 0}},
		{50, false, false, pulse{placement.Dead, 38, 0}},
		{60, false, true, pulse{placement.Suspect, 38, 0}},
		{157, false, true, pulse{placement.Suspect, 38, 0}},
		{158, false, true, pulse{placement.Dead, 38, 0}},
		{170, true, false, pulse{placement.Up, 170, 0}},
	} {
		if p = p.next(i > 0, c.answered, c.alive, c.now, deadAfter); p != c.want {
			t.Errorf("%d: %+v, want %+v", i, p, c.want)
		}
	}
}

// TestPlannerHearsLateNodes: what a node has told before stands while it is only late, and no longer.
func TestPlannerHearsLateNodes(t *testing.T) {
	c := &Placement{}
	c.setDefaults()
	asked := []shard.NodeID{1, 2}
	led := &pb.RangeStatusResponse{Descriptor_: pb.FromDescriptor(shard.Descriptor{ID: 7, Replicas: []shard.Replica{{ID: 1, Node: 2}}}), Leader: 1, Term: 6}
	told := func(nodes ...shard.NodeID) map[shard.NodeID]*pb.NodeStatusResponse {
		out := map[shard.NodeID]*pb.NodeStatusResponse{}
		for _, n := range nodes {
			if out[n] = (&pb.NodeStatusResponse{}); n == 2 {
				out[n].Ranges = []*pb.RangeStatusResponse{led}
			}
		}
		return out
	}
	var h *heard
	for i, words := range []map[shard.NodeID]*pb.NodeStatusResponse{told(1, 2), told(1), told(1)} {
		h, _ = h.hear(asked, words, c, time.Time{}, placement.Seconds(10+i))
		if got, want := h.leaders[7].node == 2, i < 2; got != want || (h.pulses[2].liveness == placement.Up) != want {
			t.Errorf("round %d: the range is led: %v, its node is %+v", i, got, h.pulses[2])
		}
	}
}

// TestPlannerPast: what is long ago is forgotten, and what is remembered has a bound.
func TestPlannerPast(t *testing.T) {
	p := past{}
	p.led(2, 100)
	p.backOff(3, &placement.Op{Until: 400, For: 3000})
	if got := p.recent(100 + pastKept); len(got) != 2 {
		t.Errorf("%v", got)
	}
	if got := p.recent(101 + pastKept); len(got) != 1 || got[3].backoff != 400 {
		t.Errorf("%v", got)
	}
	for i := range shard.RangeID(pastMax + 5) {
		p.led(10+i, 7)
	}
	if len(p) != pastMax {
		t.Errorf("%d", len(p))
	}
	if p.led(3, 8); p[3].led != 8 {
		t.Errorf("%+v", p[3])
	}
	ops := []shard.Op{
		{Kind: shard.OpSplit, Range: 20, Child: 21, Ended: sizesEpoch*1000 + 50_000},
		{Kind: shard.OpSplit, Range: 22, Ended: sizesEpoch*1000 + 50_000, Failure: "x"},
		{Kind: shard.OpMove, Range: 23, Ended: sizesEpoch*1000 + 50_000},
		{Kind: shard.OpMove, Range: 24, Ended: sizesEpoch*1000 + 50_000, Failure: "x"},
		{Kind: shard.OpMove, Range: 24, Ended: sizesEpoch*1000 + 70_000, Failure: "x"},
	}
	p = past{}
	for i := range ops {
		p.ended(&ops[i])
	}
	if p[20].cut != 50 || p[21].cut != 50 || p[22].vainSplit.until != 650 || p[23].moved != 50 || p[24].moved != 70 || p[24].vainMove.until != 90 {
		t.Errorf("%+v", p)
	}
}

// BenchmarkPlannerInput is what the snapshot of a hundred thousand ranges on a hundred nodes costs.
func BenchmarkPlannerInput(b *testing.B) {
	const nodes, ranges = 100, 100_000
	in := &planInput{now: 1000, factor: 3, past: past{}, leads: map[shard.RangeID]led{}}
	told := map[shard.NodeID]*pb.NodeStatusResponse{}
	for n := range shard.NodeID(nodes) {
		in.members = append(in.members, shard.Member{ID: n + 1})
		told[n+1] = &pb.NodeStatusResponse{}
	}
	var ds []shard.Descriptor
	for i := range ranges {
		d := shard.Descriptor{ID: shard.RangeID(i + 2), Generation: 1, Span: shard.Span{Start: fmt.Appendf(nil, "tenant/%08d", i), End: fmt.Appendf(nil, "tenant/%08d", i+1)}}
		if i == 0 {
			d.Span.Start = nil
		}
		if i == ranges-1 {
			d.Span.End = nil
		}
		for k := range 3 {
			d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(3*i + k + 1), Node: shard.NodeID((i+k*7)%nodes + 1)})
		}
		ds = append(ds, d)
		leader := told[d.Replicas[0].Node]
		leader.Ranges = append(leader.Ranges, &pb.RangeStatusResponse{Descriptor_: pb.FromDescriptor(d), Leader: uint64(d.Replicas[0].ID), Term: 6, Load: &pb.RangeLoad{KnownS: 60}})
	}
	m, err := shard.NewMap(1, ds)
	if err != nil {
		b.Fatal(err)
	}
	in.ranges = m
	c := &Placement{}
	c.setDefaults()
	b.Run("hear", func(b *testing.B) {
		for b.Loop() {
			in.heard, _ = (*heard)(nil).hear(holders(in.members, m), told, c, time.Time{}, in.now)
		}
	})
	b.Run("hear-again", func(b *testing.B) {
		for b.Loop() {
			in.heard, _ = in.heard.hear(holders(in.members, m), told, c, time.Time{}, in.now)
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		for b.Loop() {
			snapshotOf(in)
		}
	})
	b.Run("snapshot-again", func(b *testing.B) { // with a dozen ranges that have moved
		l := in.limits(c, placement.ModeOn)
		for b.Loop() {
			in.since, in.changed = in.ranges.Version(), in.changed[:0]
			for k := range 12 {
				in.changed = append(in.changed, ds[k*1000].ID)
			}
			in.snapshot(&l)
		}
	})
	s := snapshotOf(in)
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			placement.Plan(s, c.limits(placement.ModeOn), in.now)
		}
	})
}

// TestPlannerLayout: columns that are kept and follow the changes of the map are those that are made anew, whatever splits, merges, begins to
// move, gets on or goes away.
func TestPlannerLayout(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	in := inputOf(t)
	for n := shard.NodeID(5); n < 9; n++ {
		in.members = append(in.members, shard.Member{ID: n})
	}
	kept, rebuilt, next := &planLayout{}, 0, shard.RangeID(10)
	row := func(s *placement.Snapshot) (out []string) {
		for i, id := range s.Ranges.IDs {
			on := rowOf(s, i)
			slices.Sort(on)
			lead := shard.NodeID(0)
			if l := s.Ranges.Leaders[i]; l >= 0 {
				lead = s.Nodes[s.Ranges.Row(i)[l]].ID
			}
			out = append(out, fmt.Sprint(id, s.Ranges.Generations[i], on, lead, string(s.Ranges.Start(i)), s.Ranges.Bytes[i], s.Ranges.Flags[i]))
		}
		for _, run := range s.Running {
			out = append(out, fmt.Sprint(run.ID, run.Kind, run.Range, run.Begun, run.From >= 0)) // where it goes may be a node that nobody else knows
		}
		return out
	}
	for step := range 2000 {
		var changed []shard.RangeID
		apply := func(ds ...shard.Descriptor) {
			m, err := in.ranges.Apply(ds...)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range ds {
				changed = append(changed, d.ID)
				for old := range in.ranges.Overlapping(d.Span) {
					changed = append(changed, old.ID)
				}
			}
			in.ranges = m.WithVersion(in.ranges.Version() + 1)
		}
		all := slices.Collect(in.ranges.All())
		k := rnd.IntN(len(all))
		d := all[k]
		d.Replicas = slices.Clone(d.Replicas)
		switch what := rnd.IntN(8); {
		case what == 0 && len(all) < 40:
			at := append(slices.Clone(d.Span.Start), byte('a'+rnd.IntN(20)))
			if d.Span.Contains(at) && len(at) < 6 {
				right := shard.Descriptor{ID: next, Span: shard.Span{Start: at, End: d.Span.End}, Generation: d.Generation + 1, Replicas: d.Replicas}
				next++
				d.Span.End, d.Generation = at, d.Generation+1
				apply(d, right)
			}
		case what == 1 && k > 0 && len(all) > 3:
			left := all[k-1]
			left.Span.End, left.Generation = d.Span.End, max(left.Generation, d.Generation)+1
			apply(left)
		case what == 2:
			in.ops = nil
		case what == 3:
			in.ops = []shard.Op{{ID: 9, Kind: shard.OpMove, Range: d.ID, Generation: d.Generation, From: d.Replicas[0], To: shard.Replica{ID: 99, Node: shard.NodeID(5 + rnd.IntN(5))}}}
		case what == 4 && len(in.ops) > 0:
			if d, there := in.ranges.Get(in.ops[0].Range); there { // it has a learner more, or is over
				d.Replicas = slices.Clone(d.Replicas)
				d.Generation++
				if rnd.IntN(2) == 0 && len(d.Replicas) < 6 {
					d.Replicas = append(d.Replicas, shard.Replica{ID: in.ops[0].To.ID + shard.ReplicaID(step), Node: in.ops[0].To.Node, Role: shard.Learner})
				} else {
					d.Replicas[0].Node = shard.NodeID(1 + rnd.IntN(9))
					in.ops = nil
				}
				apply(d)
			}
		case what == 5 && rnd.IntN(10) == 0 && len(in.members) > 4:
			in.members = slices.Delete(slices.Clone(in.members), 4, 5)
		}
		if in.layout = kept; kept.version.Load() != 0 && rnd.IntN(30) > 0 {
			in.since, in.changed = kept.version.Load(), changed
		} else {
			in.since, in.changed = 0, nil
		}
		pos := fmt.Sprintf("%p", kept.pos)
		l := placement.DefaultLimits()
		got := row(in.snapshot(&l))
		if fmt.Sprintf("%p", kept.pos) != pos {
			rebuilt++
		}
		if want := row(snapshotOf(in)); !slices.Equal(got, want) {
			t.Fatalf("step %d:\n%s\nwant\n%s", step, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if rebuilt > 1000 || rebuilt < 50 {
		t.Errorf("made anew %d times of 2000", rebuilt)
	}
}
