package meta

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// fleet are nodes, and the ranges' leaders, as their logs have them.
type fleet struct {
	mu      sync.Mutex
	truth   *shard.Map
	leader  map[shard.RangeID]shard.NodeID
	term    uint64
	silent  map[shard.NodeID]bool
	asked   map[shard.NodeID]int
	stuck   bool // moves wait
	unborn  bool // nobody leads what is cut off
	asks    []string
	load    map[shard.RangeID]*pb.RangeLoad
	cpu     map[shard.NodeID]uint32         // in thousandths
	handing func(*pb.TransferRequest) error // before a lead goes; nil: it does
}

// Call implements Nodes.
func (f *fleet) Call(_ context.Context, node shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent[node] {
		return nil, shard.ErrUnavailable
	}
	switch {
	case req.NodeStatus != nil:
		f.asked[node]++
		resp := &pb.NodeStatusResponse{NodeId: uint64(node), CpuPermille: f.cpu[node], CoresMilli: 4000}
		for d := range f.truth.All() {
			if r, here := d.ReplicaOn(node); here && f.leader[d.ID] == node {
				resp.Ranges = append(resp.Ranges, &pb.RangeStatusResponse{Descriptor_: pb.FromDescriptor(d), Leader: uint64(r.ID), Term: f.term, SizeInUse: 1 << 10, Load: f.load[d.ID]})
			}
		}
		return &pb.PeerResponse{NodeStatus: resp}, nil
	case req.Transfer != nil:
		id := shard.RangeID(req.Transfer.RangeId)
		f.asks = append(f.asks, fmt.Sprintf("r%d from %d to %d", id, node, req.Transfer.Node))
		if f.handing != nil {
			if err := f.handing(req.Transfer); err != nil {
				return nil, err
			}
		}
		if f.leader[id] != node {
			return nil, &shard.NotLeaderError{Range: id}
		}
		f.leader[id] = shard.NodeID(req.Transfer.Node)
		f.term++
		return &pb.PeerResponse{Transfer: &pb.TransferResponse{LeaderNode: req.Transfer.Node, Term: f.term}}, nil
	}
	return nil, shard.ErrUnimplemented
}

// change carries a move out at once, as RangeOps.
func (f *fleet) change(req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.truth.Get(shard.RangeID(req.RangeId))
	if ok && req.Split != nil {
		next, err := f.truth.Split(d.ID, req.Split.At, shard.RangeID(req.Split.Child), pb.ToReplicas(req.Split.Replicas))
		if err != nil {
			return nil, err
		}
		f.truth = next
		left, _ := next.Get(d.ID)
		right, _ := next.Get(shard.RangeID(req.Split.Child))
		if !f.unborn {
			f.leader[right.ID] = f.leader[d.ID]
		}
		return &pb.ChangeResponse{Range: pb.FromDescriptor(left), Child: pb.FromDescriptor(right), Outcome: uint32(shard.ChangeDone)}, nil
	}
	if ok && req.Merge != nil {
		return f.merge(d, req)
	}
	if !ok || req.Move == nil {
		return nil, fmt.Errorf("%w: %v", shard.ErrInvalid, req)
	}
	in := pb.ToReplica(req.Move.In)
	d.Replicas = slices.Clone(d.Replicas)
	switch {
	case req.GiveUp:
		d.Generation++
		next, err := f.truth.Apply(d)
		if err != nil {
			return nil, err
		}
		f.truth = next
		return &pb.ChangeResponse{Range: pb.FromDescriptor(d), Outcome: uint32(shard.ChangeGivenUp)}, nil
	case f.stuck:
		return &pb.ChangeResponse{Range: pb.FromDescriptor(d), Outcome: uint32(shard.ChangeWaits), Waiting: "for a reason of the test's"}, nil
	}
	if !slices.ContainsFunc(d.Replicas, func(r shard.Replica) bool { return r.ID == in.ID }) {
		out := shard.NodeID(0)
		d.Replicas = slices.DeleteFunc(d.Replicas, func(r shard.Replica) bool {
			if uint64(r.ID) == req.Move.Out {
				out = r.Node
			}
			return uint64(r.ID) == req.Move.Out
		})
		if in.Node != 0 {
			d.Replicas = append(d.Replicas, in)
		}
		if f.leader[d.ID] == out {
			f.leader[d.ID] = d.Replicas[0].Node
		}
		d.Generation += 3
		next, err := f.truth.Apply(d)
		if err != nil {
			return nil, err
		}
		f.truth = next
	}
	return &pb.ChangeResponse{Range: pb.FromDescriptor(d), Outcome: uint32(shard.ChangeDone)}, nil
}

// merge makes a range's right neighbour a part of it, or makes that impossible.
func (f *fleet) merge(d shard.Descriptor, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	right, ok := f.truth.Get(shard.RangeID(req.Merge.Right))
	if !ok || !shard.SameNodes(d.Replicas, right.Replicas) {
		return nil, fmt.Errorf("%w: %v is on %v, %v on %v", shard.ErrInvalid, d.ID, d.Replicas, right.ID, right.Replicas)
	}
	outcome := shard.ChangeGivenUp
	if d.Generation++; !req.GiveUp {
		outcome = shard.ChangeDone
		d.Span.End, d.Generation = right.Span.End, max(d.Generation, right.Generation+1)
	}
	next, err := f.truth.Apply(d)
	if err != nil {
		return nil, err
	}
	f.truth = next
	return &pb.ChangeResponse{Range: pb.FromDescriptor(d), Outcome: uint32(outcome)}, nil
}

// moving is RangeOps of a fleet.
type moving struct {
	*fakeRanges
	f *fleet
}

// Change implements RangeOps.
func (m moving) Change(_ context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	return m.f.change(req)
}

// plannedEnv is a leader with five members, and so many ranges on the first three. Each leads as many as the others.
type plannedEnv struct {
	*env
	f    *fleet
	wall time.Time
}

func newPlannedEnv(t *testing.T, ranges int, edit func(*Config)) *plannedEnv {
	e := &plannedEnv{f: &fleet{leader: map[shard.RangeID]shard.NodeID{}, silent: map[shard.NodeID]bool{}, asked: map[shard.NodeID]int{}, term: 1},
		wall: time.UnixMilli(1_700_000_000_000)}
	b := placement.Bootstrap(placement.Layout{Members: testMembers, SplitKeys: shard.SplitKeys(ranges), ReplicationFactor: 3})
	b.ClusterId = 77
	members := append(slices.Clone(testMembers), shard.Member{ID: 4, Name: "four"}, shard.Member{ID: 5, Name: "five"})
	b.Members = pb.FromMembers(members)
	for _, m := range b.Members {
		m.Formats = uint32(clusterversion.Newest)
	}
	truth, err := shard.NewMap(1, pb.ToDescriptors(b.Ranges))
	if err != nil {
		t.Fatal(err)
	}
	e.f.truth = truth
	for d := range truth.All() {
		e.f.leader[d.ID] = leaderOf(d.ID)
	}
	e.env = newEnv(t, func(c *Config) {
		c.Bootstrap, c.Ranges = b, moving{c.Ranges.(*fakeRanges), e.f}
		c.Placement = Placement{Mode: placement.ModeRepair, Nodes: e.f, DeadAfter: time.Minute, Alive: func(n shard.NodeID) bool {
			e.f.mu.Lock()
			defer e.f.mu.Unlock()
			return !e.f.silent[n]
		}}
		c.Wall = func() time.Time { return e.wall.Add(e.now().Sub(time.Unix(1_000_000, 0))) }
		edit(c)
	})
	e.lead(6)
	e.advance(0) // raises the version
	e.settle()
	e.leased()
	return e
}

// drain has a member emptied.
func (e *plannedEnv) drain(n shard.NodeID) {
	e.t.Helper()
	e.must(&pb.PeerRequest{ChangeMember: &pb.ChangeMemberRequest{Change: uint32(shard.MemberDrain), Id: uint64(n)}})
}

func (e *plannedEnv) set(change func(f *fleet)) {
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	change(e.f)
}

// rest waits until no round is under way, nor a lead being handed over, nor, unless they are stuck, an op.
func (e *plannedEnv) rest() {
	e.t.Helper()
	e.until("the planner rests", func() bool {
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		e.f.mu.Lock()
		defer e.f.mu.Unlock()
		return e.m.planner.round == nil && len(e.m.planner.handing) == 0 && e.m.ops.running == 0 && (e.f.stuck || len(e.m.ops.open) == 0)
	})
}

// pass lets time go by, a second at a time, and returns the ops that were begun, as far as they are remembered.
func (e *plannedEnv) pass(d time.Duration) []shard.Op {
	e.t.Helper()
	for ; d > 0; d -= time.Second {
		e.advance(min(d, time.Second))
		e.leased()
		e.rest()
	}
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.m.state.Ops()
}

// TestPlannedReplaces: the replicas of a node that is silent for long enough are replaced, each by an op that says why; one that comes back
// in time is left alone.
func TestPlannedReplaces(t *testing.T) {
	e := newPlannedEnv(t, 2, func(*Config) {})
	e.pass(planEvery + time.Second)
	e.set(func(f *fleet) { f.silent[3], f.leader[2], f.leader[3], f.term = true, 1, 1, 2 })
	if ops := e.pass(50 * time.Second); len(ops) != 0 {
		t.Fatalf("after less than a minute: %+v", ops)
	}
	e.set(func(f *fleet) { f.silent[3] = false })
	if ops := e.pass(2 * time.Minute); len(ops) != 0 {
		t.Fatalf("it came back: %+v", ops)
	}
	e.set(func(f *fleet) { f.silent[3] = true })
	ops := e.pass(90 * time.Second)
	if len(ops) != 2 {
		t.Fatalf("%+v", ops)
	}
	for _, op := range ops {
		if op.Outcome() != shard.OpDone || op.From.Node != 3 || op.To.Node < 4 || op.Reason != "by replace: node 3 is gone, 2 of 3 replicas live" {
			t.Errorf("%+v", op)
		}
	}
	for d := range e.m.state.Map().All() {
		if _, still := d.ReplicaOn(3); still || len(d.Replicas) != 3 {
			t.Errorf("%+v", d)
		}
	}
}

// TestPlannedSuspects: a node that does not answer and that gossip has alive keeps its replicas for twice as long.
func TestPlannedSuspects(t *testing.T) {
	e := newPlannedEnv(t, 2, func(c *Config) { c.Placement.Alive = nil })
	e.pass(planEvery + time.Second)
	e.set(func(f *fleet) { f.silent[3] = true })
	if ops := e.pass(110 * time.Second); len(ops) != 0 {
		t.Fatalf("%+v", ops)
	}
	if ops := e.pass(30 * time.Second); len(ops) != 2 {
		t.Fatalf("%+v", ops)
	}
}

// TestPlannedOnceInAWhile: nodes are asked every ten seconds, and every second while something is under way.
func TestPlannedOnceInAWhile(t *testing.T) {
	e := newPlannedEnv(t, 2, func(*Config) {})
	e.pass(planEvery + 2*time.Second) // the map that it begins with is news
	was := e.f.asked[1]
	if e.pass(time.Minute); e.f.asked[1] != was+6 {
		t.Errorf("asked %d times in a minute", e.f.asked[1]-was)
	}
	e.set(func(f *fleet) { f.silent[3], f.stuck = true, true })
	e.pass(75 * time.Second)
	was = e.f.asked[1]
	if e.pass(10 * time.Second); e.f.asked[1] != was+10 {
		t.Errorf("asked %d times in ten seconds", e.f.asked[1]-was)
	}
}

// TestPlannedSoonAsksNobody: rounds that begin soon after one another go by what nodes have said to the first of them.
func TestPlannedSoonAsksNobody(t *testing.T) {
	e := newPlannedEnv(t, 2, func(*Config) {})
	e.pass(planEvery + 2*time.Second)
	was := e.f.asked[1]
	for range int(planEvery/time.Second) + 1 {
		if e.f.asked[1] != was {
			break
		}
		e.pass(time.Second)
	}
	was++
	for range 5 {
		e.m.mu.Lock()
		e.m.planner.hurry(planSoon)
		e.m.mu.unlock()
		e.advance(planSoon)
		e.leased()
		e.rest()
	}
	if e.f.asked[1] != was {
		t.Errorf("asked %d times within half a second", e.f.asked[1]-was)
	}
}

// TestPlannedGivesUp: a move to a node that dies is given up, and another begins.
func TestPlannedGivesUp(t *testing.T) {
	e := newPlannedEnv(t, 1, func(*Config) {})
	e.pass(planEvery + time.Second)
	e.set(func(f *fleet) { f.silent[3], f.stuck = true, true })
	ops := e.pass(75 * time.Second)
	if len(ops) != 1 || ops[0].Outcome() != shard.OpUnderWay {
		t.Fatalf("%+v", ops)
	}
	to := ops[0].To.Node
	e.set(func(f *fleet) { f.silent[to] = true })
	ops = e.pass(75 * time.Second)
	if len(ops) < 1 || ops[0].Outcome() != shard.OpGivenUp || !strings.Contains(ops[0].Failure, "where it goes, is dead") {
		t.Fatalf("%+v", ops)
	}
	e.set(func(f *fleet) { f.stuck = false })
	ops = e.pass(30 * time.Second)
	if last := ops[len(ops)-1]; last.Outcome() != shard.OpDone || last.To.Node == to || last.To.Node < 4 {
		t.Fatalf("%+v", ops)
	}
}

// TestPlannedDrains: a node that is to be empty loses its leads first, in quick succession, and then its replicas, also where nothing is
// done that nobody has asked for.
func TestPlannedDrains(t *testing.T) {
	for _, mode := range []placement.Mode{placement.ModeOff, placement.ModeRepair} {
		t.Run(mode.String(), func(t *testing.T) {
			e := newPlannedEnv(t, 6, func(c *Config) { c.Placement.Mode = mode })
			e.pass(planEvery + time.Second)
			e.drain(1)
			e.pass(30 * time.Second)
			for d := range e.m.state.Map().All() {
				if _, still := d.ReplicaOn(1); still || len(d.Replicas) != 3 {
					t.Errorf("%+v", d)
				}
			}
			e.m.mu.Lock()
			ops := e.m.state.Ops()
			e.m.mu.Unlock()
			for _, op := range ops {
				if op.From.Node != 1 || op.Reason != "by drain: node 1 is to be empty" {
					t.Errorf("%+v", op)
				}
			}
			for _, ask := range e.f.asks[:2] { // it has led two
				if !strings.Contains(ask, "from 1 to ") {
					t.Errorf("%v", e.f.asks)
				}
			}
		})
	}
}

// TestPlannedLeads: leads are evened out by asking those that lead; one that has just changed is left alone, and one that cannot be handed
// over is asked for again after a while, and then a longer one.
func TestPlannedLeads(t *testing.T) {
	one := func(e *plannedEnv) (n int) {
		e.f.mu.Lock()
		defer e.f.mu.Unlock()
		for _, l := range e.f.leader {
			if l == 1 {
				n++
			}
		}
		return n
	}
	onThree := func(c *Config) {
		c.Placement.Mode, c.Bootstrap.Members = placement.ModeOn, c.Bootstrap.Members[:3]
	}
	t.Run("evened out", func(t *testing.T) {
		e := newPlannedEnv(t, 6, onThree)
		e.set(func(f *fleet) {
			for id := range f.leader {
				f.leader[id] = 1
			}
		})
		e.pass(15 * time.Second)
		if n := one(e); n > 3 || len(e.f.asks) > 4 {
			t.Errorf("node 1 leads %d of 6, after %v", n, e.f.asks)
		}
	})
	t.Run("just changed", func(t *testing.T) {
		e := newPlannedEnv(t, 6, onThree)
		e.pass(2 * planEvery)
		e.set(func(f *fleet) {
			f.term = 9
			for id := range f.leader {
				f.leader[id] = 1
			}
		})
		e.pass(100 * time.Second)
		for _, ask := range e.f.asks {
			if !strings.HasPrefix(ask, "r3 ") && !strings.HasPrefix(ask, "r6 ") { // which it has led before
				t.Errorf("%v", e.f.asks)
			}
		}
		if e.pass(time.Minute); one(e) > 3 {
			t.Errorf("later: %v", e.f.asks)
		}
	})
	t.Run("in vain", func(t *testing.T) {
		e := newPlannedEnv(t, 1, func(c *Config) { c.Placement.Mode = placement.ModeOff })
		e.pass(planEvery)
		e.set(func(f *fleet) { f.handing = func(*pb.TransferRequest) error { return shard.ErrTimeout } })
		e.drain(leaderOf(2))
		if e.pass(60 * time.Second); len(e.f.asks) < 4 || len(e.f.asks) > 7 {
			t.Errorf("asked %d times in a minute", len(e.f.asks))
		}
	})
}

// TestPlannedSoon: behind a lead that was handed over the next round follows at once, on what nodes have told before.
func TestPlannedSoon(t *testing.T) {
	e := newPlannedEnv(t, 12, func(c *Config) { c.Placement.Mode = placement.ModeOff })
	e.set(func(f *fleet) {
		for id := range f.leader {
			f.leader[id] = 1
		}
	})
	e.drain(1)
	e.pass(time.Second)
	was := e.f.asked[1]
	for range 10 {
		e.advance(planSoon)
		e.leased()
		e.rest()
	}
	if len(e.f.asks) != 12 || e.f.asked[1] > was+2 {
		t.Errorf("%v, nodes asked %d times", e.f.asks, e.f.asked[1]-was)
	}
}

// TestPlannedHot: a busy range is cut where its leader says that half of the load lies before, if its node has much to do; where nothing parts
// it, it is left alone for five minutes, and then for ten, and that is said.
func TestPlannedHot(t *testing.T) {
	hot := func(points ...*pb.LoadPoint) *pb.RangeLoad {
		return &pb.RangeLoad{CpuNs: 8e8, PeakCpuNs: 8e8, LowCpuNs: 8e8, LowWritesMilli: 9_000_000, KnownS: 60, Points: points}
	}
	start := func(l *pb.RangeLoad) *plannedEnv {
		e := newPlannedEnv(t, 1, func(c *Config) { c.Placement.Mode, c.Bootstrap.Members = placement.ModeOn, c.Bootstrap.Members[:3] })
		e.set(func(f *fleet) {
			f.load, f.cpu = map[shard.RangeID]*pb.RangeLoad{2: l}, map[shard.NodeID]uint32{leaderOf(2): 900}
		})
		return e
	}
	far := &pb.LoadPoint{Key: []byte("c"), Left: 100}
	e := start(hot(far, &pb.LoadPoint{Key: []byte("k"), Left: 450, Cross: 10}, &pb.LoadPoint{Key: []byte("m"), Left: 500, Cross: 400}))
	ops := e.pass(3 * time.Second)
	if len(ops) != 1 || string(ops[0].Key) != "k" || !strings.HasPrefix(ops[0].Reason, "by load: 80 % of a processor and 9000 writes a second") {
		t.Errorf("%+v", ops)
	}
	e = start(hot(far))
	if ops := e.pass(299 * time.Second); len(ops) != 0 || StatsOfPlans(e.m).Unsplittable != 1 {
		t.Errorf("%+v, %+v", ops, StatsOfPlans(e.m))
	}
	e.pass(20 * time.Second)
	e.m.mu.Lock()
	d := e.m.planner.past[2]
	e.m.mu.Unlock()
	if d.backoffFor != 600 {
		t.Errorf("left alone for %d s the second time", d.backoffFor)
	}
}

// TestPlannedHearsOfParts: who leads a part is asked for every second until somebody says so, for some seconds: what is to be done next with a busy
// range depends on it.
func TestPlannedHearsOfParts(t *testing.T) {
	e := newPlannedEnv(t, 1, func(c *Config) { c.Placement.Mode, c.Bootstrap.Members = placement.ModeOn, c.Bootstrap.Members[:3] })
	l := &pb.RangeLoad{CpuNs: 8e8, PeakCpuNs: 8e8, LowCpuNs: 8e8, KnownS: 60, Points: []*pb.LoadPoint{{Key: []byte("k"), Left: 500}}}
	e.set(func(f *fleet) {
		f.load, f.cpu, f.unborn = map[shard.RangeID]*pb.RangeLoad{2: l}, map[shard.NodeID]uint32{leaderOf(2): 1000}, true
	})
	e.pass(3 * time.Second)
	e.set(func(f *fleet) { f.load = nil })
	was := e.f.asked[1]
	if e.pass(6 * time.Second); e.f.asked[1] < was+5 {
		t.Errorf("asked %d times in six seconds", e.f.asked[1]-was)
	}
	e.pass(10 * time.Second)
	was = e.f.asked[1]
	if e.pass(20 * time.Second); e.f.asked[1] > was+3 {
		t.Errorf("asked %d times in twenty seconds, of what nobody will lead", e.f.asked[1]-was)
	}
}

// TestPlannedMerges: neighbours that are small and idle become one, but over borders that stay; where they lie on different nodes one is
// moved first. No more are merged than make the cluster what it was at first, and none that anything was done to a moment ago.
func TestPlannedMerges(t *testing.T) {
	idle := func(seconds uint32) *pb.RangeLoad { return &pb.RangeLoad{KnownS: seconds} }
	start := func(first int) *plannedEnv {
		e := newPlannedEnv(t, first, func(c *Config) { c.Placement.Mode, c.Placement.MergeAfter = placement.ModeOn, time.Minute })
		e.set(func(f *fleet) { f.load = map[shard.RangeID]*pb.RangeLoad{} })
		for key, sticky := range map[string]int64{"b": 0, "d": -1, "f": 0, "h": 0} {
			e.must(&pb.PeerRequest{BeginOp: &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte(key), StickyS: sticky}}})
			e.rest()
		}
		return e
	}
	known := func(e *plannedEnv, seconds uint32) {
		e.set(func(f *fleet) {
			for d := range f.truth.All() {
				f.load[d.ID] = idle(seconds)
			}
		})
	}
	borders := func(e *plannedEnv) (out string) {
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		for d := range e.m.state.Map().All() {
			out += string(d.Span.Start) + " "
		}
		return out
	}
	e := start(1)
	known(e, 3600)
	if e.pass(50 * time.Second); borders(e) != " b d f h " {
		t.Fatalf("too early: %q", borders(e))
	}
	for range 40 {
		known(e, 50)
		e.pass(10 * time.Second)
	}
	if borders(e) != " b d f h " {
		t.Fatalf("by a load that is not known: %q", borders(e))
	}
	for range 200 {
		known(e, 60)
		e.pass(10 * time.Second)
	}
	if borders(e) != " d " {
		t.Errorf("not merged: %q", borders(e))
	}
	e.m.mu.Lock()
	ops := e.m.state.Ops()
	e.m.mu.Unlock()
	aligned := false
	for _, op := range ops {
		aligned = aligned || strings.HasPrefix(op.Reason, "by align: ")
		if op.Outcome() != shard.OpDone {
			t.Errorf("%+v", op)
		}
		if op.Kind == shard.OpMerge && op.Reason != "by merge: 0 MiB together, and idle" {
			t.Errorf("%+v", op)
		}
	}
	if !aligned {
		t.Errorf("nothing had to be moved: %+v", ops)
	}
	e = start(5)
	for range 200 {
		known(e, 60)
		e.pass(10 * time.Second)
	}
	if n := strings.Count(borders(e), " "); n != 5 {
		t.Errorf("%d ranges are left of 5 that were asked for: %q", n, borders(e))
	}
}

// TestPlannedDry: what would be done is told, and not done; in any mode.
func TestPlannedDry(t *testing.T) {
	e := newPlannedEnv(t, 2, func(c *Config) { c.Placement.Mode = placement.ModeOff })
	e.pass(planEvery)
	e.set(func(f *fleet) { f.silent[3] = true })
	ask := func(mode string) *pb.PlanResponse {
		t.Helper()
		return e.must(&pb.PeerRequest{Plan: &pb.PlanRequest{Mode: mode}}).Plan
	}
	if p := ask("repair"); p.Mode != "repair" || p.Acts != "off" || len(p.Ops) != 0 || len(p.Nodes) != 5 || p.Nodes[2].State != "dead" || p.Nodes[0].State != "up" {
		t.Errorf("%v", p)
	}
	e.set(func(f *fleet) {
		for id := range f.leader {
			f.leader[id] = 1
		}
	})
	p := ask("on")
	if p.Mode != "on" || p.Acts != "off" || len(p.Ops) == 0 || p.Ops[0].Text == "" || p.Ops[0].Why == "" || p.Ops[0].Kind == "" {
		t.Errorf("%v", p)
	}
	if n := p.Nodes[0]; n.Ranges != 2 || n.Leads != 2 || n.Bytes != 2<<10 || p.Nodes[1].Leads != 0 || p.Nodes[1].Ranges != 2 || p.Nodes[4].Ranges != 0 {
		t.Errorf("%v", p.Nodes)
	}
	if p := ask(""); p.Mode != "off" || len(p.Ops) != 0 {
		t.Errorf("%v", p)
	}
	e.m.mu.Lock()
	e.m.planner.layout = &planLayout{}
	e.m.mu.unlock()
	only := e.must(&pb.PeerRequest{Plan: &pb.PlanRequest{Mode: "on", NodesOnly: true}}).Plan
	if len(only.Ops) != 0 || len(only.Nodes) != len(p.Nodes) || e.m.planner.layout.version.Load() != 0 {
		t.Errorf("the nodes alone, without a plan: %v", only)
	}
	for i, n := range p.Nodes {
		if o := only.Nodes[i]; o.NodeId != n.NodeId || o.Ranges != n.Ranges || o.Leads != n.Leads || o.Bytes != n.Bytes || o.State != n.State {
			t.Errorf("alone it is %v, and beside a plan %v", o, n)
		}
	}
	if _, err := e.call(&pb.PeerRequest{Plan: &pb.PlanRequest{Mode: "some"}}); err == nil || !strings.Contains(err.Error(), "on, repair or off") {
		t.Errorf("%v", err)
	}
	if ops := e.pass(time.Second); len(ops) != 0 || len(e.f.asks) != 0 {
		t.Errorf("done: %v, %v", ops, e.f.asks)
	}
}
